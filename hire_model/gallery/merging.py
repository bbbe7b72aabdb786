"""Join rows of several segments into a new one, without encoding anything."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.data.schema import PICTURES
from hire_model.gallery.format import ANCHORS, CAPTIONS, IMAGES, VECTORS, SegmentFacts, StoreFacts, list_store_files
from hire_model.gallery.metadata import write_metadata
from hire_model.gallery.segment import Segment, StoreFiles
from hire_model.gallery.writing import SHARD, describe_segment, join_arrays, link_pictures, replace_column, take_rows


def merge_segments(
    folder: Path, name: str, parts: Sequence[tuple[Segment, np.ndarray]], metadata: Sequence[str | None]
) -> SegmentFacts:
    """Write one segment in `folder` from rows of others.

    Args:
        folder: is created.
        name: of the new segment.
        parts: segments, and the rows of their images to keep, ascending.
        metadata: of these images.
    """
    folder.mkdir(parents=True)
    tables: list[dict[str, pa.Table]] = []
    captions: list[np.ndarray] = []
    for segment, rows in parts:
        described = np.flatnonzero(np.isin(segment.tables.caption_images, rows)) if segment.captions else None
        tables.append(take_rows(segment.folder, rows, described))
        captions.append(np.empty(0, np.int64) if described is None else described)
    for table, merged in _concatenate(tables).items():
        pq.write_table(merged, folder / f"{table}.parquet", compression="zstd")
    write_metadata(folder, metadata)
    link_pictures(folder, [link.resolve() for segment, _ in parts for link in (segment.folder / PICTURES).glob("*")])
    vector_size = parts[0][0].facts.vector_size
    if vector_size:
        shutil.copyfile(parts[0][0].folder / ANCHORS, folder / ANCHORS)
        np.save(folder / VECTORS, np.concatenate([segment.images.vectors[rows] for segment, rows in parts]))
    images = _merge_stores(folder, IMAGES, [(segment.images, rows) for segment, rows in parts])
    files = [(segment.captions, rows) for (segment, _), rows in zip(parts, captions, strict=True) if segment.captions]
    described_captions = _merge_stores(folder, CAPTIONS, files) if files else None
    return describe_segment(folder, name, images, described_captions, vector_size)


def _concatenate(parts: list[dict[str, pa.Table]]) -> dict[str, pa.Table]:
    """Concatenate the tables of several segments. Columns that are row numbers are shifted."""
    moved = {IMAGES: {"first_region": "regions", "first_relation": "relations"}, CAPTIONS: {"image": IMAGES}}
    before = dict.fromkeys(parts[0], 0)
    shifted: dict[str, list[pa.Table]] = {name: [] for name in parts[0]}
    for tables in parts:
        for name, table in tables.items():
            for column, target in moved.get(name, {}).items():
                table = replace_column(table, column, table[column].to_numpy() + before[target])
            shifted[name].append(table)
        before = {name: count + len(tables[name]) for name, count in before.items()}
    return {name: pa.concat_tables(found) for name, found in shifted.items()}


def _merge_stores(folder: Path, name: str, parts: Sequence[tuple[StoreFiles, np.ndarray]]) -> StoreFacts:
    records, lengths_file, summary = (folder / file for file in list_store_files(name))
    lengths = np.concatenate([part.lengths[rows] for part, rows in parts])
    np.save(lengths_file, lengths)
    np.save(summary, np.concatenate([part.summary[rows] for part, rows in parts]))
    numbers = int(sum(part.sizes[rows].sum() for part, rows in parts))
    blocks = (part.copy_records(rows[i : i + SHARD]) for part, rows in parts for i in range(0, len(rows), SHARD))
    join_arrays(records, numbers, blocks)
    return parts[0][0].facts.model_copy(update={"items": len(lengths), "fragments": int(lengths.sum())})

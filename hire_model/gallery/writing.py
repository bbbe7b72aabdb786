"""Write the files of a segment: encoded items shard by shard, tables, metadata, and links to the picture files.

An interrupted segment continues at the current shard, if it is the same model, data set and split: its folder contains
a key of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank
from hire_model.data.schema import PICTURES, TABLES, hash_file
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.files import atomic_write
from hire_model.gallery.anchors import Anchors
from hire_model.gallery.format import (
    ANCHORS,
    CAPTIONS,
    IMAGES,
    VECTORS,
    SegmentFacts,
    StoreFacts,
    list_files,
    list_store_files,
)
from hire_model.gallery.metadata import write_metadata
from hire_model.gallery.segment import count_numbers, get_sizes
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, map_names, split_into_blocks
from hire_model.workers import THIS_PROCESS, Workers

log = logging.getLogger(__name__)
SHARD = 1024
"""Items in a shard: the most that an interruption makes the next build encode again."""

_KEY, _PARTS, _SEGMENT = "key.json", "parts", "segment"
_Items = EncodedImages | EncodedTexts


@dataclass(frozen=True)
class StoreSource:
    """The items of a store: a function that encodes blocks of rows, and the sizes for StoreFacts.

    `reopen` makes the same source in another process. `embed` makes the vectors of encoded items if the gallery has
    anchors.
    """

    name: str
    items: int
    sizes: dict[str, int]
    encode: Callable[[Iterable[range]], Iterator[_Items]]
    reopen: Callable[[], StoreSource]
    embed: Callable[[EncodedImages], Tensor] | None = None


def list_sources(model: Hire, split: Split, captions: bool, anchor_file: Path | None = None) -> list[StoreSource]:
    """Return the sources of the images of a split, and of its captions if wanted."""
    return [
        _open_images(model, split, Anchors.load(anchor_file) if anchor_file else None),
        *([_open_captions(model, split)] if captions else []),
    ]


def _open_images(model: Hire, split: Split, anchors: Anchors | None) -> StoreSource:
    encode = partial(encode_image_blocks, model, split, maps=map_names(model, split))
    reopen = partial(_open_images, model, split, anchors)
    embed = anchors.make_embedder(model) if anchors else None
    return StoreSource(IMAGES, len(split.images), get_sizes(model, IMAGES), encode, reopen, embed)


def _open_captions(model: Hire, split: Split) -> StoreSource:
    bank = CaptionBank.from_lists(model.vocabulary.encode(split.texts))
    encode = partial(encode_text_blocks, model, bank)
    reopen = partial(_open_captions, model, split)
    return StoreSource(CAPTIONS, len(split.captions), get_sizes(model, CAPTIONS), encode, reopen)


def open_partial(folder: Path, key: dict[str, str]) -> None:
    """Create `folder` for an unfinished segment, or keep it if it has this key. One with another key is deleted."""
    if folder.exists():
        if (folder / _KEY).is_file() and json.loads((folder / _KEY).read_text("utf-8")) == key:
            log.info("Continuing an interrupted build of this gallery.")
            return
        log.info("%s belongs to another model, data set or split; starting again.", folder)
        shutil.rmtree(folder)
    (folder / _PARTS).mkdir(parents=True)
    (folder / _PARTS / _KEY).write_text(json.dumps(key, indent=1) + "\n", "utf-8")
    os.replace(folder / _PARTS / _KEY, folder / _KEY)


def write_segment(
    work: Path, name: str, sources: Sequence[StoreSource], tables: dict[str, pa.Table], pictures: Iterable[Path],
    metadata: Sequence[str | None], shard: int = SHARD, workers: Workers = THIS_PROCESS,
    anchor_file: Path | None = None,
) -> tuple[Path, SegmentFacts, int]:  # fmt: skip
    """Write a segment into a folder below `work`. Shards that an interrupted call has encoded are not encoded again.

    Args:
        work: from `open_partial`.
        name: of the segment.
        sources: the images, and the captions if the gallery has them.
        tables: by name, as in a data set; picture paths are those below the links.
        pictures: folders with picture files; each becomes a link.
        metadata: JSON text of each image, or None.
        shard: items per shard.
        workers: where items are encoded.
        anchor_file: the anchors, if the first source embeds images with them.

    Returns:
        The folder, facts for the manifest, and the number of items that were encoded.
    """
    folder, stores, encoded = work / _SEGMENT, {}, 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for source in sources:
        stores[source.name], count = _write_store(folder, source, shard, workers)
        encoded += count
    for table, rows in tables.items():
        pq.write_table(rows, folder / f"{table}.parquet", compression="zstd")
    write_metadata(folder, metadata)
    link_pictures(folder, pictures)
    numbers = 0
    if anchor_file:
        shutil.copyfile(anchor_file, folder / ANCHORS)
        numbers = np.load(folder / VECTORS, mmap_mode="r").shape[1]
    return folder, describe_segment(folder, name, stores[IMAGES], stores.get(CAPTIONS), numbers), encoded


def describe_segment(
    folder: Path, name: str, images: StoreFacts, captions: StoreFacts | None, vector_size: int
) -> SegmentFacts:
    """Compute the digests of the files of a segment in `folder`. vector_size: 0 without anchors."""
    files = show_progress(list_files(captions is not None, vector_size > 0), "digests")
    digests = {file: hash_file(folder / file) for file in files}
    return SegmentFacts(name=name, images=images, captions=captions, files=digests, vector_size=vector_size)


def _write_store(folder: Path, source: StoreSource, shard: int, workers: Workers) -> tuple[StoreFacts, int]:
    """Encode the missing shards, then join all shards into one file each of records, lengths and summaries."""
    items = source.items
    paths = [folder.parent / _PARTS / f"{source.name}-{number:05d}.npy" for number in range(-(-items // shard))]
    spans = [range(number * shard, min((number + 1) * shard, items)) for number in range(len(paths))]
    missing = [(span, path) for span, path in zip(spans, paths, strict=True) if not path.is_file()]
    start = source.reopen if workers.parallel else lambda: source
    if missing:
        done = workers.run(start, _encode_shard, missing)
        for _ in show_progress(done, f"encode {source.name}", len(missing)):
            pass
    lengths = np.concatenate([np.load(_name_side(path, "lengths")) for path in paths])
    facts = StoreFacts(items=items, fragments=int(lengths.sum()), **source.sizes)
    records, lengths_file, summary = (folder / file for file in list_store_files(source.name))
    np.save(lengths_file, lengths)
    np.save(summary, np.concatenate([np.load(_name_side(path, "summary")) for path in paths]))
    if source.embed:
        np.save(folder / VECTORS, np.concatenate([np.load(_name_side(path, "vectors")) for path in paths]))
    numbers = count_numbers(source.name, facts, lengths.astype(np.int64)).sum()
    join_arrays(records, int(numbers), (np.load(path, mmap_mode="r") for path in paths))
    return facts, sum(len(span) for span, _ in missing)


@torch.inference_mode()
def _encode_shard(source: StoreSource, shard: tuple[range, Path]) -> None:
    """Encode a range of items into a file, unless a process that died afterwards has written it."""
    span, path = shard
    if not path.is_file():
        _write_shard(path, list(source.encode(split_into_blocks(span))), source.embed)


def join_arrays(path: Path, numbers: int, arrays: Iterable[np.ndarray]) -> None:
    """Write 1-D float16 arrays with `numbers` numbers in total one after the other into one npy file."""
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (numbers,)}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            array.tofile(file)


def _name_side(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.stem}-{kind}.npy")


def _write_shard(path: Path, parts: list[_Items], embed: Callable[[EncodedImages], Tensor] | None) -> None:
    """Write one shard. The records come last, because their file marks the shard as complete."""
    arrays = {
        _name_side(path, "lengths"): torch.cat([part.mask.sum(dim=1) for part in parts]).int(),
        _name_side(path, "summary"): torch.cat([part.summary for part in parts]).half(),
        path: torch.cat([_flatten(part.extract(row)) for part in parts for row in range(len(part))]).half(),
    }
    if not torch.isfinite(arrays[path]).all():
        raise HireError(
            "An encoding of an image or caption exceeds the range of half precision, so a gallery cannot store it. "
            "Check the features of the data set: hire data validate DATASET."
        )
    if embed:
        vectors = torch.cat([embed(part) for part in parts if isinstance(part, EncodedImages)]).half()
        arrays = {_name_side(path, "vectors"): vectors} | arrays
    for target, tensor in arrays.items():
        with atomic_write(target) as partial_file:
            np.save(partial_file, tensor.cpu().numpy())


def _flatten(item: _Items) -> Tensor:
    """Flatten one item, without padding, into its record; `read_rows` of the stores reverses this."""
    pieces: tuple[Tensor | None, ...] = (
        (item.regions, item.edges, item.shares) if isinstance(item, EncodedImages) else (item.words, item.roles)
    )
    return torch.cat([piece.flatten() for piece in pieces if piece is not None])


def take_split(split: Split, captions: bool) -> tuple[dict[str, pa.Table], list[Path]]:
    """Return the split's rows of the data set's tables, and the folder with its picture files, if there is one."""
    source = split.dataset.folder
    tables = take_rows(source, split.images, split.captions if captions else None)
    folder = (source / PICTURES).resolve()
    if not folder.is_dir():
        return tables, []
    paths = [None if name is None else f"{_name_link(folder)}/{name}" for name in tables[IMAGES]["picture"].to_pylist()]
    tables[IMAGES] = replace_column(tables[IMAGES], "picture", paths)
    return tables, [folder]


def take_rows(folder: Path, images: np.ndarray, captions: np.ndarray | None) -> dict[str, pa.Table]:
    """Return rows of the tables in `folder`: `images` with regions and relations, and `captions` of these images."""
    table = pq.read_table(folder / "images.parquet", schema=TABLES[IMAGES]).take(pa.array(images))
    tables = {}
    for name, first, count in (
        ("regions", "first_region", "n_regions"),
        ("relations", "first_relation", "n_relations"),
    ):
        firsts, counts = table[first].to_numpy(), table[count].to_numpy().astype(np.int64)
        new_firsts = np.cumsum(counts) - counts
        rows = np.repeat(firsts - new_firsts, counts) + np.arange(counts.sum())
        tables[name] = pq.read_table(folder / f"{name}.parquet", schema=TABLES[name]).take(pa.array(rows))
        table = replace_column(table, first, new_firsts)
    tables[IMAGES] = table
    if captions is not None:
        described = pq.read_table(folder / "captions.parquet", schema=TABLES[CAPTIONS]).take(pa.array(captions))
        position = {int(image): row for row, image in enumerate(images)}
        owners = [position[image] for image in described["image"].to_pylist()]
        tables[CAPTIONS] = replace_column(described, "image", owners)
    return tables


def replace_column(table: pa.Table, name: str, values: Sequence | np.ndarray) -> pa.Table:
    """Return `table` with other values in the column `name`, of the same type."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def _name_link(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def link_pictures(folder: Path, pictures: Iterable[Path]) -> None:
    """Make a link to each folder of `pictures` in the pictures/ folder of the segment in `folder`."""
    (folder / PICTURES).mkdir(exist_ok=True)
    for target in pictures:
        link = folder / PICTURES / _name_link(target)
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)

"""Checking a data set in the project's format, without ever holding a features file in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.data.schema import FEATURES, TABLES, Manifest, SplitCounts, sha256_of
from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.progress import track

BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Finding:
    """One fault, or one thing to know: which file, what is wrong, how often and where first."""

    level: Literal["error", "warning"]
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.file}: {self.message}"


def verify(folder: str | Path) -> list[Finding]:
    """All findings on the data set in `folder`, errors first; an empty list means that all is well.

    Reads every byte: digests, then tables, then features in blocks of 64 MiB. Tables are held in memory, as training
    holds them. A folder without a manifest is an error finding too.
    """
    folder = Path(folder).expanduser()
    try:
        manifest = Manifest.read(folder)
    except DataError as error:
        return [Finding("error", "manifest.json", str(error))]
    found = list(_files(folder, manifest)) or list(_schemas(folder))
    if not found:
        data = Dataset(folder, manifest)
        found = list(_images(data))
        # the other checks follow the images' spans, which must be sound for that
        if not any(finding.level == "error" for finding in found):
            for check in (_captions, _regions, _relations, _features, _pictures):
                found += check(data)
    return sorted(found, key=lambda finding: finding.level != "error")


def _files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Missing files, and files that are not what the manifest says."""
    for name in [*(f"{table}.parquet" for table in TABLES), FEATURES]:
        path, facts = folder / name, manifest.files.get(name)
        if facts is None:
            yield Finding("error", name, "not named in the manifest. Make or import the data set again.")
        elif not path.is_file():
            yield Finding("error", name, "named in the manifest, but missing. Make or import the data set again.")
        elif path.stat().st_size != facts.bytes:
            yield Finding("error", name, f"{path.stat().st_size:,} bytes; the manifest says {facts.bytes:,}.")
        elif sha256_of(path).sha256 != facts.sha256:
            yield Finding("error", name, "SHA-256 differs from the manifest's: the content was changed or damaged.")


def _schemas(folder: Path) -> Iterator[Finding]:
    for name, schema in TABLES.items():
        try:
            have = pq.read_schema(folder / f"{name}.parquet")
        except (OSError, pa.ArrowException) as error:
            yield Finding("error", f"{name}.parquet", f"not a Parquet file: {error}")
            continue
        if not have.equals(schema):
            yield Finding("error", f"{name}.parquet", f"columns are {have.names}; expected {schema.names}, same types.")


def _rows(file: str, bad: np.ndarray, what: str, level: Literal["error", "warning"] = "error") -> Iterator[Finding]:
    """One finding for all rows where `bad` is True."""
    rows = np.flatnonzero(bad)
    if len(rows):
        yield Finding(level, file, f"{what}: {len(rows):,} of {len(bad):,} rows, first row {rows[0]}.")


def _images(data: Dataset) -> Iterator[Finding]:
    """Ids, spans that lie end to end, and the manifest's counts."""
    file = "images.parquet"
    ids, spans = data.image_ids, data._spans
    seen = Counter(ids.tolist())
    yield from _rows(file, np.array([not i or seen[i] > 1 for i in ids.tolist()]), "empty or repeated image_id")
    yield from _rows(file, spans[:, 1] < 1, "an image without regions")
    for first, count, name in ((0, 1, "regions"), (2, 3, "relations")):
        starts = np.concatenate([[0], np.cumsum(spans[:, count])])
        yield from _rows(file, spans[:, first] != starts[:-1], f"first_{name.removesuffix('s')} out of order")
        rows = pq.read_metadata(data.folder / f"{name}.parquet").num_rows
        if rows != starts[-1]:
            yield Finding("error", f"{name}.parquet", f"{rows:,} rows; the images name {starts[-1]:,}.")
    owners = data.caption_images
    yield from _rows("captions.parquet", (owners < 0) | (owners >= len(ids)), "a caption whose image is not there")
    if ((owners >= 0) & (owners < len(ids))).all():
        yield from _counts(data)


def _counts(data: Dataset) -> Iterator[Finding]:
    splits, spans, owners = data._image_splits, data._spans, data.caption_images
    for name in sorted({*data.manifest.splits, *splits.tolist()}):
        own = splits == name
        have = SplitCounts(
            images=int(own.sum()),
            captions=int(own[owners].sum()),
            regions=int(spans[own, 1].sum()),
            relations=int(spans[own, 3].sum()),
        )
        said = data.manifest.splits.get(name)
        if have != said:
            yield Finding("error", "manifest.json", f"split '{name}': the tables hold {have!r}, the manifest {said!r}.")
    yield from _rows("images.parquet", np.bincount(owners, minlength=len(splits)) == 0, "an image without a caption")


def _captions(data: Dataset) -> Iterator[Finding]:
    """Empty captions; the same text in two splits or at two images, where no model can tell which is meant."""
    file, texts = "captions.parquet", data.caption_texts.tolist()
    yield from _rows(file, np.array([not (text and text.strip()) for text in texts], bool), "an empty caption")
    plain = [" ".join((text or "").lower().split()) for text in texts]
    splits, owners = data._image_splits[data.caption_images].tolist(), data.caption_images.tolist()
    for what, keys in (("a caption that another split has too", splits), ("a caption of two images", owners)):
        places: dict[str, set[object]] = {}
        for text, key in zip(plain, keys, strict=True):
            places.setdefault(text, set()).add(key)
        yield from _rows(file, np.array([len(places[text]) > 1 for text in plain], bool), what, "warning")


def _regions(data: Dataset) -> Iterator[Finding]:
    """Boxes, classes and scores."""
    file, boxes, scores = "regions.parquet", data.boxes, data.scores
    absent = np.all(np.isnan(boxes), axis=1)
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=1)
    yield from _rows(file, ~absent & ~inside, "a box outside 0-1, or with a part missing")
    area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    yield from _rows(file, ~absent & inside & ~area, "a box without area")
    classes, known = data.classes, len(data.manifest.classes)
    yield from _rows(file, (classes < -1) | (classes >= known), f"class_id is neither -1 nor below {known}")
    yield from _rows(file, ~np.isnan(scores) & ~((scores >= 0) & (scores <= 1)), "a score outside 0-1")


def _relations(data: Dataset) -> Iterator[Finding]:
    """Ends within the image, no self-loops, known predicates, scores."""
    file, edges, scores = "relations.parquet", data.relations, data.relation_scores
    regions = np.repeat(data._spans[:, 1], data._spans[:, 3])
    ends, known = edges[:, [0, 2]], len(data.manifest.predicates)
    yield from _rows(file, np.any((ends < 0) | (ends >= regions[:, None]), axis=1), "an end that is no region")
    yield from _rows(file, edges[:, 0] == edges[:, 2], "a region related to itself")
    yield from _rows(file, (edges[:, 1] < 0) | (edges[:, 1] >= known), f"predicate is not below {known}")
    yield from _rows(file, ~((scores >= 0) & (scores <= 1)), "a score outside 0-1")


def _features(data: Dataset) -> Iterator[Finding]:
    """Shape, finite numbers, zero rows; images of two splits that are the same picture."""
    try:
        shape, dtype = data.features.shape, data.features.dtype
    except ValueError as error:
        yield Finding("error", FEATURES, f"not a whole npy file: {error}")
        return
    wanted = (int(data._spans[:, 1].sum()), data.manifest.feature_dim)
    if shape != wanted or dtype != data.manifest.feature_dtype:
        yield Finding("error", FEATURES, f"{dtype} {shape}; expected {data.manifest.feature_dtype} {wanted}.")
        return
    bad, empty = np.zeros(shape[0], bool), np.zeros(shape[0], bool)
    digests: list[bytes] = []

    def look(first: int, block: np.ndarray, counts: np.ndarray) -> None:
        rows = slice(first, first + len(block))
        bad[rows], empty[rows] = ~np.isfinite(block).all(axis=1), ~block.any(axis=1)
        for image, end in zip(counts, np.cumsum(counts), strict=True):
            content = np.ascontiguousarray(block[end - image : end]).tobytes()
            boxes = data.boxes[first + end - image : first + end].tobytes()
            digests.append(hashlib.blake2b(content + boxes, digest_size=16).digest())

    _by_blocks(data, look)
    yield from _rows(FEATURES, bad, "a feature that is NaN or infinite")
    yield from _rows(FEATURES, empty, "a region whose features are all zero")
    splits: dict[bytes, set[str]] = {}
    for digest, split in zip(digests, data._image_splits.tolist(), strict=True):
        splits.setdefault(digest, set()).add(split)
    shared = np.array([len(splits[digest]) > 1 for digest in digests], bool)
    yield from _rows("images.parquet", shared, "an image whose regions another split has too", "warning")


def _by_blocks(data: Dataset, look: Callable[[int, np.ndarray, np.ndarray], None]) -> None:
    """Call `look(first row, features of some whole images, regions per image)` over all images, in order.

    Read with fromfile, not from the mapping: mapped pages would count as this process's memory.
    """
    counts, dim, dtype = data._spans[:, 1], data.features.shape[1], data.features.dtype
    block = np.cumsum(counts, dtype=np.int64) * dim * dtype.itemsize // BLOCK_BYTES
    groups = np.split(counts, np.flatnonzero(np.diff(block)) + 1)
    with (data.folder / FEATURES).open("rb") as file:
        file.seek(data.features.offset)  # type: ignore[attr-defined]
        first = 0
        for group in track(groups, "reading features", len(groups)):
            rows = int(group.sum())
            look(first, np.fromfile(file, dtype, rows * dim).reshape(rows, dim), group)
            first += rows


def _pictures(data: Dataset) -> Iterator[Finding]:
    names = data._pictures
    missing = np.array([bool(name) and data.picture(row) is None for row, name in enumerate(names)], bool)
    yield from _rows("pictures/", missing, "a picture that is named but not there", "warning")

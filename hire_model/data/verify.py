"""Check that a data set is complete and unchanged, and that all indices between its files are valid.

The suites in `expectations/` check the content: captions, boxes, features, leaks between splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.data.blocks import hash_blocks
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, Manifest, SplitCounts, hash_file
from hire_model.data.store import Dataset
from hire_model.errors import DataError

_MAY_BE_NULL = ("picture",)


@dataclass(frozen=True)
class Finding:
    """One fault: the file, what is wrong, the number of rows and the first row."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"error: {self.file}: {self.message}"


def verify(folder: str | Path) -> list[Finding]:
    """Return all faults of the data set in `folder`; an empty list if it is complete.

    This reads every byte to compute the digests, then the table columns that point into other files. A missing manifest
    is a finding too.
    """
    folder = Path(folder).expanduser()
    try:
        manifest = Manifest.read(folder)
    except DataError as error:
        return [Finding("manifest.json", str(error))]
    findings = list(_check_files(folder, manifest)) or list(_check_schemas(folder))
    if not findings:
        data = Dataset(folder, manifest)
        findings = [*_check_names(manifest), *_check_images(data), *_check_features(data)]
    return findings


def _check_files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Yield a finding for each file that is missing or differs from the manifest."""
    required = [*(f"{table}.parquet" for table in TABLES), FEATURES]
    for name in [*required, *(name for name in manifest.files if name not in required)]:
        path, facts = folder / name, manifest.files.get(name)
        if facts is None:
            yield Finding(name, "not listed in the manifest. Generate or import the data set again.")
        elif not path.is_file():
            yield Finding(name, "listed in the manifest, but missing. Generate or import the data set again.")
        elif path.stat().st_size != facts.bytes:
            yield Finding(name, f"{path.stat().st_size:,} bytes. Expected {facts.bytes:,}, as in the manifest.")
        else:
            yield from _check_digests(path, manifest)


def _check_digests(path: Path, manifest: Manifest) -> Iterator[Finding]:
    """Compare one file with its SHA-256, and its blocks if the manifest lists them."""
    stated = manifest.blocks.get(path.name)
    if stated is None:
        sha256, blocks = hash_file(path).sha256, None
    else:
        sha256, blocks = hash_blocks(path, stated.bytes_per_block)
    if sha256 != manifest.files[path.name].sha256:
        yield Finding(path.name, "SHA-256 differs from the manifest: the content was changed or damaged.")
    elif blocks != stated:
        yield Finding(
            MANIFEST, f"the digests of blocks of {path.name} were changed: the file itself is as it was written."
        )


def _check_schemas(folder: Path) -> Iterator[Finding]:
    for name, schema in TABLES.items():
        try:
            actual = pq.read_schema(path := folder / f"{name}.parquet")
        except (OSError, pa.ArrowException) as error:
            yield Finding(f"{name}.parquet", f"not a Parquet file: {error}")
            continue
        if not actual.equals(schema):
            yield Finding(f"{name}.parquet", f"columns are {actual.names}. Expected {schema.names}, same types.")
            continue
        for column in schema.names:
            values = pq.read_table(path, columns=[column])[column]
            if values.null_count and column not in _MAY_BE_NULL:
                yield from _report_rows(path.name, values.is_null().to_numpy(), f"no value for {column}", values)


def _report_rows(file: str, bad: np.ndarray, what: str, values: Sequence[Any] | np.ndarray) -> Iterator[Finding]:
    """Yield one finding for all rows where `bad` is True; it quotes the first wrong value."""
    rows = np.flatnonzero(bad)
    if len(rows):
        first = f"first row {rows[0]}: {values[rows[0]]}"
        yield Finding(file, f"{what}: {len(rows):,} of {len(bad):,} rows, {first}.")


def _check_names(manifest: Manifest) -> Iterator[Finding]:
    for what, names in (("classes", manifest.classes), ("predicates", manifest.predicates)):
        counts = Counter(names)
        wrong = [name for name in names if not name.strip() or counts[name] > 1]
        if wrong:
            yield Finding("manifest.json", f"{what}: {len(wrong)} names are empty or repeated, first '{wrong[0]}'.")


def _check_images(data: Dataset) -> Iterator[Finding]:
    """Check ids, that the spans of regions and relations are contiguous, and the counts in the manifest."""
    file = "images.parquet"
    ids, spans = data.image_ids, data._spans
    seen = Counter(ids.tolist())
    odd = np.array([not i or i != i.strip() or seen[i] > 1 for i in ids.tolist()])
    yield from _report_rows(file, odd, "image_id empty, repeated or with white space around it", ids)
    yield from _report_rows(file, spans[:, 1] < 1, "an image without regions", ids)
    for first, count, name in ((0, 1, "regions"), (2, 3, "relations")):
        starts = np.concatenate([[0], np.cumsum(spans[:, count])])
        column = f"first_{name.removesuffix('s')}"
        yield from _report_rows(file, spans[:, first] != starts[:-1], f"{column} out of order", spans[:, first])
        rows = pq.read_metadata(data.folder / f"{name}.parquet").num_rows
        if rows != starts[-1]:
            yield Finding(f"{name}.parquet", f"{rows:,} rows. Expected {starts[-1]:,}, as in the images table.")
    owners = data.caption_images
    orphaned = (owners < 0) | (owners >= len(ids))
    yield from _report_rows("captions.parquet", orphaned, "a caption whose image does not exist", owners)
    if not orphaned.any():
        yield from _check_counts(data)


def _check_counts(data: Dataset) -> Iterator[Finding]:
    splits, spans, owners = data.image_splits, data._spans, data.caption_images
    for name in sorted({*data.manifest.splits, *splits.tolist()}):
        in_split = splits == name
        counted = SplitCounts(
            images=int(in_split.sum()),
            captions=int(in_split[owners].sum()),
            regions=int(spans[in_split, 1].sum()),
            relations=int(spans[in_split, 3].sum()),
        )
        stated = data.manifest.splits.get(name)
        if counted != stated:
            yield Finding("manifest.json", f"split '{name}': the tables hold {counted!r}, the manifest {stated!r}.")


def _check_features(data: Dataset) -> Iterator[Finding]:
    """Check shape and dtype of the features."""
    try:
        shape, dtype = data.features.shape, data.features.dtype
    except DataError as error:
        yield Finding(FEATURES, str(error))
        return
    expected = (int(data._spans[:, 1].sum()), data.manifest.feature_dim)
    if shape != expected or dtype != data.manifest.feature_dtype:
        yield Finding(FEATURES, f"{dtype} {shape}. Expected {data.manifest.feature_dtype} {expected}.")

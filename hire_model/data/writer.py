"""Write a data set image by image, with one block of rows in memory. The folder appears only when it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.data.blocks import hash_blocks
from hire_model.data.schema import (
    EXTRACTOR,
    FEATURES,
    MANIFEST,
    PICTURES,
    RELATION_PRIOR,
    TABLES,
    ExtractorFacts,
    FileFacts,
    MakerFacts,
    Manifest,
    SplitCounts,
    hash_file,
)
from hire_model.data.store import all_finite
from hire_model.errors import DataError
from hire_model.files import make_scratch, replace_folder

_ROWS_PER_GROUP = 65_536
_HEADER_BYTES = 128


@dataclass(frozen=True)
class ImageRecord:
    """One image that an importer passes to the writer.

    features   [r, F]
    boxes      [r, 4] fractions in 0-1, a row of NaN for a region without a box; None if no region has one
    classes    [r] int, None if unknown
    scores     [r], None if unknown
    relations  (subject, predicate, object, score) each
    width, height  pixels, 0 if unknown
    """

    image_id: str
    split: str
    features: np.ndarray
    captions: Sequence[str]
    width: int = 0
    height: int = 0
    boxes: np.ndarray | None = None
    classes: np.ndarray | None = None
    scores: np.ndarray | None = None
    relations: Sequence[tuple[int, int, int, float]] = ()
    caption_ids: Sequence[str] | None = None
    picture: str | None = None


@dataclass
class _Table:
    """A Parquet file that is written in groups of rows."""

    name: str
    folder: Path
    rows: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.schema = TABLES[self.name]
        self.rows = {name: [] for name in self.schema.names}
        self.writer = pq.ParquetWriter(self.folder / f"{self.name}.parquet", self.schema, compression="zstd")

    def add(self, **columns: Sequence[Any]) -> None:
        for name, values in columns.items():
            self.rows[name].extend(values)
        self.count += len(next(iter(columns.values())))
        if len(self.rows[self.schema.names[0]]) >= _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(pa.table(self.rows, schema=self.schema))
        self.rows = {name: [] for name in self.schema.names}

    def close(self) -> None:
        self.flush()
        self.writer.close()


class DatasetWriter:
    """Write a data set into a temporary folder beside `out`, and rename it to `out` when it is complete.

    Use it as a context manager. Without an exception, its exit renames the folder; an exception removes the folder.

    Raises:
        DataError: `out` exists and `overwrite` is False, `out` is not a data set, or the folder cannot be written.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        name: str,
        feature_dim: int,
        feature_extractor: str,
        classes: Sequence[str] = (),
        predicates: Sequence[str] = (),
        dtype: str = "float16",
        source: str = "",
        licence: str = "",
        overwrite: bool = False,
    ) -> None:
        self.out = Path(out).expanduser()
        if self.out.is_symlink():  # replace the target of the link, not the link
            self.out = self.out.resolve()
        if self.out.exists():
            _check_replaceable(self.out, overwrite)
        self.facts: dict[str, Any] = {
            "name": name,
            "feature_dim": feature_dim,
            "feature_extractor": feature_extractor,
            "feature_dtype": dtype,
            "classes": tuple(classes),
            "predicates": tuple(predicates),
            "source": source,
            "licence": licence,
        }
        self.splits: dict[str, dict[str, int]] = {}
        self.image_ids: set[str] = set()
        self.manifest: Manifest | None = None

    def __enter__(self) -> DatasetWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder, self._lock = make_scratch(f".{self.out.name}.", self.out.parent)
        except OSError as error:
            raise self._make_write_error(error) from error
        self.tables = {name: _Table(name, self.folder) for name in TABLES}
        self.features: BinaryIO = (self.folder / FEATURES).open("wb")
        self.features.write(b"\0" * _HEADER_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                try:
                    self._finish()
                    return
                except BaseException as fault:
                    error = fault
            with contextlib.suppress(OSError):  # closing flushes a buffer, which fails on a full disk
                self.features.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            os.close(self._lock)
        raise self._make_write_error(error) if isinstance(error, OSError) else error

    def _make_write_error(self, error: OSError) -> DataError:
        return DataError(
            f"{self.out}: cannot be written: {error}. Free disk space or choose another folder. The "
            "incomplete data set was removed."
        )

    @property
    def pictures(self) -> Path:
        """The folder for pictures. The first access creates it."""
        folder = self.folder / PICTURES
        folder.mkdir(exist_ok=True)
        return folder

    def link_pictures(self, folder: str | Path) -> None:
        """Make pictures/ a link to an existing folder. Nothing is copied."""
        folder = Path(folder).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(f"--pictures {folder}: no such folder.")
        (self.folder / PICTURES).symlink_to(folder, target_is_directory=True)

    def record_extractor(self, facts: ExtractorFacts, file: Path | None) -> None:
        """Record the extractor of the regions in the manifest, and copy the file with its weights if it has one."""
        self.facts["extractor"] = facts
        if file is not None:
            shutil.copyfile(file, self.folder / EXTRACTOR)

    def record_relation_maker(self, facts: MakerFacts, prior: bytes | None) -> None:
        """Record in the manifest what made the relations, and write the content of relation_prior.safetensors."""
        self.facts["relation_maker"] = facts
        if prior is not None:
            (self.folder / RELATION_PRIOR).write_bytes(prior)

    def add(self, record: ImageRecord) -> None:
        """Append one image. A DataError names the image and the field that is wrong."""
        features = self._check(record)
        regions = len(features)
        boxes = np.full((regions, 4), np.nan, np.float32) if record.boxes is None else record.boxes
        classes = np.full(regions, -1, np.int32) if record.classes is None else record.classes
        scores = np.full(regions, np.nan, np.float32) if record.scores is None else record.scores
        row = self.tables["images"].count
        self.tables["images"].add(
            image_id=[record.image_id],
            split=[record.split],
            width=[int(record.width)],
            height=[int(record.height)],
            first_region=[self.tables["regions"].count],
            n_regions=[regions],
            first_relation=[self.tables["relations"].count],
            n_relations=[len(record.relations)],
            picture=[record.picture],
        )
        ids = record.caption_ids or [f"{record.image_id}#{i}" for i in range(len(record.captions))]
        self.tables["captions"].add(caption_id=ids, image=[row] * len(ids), text=record.captions)
        columns = {name: boxes[:, i].tolist() for i, name in enumerate(("x1", "y1", "x2", "y2"))}
        self.tables["regions"].add(**columns, class_id=classes.tolist(), score=scores.tolist())
        subjects, predicates, objects, confidences = (
            (list(c) for c in zip(*record.relations, strict=True)) if (record.relations) else ([], [], [], [])
        )
        self.tables["relations"].add(subject=subjects, predicate=predicates, object=objects, score=confidences)
        self.features.write(features.tobytes())
        counts = self.splits.setdefault(record.split, dict.fromkeys(SplitCounts.model_fields, 0))
        for key, added in (("images", 1), ("captions", len(ids)), ("regions", regions), ("relations", len(subjects))):
            counts[key] += added

    def _check(self, record: ImageRecord) -> np.ndarray:
        where, dim = f"image '{record.image_id}'", self.facts["feature_dim"]
        if record.image_id in self.image_ids:
            raise DataError(f"{where}: this id was already written. Expected a unique id for each image.")
        self.image_ids.add(record.image_id)
        if record.features.ndim != 2 or record.features.shape[1] != dim or not len(record.features):
            raise DataError(f"{where}: features have shape {record.features.shape}, expected [1 or more, {dim}].")
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(record.features, self.facts["feature_dtype"])
        if not all_finite(features):
            region = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            too_large = np.isfinite(record.features[region]).all()
            fault = "is too large for float16 (use --dtype float32)" if too_large else "is NaN or infinite"
            raise DataError(f"{where}, region {region}: a feature {fault}. Expected finite numbers.")
        regions = len(features)
        for name in ("boxes", "classes", "scores"):
            values = getattr(record, name)
            if values is not None and len(values) != regions:
                raise DataError(f"{where}: {len(values)} {name} for {regions} regions. Expected one per region.")
        for subject, predicate, object_, _ in record.relations:
            if not (0 <= subject < regions and 0 <= object_ < regions):
                raise DataError(
                    f"{where}: relation ({subject}, {predicate}, {object_}) names a region that does not exist. "
                    f"Expected 0 to {regions - 1}."
                )
            if not 0 <= predicate < len(self.facts["predicates"]):
                raise DataError(
                    f"{where}: unknown predicate {predicate}. Expected 0 to {len(self.facts['predicates']) - 1}."
                )
        return features

    def _finish(self) -> None:
        for table in self.tables.values():
            table.close()
        if not self.image_ids:
            raise DataError(f"{self.out}: no image was written. Expected at least one.")
        self._write_header()
        names = [*(f"{table}.parquet" for table in TABLES), EXTRACTOR, RELATION_PRIOR]
        files = {name: hash_file(self.folder / name) for name in names if (self.folder / name).is_file()}
        features = self.folder / FEATURES
        sha256, blocks = hash_blocks(features)
        self.manifest = Manifest(
            **self.facts,
            splits={name: SplitCounts(**counts) for name, counts in self.splits.items()},
            files=files | {FEATURES: FileFacts(bytes=features.stat().st_size, sha256=sha256)},
            blocks={FEATURES: blocks},
        )
        (self.folder / MANIFEST).write_text(self.manifest.model_dump_json(indent=1) + "\n", "utf-8")
        self.folder.chmod(0o755)
        replace_folder(self.folder, self.out)

    def _write_header(self) -> None:
        """Write the npy header (format 1.0) into the reserved bytes, now that the number of rows is known."""
        shape = (self.tables["regions"].count, self.facts["feature_dim"])
        descr = np.lib.format.dtype_to_descr(np.dtype(self.facts["feature_dtype"]))
        text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
        head = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        self.features.seek(0)
        self.features.write(head + text.encode("latin1").ljust(_HEADER_BYTES - 11) + b"\n")
        self.features.close()


def _check_replaceable(out: Path, overwrite: bool) -> None:
    """Raise DataError unless `out` is a data set or an empty folder, and `overwrite` is True."""
    if not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: not a data set; --overwrite replaces only data sets. Choose another folder.")
    if not overwrite:
        raise DataError(f"{out}: already exists. Choose another folder, or add --overwrite to replace it.")

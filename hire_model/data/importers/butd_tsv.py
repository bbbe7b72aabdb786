"""Import bottom-up-attention TSV files.

Columns: image_id, image_w, image_h, num_boxes, boxes, features; the last two are base64 of float32. The files hold
neither captions nor splits: both come from a captions file (see `captions`).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pybase64

from hire_model.data.importers.base import Notes, Source
from hire_model.data.importers.captions import Captions, Detections, make_record
from hire_model.data.importers.checks import LONGEST, is_length
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


def open_butd_tsv(files: Sequence[Path], captions: Captions, notes: Notes) -> Source:
    """Open one or more TSV files. They are read line by line; images that are not in `captions` are skipped.

    A DataError names file, line and field.
    """
    paths = [path.expanduser() for path in files]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Expected a TSV file with the columns {', '.join(FIELDS)}.")
    dim = next((detections.features.shape[1] for path in paths for _, _, detections in _read_rows(path, None)), None)
    if dim is None:
        raise DataError(f"{', '.join(map(str, paths))}: no lines. Expected one line per image.")

    def records(notes: Notes) -> Iterator[ImageRecord]:
        seen: dict[int, str] = {}
        for path in paths:
            for where, name, detections in _read_rows(path, dim):
                index = captions.find(name)
                if index is None:
                    notes.count(
                        "images without captions in the imported splits, skipped", f"{where}, image_id '{name}'"
                    )
                    continue
                if index in seen:
                    raise DataError(f"{where}: image_id '{name}' is already at {seen[index]}. Expected each id once.")
                seen[index] = where
                yield make_record(captions.images[index], detections, where, notes)
        captions.check_complete(seen, ", ".join(path.name for path in paths))

    return Source(f"bottom-up-attention TSV, {paths[0].name}", dim, len(captions.images), records, notes=notes)


def _read_rows(path: Path, dim: int | None) -> Iterator[tuple[str, str, Detections]]:
    """Yield (place, image_id, detections) of each line, with one line in memory at a time."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}: line {number}"
            cells = line.rstrip(b"\r\n").split(b"\t")
            if len(cells) != len(FIELDS):
                raise DataError(
                    f"{where} has {len(cells)} columns. Expected {len(FIELDS)}: {', '.join(FIELDS)}. If it is the last "
                    "line, the file is truncated."
                )
            width, height, count = (_parse_length(cells[i], FIELDS[i], where) for i in (1, 2, 3))
            boxes = _decode_floats(cells[4], "boxes", count, 4, where)
            features = _decode_floats(cells[5], "features", count, dim, where)
            try:
                name = cells[0].decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: field 'image_id' is not UTF-8.") from error
            yield where, name, Detections(features, boxes, (width, height))


def _parse_length(cell: bytes, field: str, where: str) -> int:
    try:
        value = int(cell)
    except ValueError:
        value = 0
    if not is_length(value):
        raise DataError(f"{where}: field '{field}' is {cell[:20]!r}. Expected a whole number from 1 to {LONGEST}.")
    return value


def _decode_floats(cell: bytes, field: str, count: int, width: int | None, where: str) -> np.ndarray:
    """Decode base64 to [count, width] float32. A width of None allows any width."""
    try:
        data = pybase64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise DataError(f"{where}: field '{field}' is not base64 ({error}). The line may be truncated.") from error
    column = count * 4  # bytes
    if not data or len(data) % column or (width is not None and len(data) != column * width):
        expected = (
            f"{column * width} ({count} boxes x {width} x 4)"
            if width
            else f"a multiple of {column} ({count} boxes x 4)"
        )
        raise DataError(f"{where}: field '{field}' holds {len(data)} bytes. Expected {expected}, float32.")
    return np.frombuffer(data, "<f4").reshape(count, -1)

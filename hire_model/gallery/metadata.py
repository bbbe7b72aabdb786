"""Metadata of images: a JSON object per image, given as JSON lines, and filters on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.errors import DataError
from hire_model.gallery.format import METADATA

ID = "id"
"""Key of a metadata line that names the image. It is not part of the metadata."""
_MAX = 64 << 10  # characters of the metadata of one image
_SCHEMA = pa.schema([("metadata", pa.string())])


def load_metadata(path: Path, ids: Sequence[str]) -> list[str | None]:
    """Read a metadata file: one JSON object per line with the image's id in "id".

    Returns:
        The metadata of each image of `ids` as JSON text, None without a line. Lines of other images are ignored.

    Raises:
        DataError: if the file or a line is not valid; the message names the line.
    """
    found: dict[str, str] = {}
    try:
        lines = path.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the metadata cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        facts = _parse_line(line, where)
        name = str(facts.pop(ID))
        if name in found:
            raise DataError(f"{where}: image '{name}' already has metadata. Give each image one line.")
        found[name] = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(found[name]) > _MAX:
            raise DataError(f"{where}: {len(found[name]):,} characters. Expected at most {_MAX:,} per image.")
    return [found.get(name) for name in ids]


def _parse_line(line: str, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}.") from error
    if not isinstance(facts, dict) or not isinstance(facts.get(ID), str | int):
        raise DataError(
            f'{where}: expected a JSON object with the image\'s id, such as {{"id": "a.jpg", "year": 2020}}.'
        )
    return facts


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def hash_metadata(path: Path | None) -> str:
    """Return the SHA-256 of a metadata file, "none" without one. Raises DataError if it cannot be read."""
    if path is None:
        return "none"
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: the metadata cannot be read: {error}.") from error


def write_metadata(folder: Path, values: Sequence[str | None]) -> None:
    """Write the metadata of the images of a segment."""
    pq.write_table(pa.table({"metadata": pa.array(values, pa.string())}), folder / METADATA, compression="zstd")


def read_metadata(folder: Path) -> np.ndarray:
    """Read the metadata [n] of a segment: JSON text or None."""
    return pq.read_table(folder / METADATA, schema=_SCHEMA)["metadata"].to_numpy()


class MetadataIndex:
    """The images with each key and value.

    Args:
        texts: [N] the metadata of each image as JSON text, or None.
    """

    def __init__(self, texts: np.ndarray) -> None:
        rows: dict[tuple[str, str], list[int]] = {}
        for row in np.flatnonzero(texts != None).tolist():  # noqa: E711  elementwise
            for key, value in self.parse(texts[row]).items():
                for one in value if isinstance(value, list) else [value]:
                    rows.setdefault((key, format_value(one)), []).append(row)
        self._rows = {pair: np.unique(found) for pair, found in rows.items()}

    @staticmethod
    def parse(text: str | None) -> dict[str, Any]:
        """Return the metadata of an image from its text."""
        return json.loads(text) if text else {}

    def find(self, where: Mapping[str, Any]) -> np.ndarray:
        """Return the rows that have every `key: value` of `where`, ascending."""
        none = np.empty(0, np.int64)
        found = [self._rows.get((key, format_value(value)), none) for key, value in where.items()]
        result = found[0]
        for rows in found[1:]:
            result = np.intersect1d(result, rows, assume_unique=True)
        return result


def format_value(value: Any) -> str:
    """Return the text by which values are compared: a string as it is, another value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)

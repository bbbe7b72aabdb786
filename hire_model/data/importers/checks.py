"""Checks on the arrays of one image, shared by the importers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.errors import DataError

OVERHANG = 0.01  # of the width or height; detectors round, so boxes that exceed the image by at most this are clipped
OVERHANG_PIXELS = 1.5
LONGEST = 2**31 - 1  # maximum width and height in pixels, and maximum number of regions: the table columns are int32
Relation = tuple[int, int, int, float]
_BYTES_LITERAL = re.compile(r"""b(['"]).*\1""", re.DOTALL)


def check_caption(text: str, where: str) -> None:
    """Raise DataError if the caption is the printed form of Python bytes, such as b'a dog'."""
    if _BYTES_LITERAL.fullmatch(text.strip()):
        raise DataError(
            f"{where} is {text[:40]}..., the printed form of Python bytes. Expected plain text: the model would learn "
            "the b and the quotes as words, which lowers recall. Write decoded captions (.decode('utf-8')) and import "
            "again."
        )


def is_length(value: float) -> bool:
    """Return whether `value` is a valid width or height in pixels: 1 to LONGEST, so neither NaN nor infinite."""
    return 1 <= value <= LONGEST


def select_real_features(features: np.ndarray, count: int | None, where: str, notes: Notes) -> np.ndarray:
    """Return the real regions [r, F] of padded features [R, F]: the first `count`, or all but the final zero rows.

    Raise DataError if a number is NaN or infinite, or if no region remains.
    """
    if count is None:
        filled = np.flatnonzero(features.any(axis=1))
        count = int(filled[-1]) + 1 if len(filled) else 0
        if 0 < count < len(features):
            notes.count("images with all-zero rows at the end, treated as padding", where)
        elif not count:
            raise DataError(f"{where}: all features are zero. Expected at least one region with features.")
    features = features[:count]
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        region = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"{where}, region {region}: a feature is NaN or infinite. Expected finite numbers. Extract the features "
            "of this image again."
        )
    empty = ~features.any(axis=1)
    if empty.any():
        region = int(np.flatnonzero(empty)[0])
        raise DataError(
            f"{where}, region {region}: all features are zero, but the image should have {count} regions. "
            "Correct the number of regions, or extract the features again."
        )
    return features


def to_fractions(boxes: np.ndarray, size: tuple[int, int] | None, where: str, notes: Notes) -> np.ndarray:
    """Return boxes [r, 4] x1 y1 x2 y2 as float32 fractions of width and height.

    Boxes that exceed the image slightly are clipped and counted in `notes`.

    Args:
        boxes: [r, 4]; a row of NaN is a region without a box
        size: (width, height) if the boxes are in pixels, None if they are fractions
        where: place for messages
        notes: receives the number of clipped boxes

    Raises:
        DataError: a box is outside the image or has no area.
    """
    width, height = size or (1, 1)
    scale = np.array([width, height, width, height], np.float64)
    inside = np.asarray(boxes, np.float64) / scale
    absent = np.isnan(inside).all(axis=1)
    slack = np.maximum(OVERHANG, OVERHANG_PIXELS / scale) if size else OVERHANG
    bad = ~absent & (~np.isfinite(inside) | (inside < -slack) | (inside > 1 + slack)).any(axis=1)
    if bad.any():
        region = int(np.flatnonzero(bad)[0])
        frame = f"the image of {width} x {height} pixels" if size else "0 to 1"
        raise DataError(
            f"{where}, region {region}: box {_format_box(boxes[region])} is outside {frame}. Expected x1 y1 x2 y2 "
            "inside. Check that the sizes are (width, height) of the picture that the detector processed."
        )
    clipped = ~absent & ((inside < 0) | (inside > 1)).any(axis=1)
    if clipped.any():
        notes.count("boxes that exceeded the image by up to 1 % or 1.5 pixels, clipped", where, int(clipped.sum()))
    inside = np.clip(inside, 0, 1).astype(np.float32)
    flat = ~absent & ((inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1]))
    if flat.any():
        region = int(np.flatnonzero(flat)[0])
        raise DataError(
            f"{where}, region {region}: box {_format_box(boxes[region])} has no area. Expected x1 < x2 and y1 < y2 "
            "(corners, not x y width height)."
        )
    return inside


def check_classes(classes: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return class ids [r] as int32. Raise DataError for an id that is neither -1 nor below `count`."""
    bad = (classes < -1) | (classes >= count)
    if bad.any():
        region = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{where}, region {region}: class {classes[region]}. Expected -1 (unknown) or 0 to {count - 1}: the class "
            f"list has {count} names."
        )
    return classes.astype(np.int32)


def check_scores(scores: np.ndarray, where: str) -> np.ndarray:
    """Return detector scores [r] as float32, NaN if unknown. Raise DataError for a score outside 0-1."""
    bad = (scores < 0) | (scores > 1)
    if bad.any():
        region = int(np.flatnonzero(bad)[0])
        raise DataError(f"{where}, region {region}: score {scores[region]:g}. Expected 0 to 1.")
    return scores.astype(np.float32)


def parse_relations(rows: Any, regions: int, predicates: dict[str, int], where: str) -> list[Relation]:
    """Check and return relations from a JSON file: [[subject, predicate, object] or [..., score], ...].

    Subject and object are region indices. The predicate is an index or a name in `predicates`.
    """
    if not isinstance(rows, list):
        raise DataError(f"{where}: {_shorten(rows)}. Expected a list of [subject, predicate, object, score].")
    return [_parse_relation(row, regions, predicates, f"{where}, relation {i}") for i, row in enumerate(rows)]


def _parse_relation(row: Any, regions: int, predicates: dict[str, int], where: str) -> Relation:
    if not isinstance(row, list) or len(row) not in (3, 4):
        raise DataError(f"{where}: {_shorten(row)}. Expected [subject, predicate, object] or [..., score].")
    subject, predicate, object_ = row[:3]
    for end in (subject, object_):
        if type(end) is not int or not 0 <= end < regions:
            raise DataError(
                f"{where}: region {_shorten(end)}. Expected 0 to {regions - 1}: the image has {regions} regions."
            )
    if subject == object_:
        raise DataError(f"{where}: region {subject} is related to itself. Expected two regions.")
    if isinstance(predicate, str) and predicate in predicates:
        predicate = predicates[predicate]
    if type(predicate) is not int or not 0 <= predicate < len(predicates):
        raise DataError(
            f"{where}: unknown predicate {_shorten(predicate)}. Expected 0 to {len(predicates) - 1}, or a name in "
            "predicates.txt."
        )
    score = row[3] if len(row) == 4 else 1.0
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"{where}: score {_shorten(score)}. Expected a number from 0 to 1.")
    return subject, predicate, object_, float(score)


def read_numbers(entry: Any, key: str, width: int, kinds: str, where: str) -> np.ndarray:
    """Return field `key` of a JSON object as an array [n], or [n, width] if width is not 0.

    kinds: allowed dtype kinds, "iu" for integers or "iuf" for numbers. An empty list passes with any kind.
    """
    try:
        array = np.array(entry[key])
        array = array.reshape(len(array), width) if width else array.reshape(len(array))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: field '{key}' is missing or has the wrong shape.") from error
    if array.size and array.dtype.kind not in kinds:
        expected = "numbers" if "f" in kinds else "integers (3, not 3.0) of at most 64 bits"
        raise DataError(f"{where}: field '{key}' has dtype {array.dtype}. Expected a list of {expected}.")
    return array


def check_within(values: np.ndarray, low: int, high: int, slack: float, what: str) -> None:
    """Raise DataError for the first number that is NaN, or outside `low` to `high` by more than `slack`.

    what: start of the message, before the number
    """
    bad = values[~((values >= low - slack) & (values <= high + slack))]
    if len(bad):
        raise DataError(f"{what} {bad[0]}. Expected {low} to {high}.")


def _format_box(values: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{float(v):g}" for v in values) + ")"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."

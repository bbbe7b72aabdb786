"""One split of a SCAN folder: its files opened and found to fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.data.importers.checks import check_caption
from hire_model.data.importers.files import open_array, read_lines
from hire_model.data.importers.owners import Counted, Owners, find_owners
from hire_model.errors import DataError


@dataclass(frozen=True)
class ScanSplit:
    """What one split's files hold (see `scan`); None for an optional file that is not there."""

    folder: Path
    name: str
    features: np.ndarray
    captions: list[str]
    owners: Owners
    names: list[str] | None
    boxes: np.ndarray | None
    pixels: bool
    sizes: np.ndarray | None
    classes: np.ndarray | None
    scores: np.ndarray | None
    counts: np.ndarray | None
    relations: list[str] | None

    def path(self, suffix: str) -> Path:
        """Path of the split's file `{split}_{suffix}`."""
        return self.folder / f"{self.name}_{suffix}"


def open_split(folder: Path, name: str, rule: str, notes: Notes) -> ScanSplit:
    """Open split `name` of `folder`; `rule` is --captions-per-image. Raises DataError naming the file at fault."""

    def path(suffix: str) -> Path:
        return folder / f"{name}_{suffix}"

    def array(suffix: str, kinds: str, shape: Sequence[int | None], meaning: str) -> np.ndarray | None:
        return open_array(path(suffix), kinds, shape, meaning) if path(suffix).is_file() else None

    def lines(suffix: str) -> list[str] | None:
        return read_lines(path(suffix), notes) if path(suffix).is_file() else None

    features = open_array(path("ims.npy"), "f", [None, None, None], "features [images, regions, feature size]")
    rows, regions, _ = features.shape
    if not features.size:
        raise DataError(f"{path('ims.npy')}: shape {list(features.shape)} holds nothing.")
    captions, ids, names = read_lines(path("caps.txt"), notes), lines("ids.txt"), lines("names.txt")
    for number, caption in enumerate(captions, 1):
        check_caption(caption, f"{path('caps.txt')}: line {number}")
    counted = Counted(path("ims.npy"), path("caps.txt"), path("ids.txt"), features, len(captions), ids)
    boxes = array("boxes.npy", "f", [rows, regions, 4], "boxes x1 y1 x2 y2 of each region")
    sizes = array("sizes.npy", "iuf", [rows, 2], "width and height of each image in pixels")
    return ScanSplit(
        folder,
        name,
        features,
        captions,
        find_owners(counted, rule, notes),
        _one_per_row(names, rows, path("names.txt")),
        boxes,
        _in_pixels(boxes, sizes, path("boxes.npy"), path("sizes.npy"), notes),
        sizes,
        array("classes.npy", "iu", [rows, regions], "the class id of each region"),
        array("scores.npy", "f", [rows, regions], "the score of each region"),
        array("n_regions.npy", "iu", [rows], "the number of real regions of each image"),
        _one_per_row(_relation_lines(path("relations.jsonl"), notes), rows, path("relations.jsonl")),
    )


def _relation_lines(path: Path, notes: Notes) -> list[str] | None:
    return read_lines(path, notes) if path.is_file() else None


def _one_per_row(lines: list[str] | None, rows: int, path: Path) -> list[str] | None:
    if lines is not None and len(lines) != rows:
        raise DataError(f"{path}: {len(lines)} lines. Expected {rows}, one per image row of the features.")
    return lines


def _in_pixels(boxes: np.ndarray | None, sizes: np.ndarray | None, path: Path, sizes_path: Path, notes: Notes) -> bool:
    """Whether boxes are pixels: they are where any number is above 1 by more than a fraction may overhang."""
    if boxes is None:
        return False
    pixels = bool(np.fmax.reduce(boxes, axis=None) > 1.01)
    if pixels and sizes is None:
        raise DataError(
            f"{path}: numbers above 1, so the boxes are in pixels, but {sizes_path.name} is missing. Write it as "
            "[N, 2] width and height of each image, or give the boxes as fractions of them."
        )
    notes.say(f"{path.name}: boxes are in {'pixels' if pixels else 'fractions (no number is above 1)'}.")
    return pixels

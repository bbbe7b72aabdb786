"""Open the files of one split of a SCAN folder, check that they agree, and assign captions to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.data.importers.checks import check_caption
from hire_model.data.importers.files import check_unique, open_array, read_lines
from hire_model.errors import DataError

_COPIES = 5  # the files of VSE++ and SCAN repeat each image 5 times, once per caption


@dataclass(frozen=True)
class CaptionOwners:
    """The images of one split and the assignment of captions to them.

    rows    [images] row of each image in the features
    owner   [captions] index of the image of each caption
    names   [images] name of each image in the ids file, None if that file holds no names
    copies  number of equal rows per image in the features; only the first is used
    """

    rows: np.ndarray
    owner: np.ndarray
    names: list[str] | None
    copies: int = 1

    def group_captions(self) -> list[np.ndarray]:
        """Return the caption indices of each image, in order."""
        order = np.argsort(self.owner, kind="stable")
        return np.split(order, np.searchsorted(self.owner[order], np.arange(1, len(self.rows))))


@dataclass(frozen=True)
class SplitFiles:
    """The files that decide which caption belongs to which image.

    Paths (for messages), features [N, R, F], number of captions, lines of the ids file or None.
    """

    features_path: Path
    captions_path: Path
    ids_path: Path
    features: np.ndarray
    captions: int
    ids: Sequence[str] | None


@dataclass(frozen=True)
class ScanSplit:
    """Content of the files of one split (see `scan`). Optional files that are missing are None."""

    folder: Path
    name: str
    features: np.ndarray
    captions: list[str]
    owners: CaptionOwners
    names: list[str] | None
    boxes: np.ndarray | None
    pixels: bool
    sizes: np.ndarray | None
    classes: np.ndarray | None
    scores: np.ndarray | None
    counts: np.ndarray | None
    relations: list[str] | None

    def path(self, suffix: str) -> Path:
        """Return the path of the file `{split}_{suffix}`."""
        return self.folder / f"{self.name}_{suffix}"


def open_split(folder: Path, name: str, rule: str, notes: Notes) -> ScanSplit:
    """Open split `name` of `folder`. `rule` is --captions-per-image. A DataError names the wrong file."""

    def make_path(suffix: str) -> Path:
        return folder / f"{name}_{suffix}"

    def open_optional(suffix: str, kinds: str, shape: Sequence[int | None], meaning: str) -> np.ndarray | None:
        return open_array(make_path(suffix), kinds, shape, meaning) if make_path(suffix).is_file() else None

    def read_optional(suffix: str) -> list[str] | None:
        return read_lines(make_path(suffix), notes) if make_path(suffix).is_file() else None

    features = open_array(make_path("ims.npy"), "f", [None, None, None], "features [images, regions, feature size]")
    rows, regions, _ = features.shape
    if not features.size:
        raise DataError(f"{make_path('ims.npy')}: shape {list(features.shape)}. Expected no size to be 0.")
    captions = read_lines(make_path("caps.txt"), notes)
    ids, names = read_optional("ids.txt"), read_optional("names.txt")
    for number, caption in enumerate(captions, 1):
        check_caption(caption, f"{make_path('caps.txt')}: line {number}")
    files = SplitFiles(make_path("ims.npy"), make_path("caps.txt"), make_path("ids.txt"), features, len(captions), ids)
    boxes = open_optional("boxes.npy", "f", [rows, regions, 4], "boxes x1 y1 x2 y2 of each region")
    sizes = open_optional("sizes.npy", "iuf", [rows, 2], "width and height of each image in pixels")
    return ScanSplit(
        folder=folder,
        name=name,
        features=features,
        captions=captions,
        owners=find_owners(files, rule, notes),
        names=_check_one_per_row(names, rows, make_path("names.txt")),
        boxes=boxes,
        pixels=_detect_pixels(boxes, sizes, make_path("boxes.npy"), make_path("sizes.npy"), notes),
        sizes=sizes,
        classes=open_optional("classes.npy", "iu", [rows, regions], "the class id of each region"),
        scores=open_optional("scores.npy", "f", [rows, regions], "the score of each region"),
        counts=open_optional("n_regions.npy", "iu", [rows], "the number of real regions of each image"),
        relations=_check_one_per_row(read_optional("relations.jsonl"), rows, make_path("relations.jsonl")),
    )


def _check_one_per_row(lines: list[str] | None, rows: int, path: Path) -> list[str] | None:
    if lines is not None and len(lines) != rows:
        raise DataError(f"{path}: {len(lines)} lines. Expected {rows}, one per image row of the features.")
    return lines


def _detect_pixels(
    boxes: np.ndarray | None, sizes: np.ndarray | None, path: Path, sizes_path: Path, notes: Notes
) -> bool:
    """Return whether boxes are in pixels: some number exceeds 1 by more than the overhang allowed for fractions."""
    if boxes is None:
        return False
    pixels = bool(np.fmax.reduce(boxes, axis=None) > 1.01)
    if pixels and sizes is None:
        raise DataError(
            f"{path}: numbers above 1, so the boxes are in pixels, but {sizes_path.name} is missing. Write it with "
            "the width and height of each image, [N, 2], or convert the boxes to fractions of width and height."
        )
    notes.add(f"{path.name}: boxes are in {'pixels' if pixels else 'fractions (no number is above 1)'}.")
    return pixels


def find_owners(files: SplitFiles, rule: str, notes: Notes) -> CaptionOwners:
    """Assign the captions of one split to its images.

    rule: "ids" reads the image row of each caption from the ids file; a number is the number of captions per image;
    "auto" uses an ids file with one row number per caption if there is one, and otherwise assigns equally many captions
    to each image, in order. Raise DataError if the numbers do not agree; the message names the option to use.
    """
    if rule == "ids":
        return _read_owners(files)
    if rule != "auto" and not (rule.isdecimal() and int(rule) > 0):
        raise DataError(f"--captions-per-image {rule}: expected auto, ids or a number from 1.")
    rows, total = len(files.features), files.captions
    copies = _COPIES if rule == "auto" else int(rule)
    if rows == total and copies > 1 and rows % copies == 0 and _has_copies(files.features, copies):
        notes.add(
            f"{files.features_path.name}: each image is repeated {copies} times, once per caption; one copy is kept."
        )
        return _spread_evenly(files, copies, copies)
    if rule == "auto" and files.ids is not None and len(files.ids) == total and _are_row_numbers(files.ids, rows):
        notes.add(f"{files.ids_path.name}: one row number per caption, used to assign captions to images.")
        return _read_owners(files)
    per_image = total // rows if rule == "auto" else int(rule)
    if per_image * rows != total:
        raise DataError(_describe_uneven(files, rule))
    notes.add(f"{files.captions_path.name}: {per_image} captions per image, in the order of the images.")
    return _spread_evenly(files, per_image, 1)


def _describe_uneven(files: SplitFiles, rule: str) -> str:
    images = len(files.features)
    expected = f"a multiple of {images}" if rule == "auto" else f"{int(rule) * images} ({rule} per image)"
    return (
        f"{files.captions_path}: {files.captions} captions for {images} images of {files.features_path.name}. Expected "
        f"{expected}. If the number of captions varies, write the image row of each caption (0 to {images - 1}) to "
        f"{files.ids_path.name} and use --captions-per-image ids. Otherwise lines are missing."
    )


def _are_row_numbers(ids: Sequence[str], rows: int) -> bool:
    return all(text.strip().isdecimal() and int(text) < rows for text in ids)


def _has_copies(features: np.ndarray, copies: int) -> bool:
    """Return whether each image is repeated `copies` times. Checks 8 images; `scan` checks all of them."""
    blocks = np.unique(np.linspace(0, len(features) // copies - 1, 8).astype(int))
    return all((features[b * copies : (b + 1) * copies] == features[b * copies]).all() for b in blocks)


def _read_owners(files: SplitFiles) -> CaptionOwners:
    if files.ids is None:
        raise DataError(f"--captions-per-image ids: {files.ids_path} is missing. Expected one row number per caption.")
    rows = len(files.features)
    if len(files.ids) != files.captions:
        raise DataError(
            f"{files.ids_path}: {len(files.ids)} lines for {files.captions} captions of {files.captions_path.name}. "
            "Expected the image row of each caption."
        )
    for number, text in enumerate(files.ids, 1):
        if not (text.strip().isdecimal() and int(text) < rows):
            raise DataError(
                f"{files.ids_path}: line {number} is '{text}', but {files.features_path.name} has no such row. "
                f"Expected a row number from 0 to {rows - 1}. For other ids, use --captions-per-image N."
            )
    owner = np.array([int(text) for text in files.ids], np.int64)
    without_caption = np.setdiff1d(np.arange(rows), owner)
    if len(without_caption):
        raise DataError(
            f"{files.ids_path}: image row {without_caption[0]} has no caption ({len(without_caption)} of {rows} images "
            "have none). Expected at least one per image. Remove these images, or use --captions-per-image N if the "
            "ids are not row numbers."
        )
    return CaptionOwners(np.arange(rows), owner, None)


def _spread_evenly(files: SplitFiles, per_image: int, copies: int) -> CaptionOwners:
    images = len(files.features) // copies
    owner = np.repeat(np.arange(images), per_image)
    return CaptionOwners(np.arange(images) * copies, owner, _read_names(files, images, per_image), copies)


def _read_names(files: SplitFiles, images: int, per_image: int) -> list[str] | None:
    """Return the image names from an ids file that has one line per image, or the image name once per caption."""
    if files.ids is None:
        return None
    if len(files.ids) == images:
        check_unique(files.ids, files.ids_path, "id")
        return list(files.ids)
    if len(files.ids) == files.captions:
        firsts = list(files.ids[::per_image])
        same = all(name == firsts[i // per_image] for i, name in enumerate(files.ids))
        if same and len(set(firsts)) == images:
            return firsts
        if len(set(files.ids)) == len(files.ids):  # ids of captions, not of images
            return None
        raise DataError(
            f"{files.ids_path}: {len(files.ids)} ids, one per caption, that are neither row numbers of "
            f"{files.features_path.name} nor equal for the {per_image} captions of each image. Expected row numbers "
            f"from 0 to {len(files.features) - 1} (--captions-per-image ids). Otherwise, remove the file."
        )
    raise DataError(
        f"{files.ids_path}: {len(files.ids)} lines. Expected {images} (one per image) or {files.captions} (one per "
        "caption)."
    )

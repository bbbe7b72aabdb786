"""Open the files of one split of a SCAN folder, check that they fit together, and assign captions to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.data.importers.checks import check_caption
from hire_model.data.importers.files import check_unique, open_array, read_lines
from hire_model.errors import DataError

_COPIES = 5  # how often VSE++'s and SCAN's files repeat an image, once per caption


@dataclass(frozen=True)
class CaptionOwners:
    """The images of one split and their captions.

    rows    [images] row of each image in the features
    owner   [captions] index of each caption's image
    names   [images] the ids file's name of each image, None if it has none
    copies  how many equal rows each image has in the features; only the first is used
    """

    rows: np.ndarray
    owner: np.ndarray
    names: list[str] | None
    copies: int = 1

    def group_captions(self) -> list[np.ndarray]:
        """For each image the numbers of its captions, in order."""
        order = np.argsort(self.owner, kind="stable")
        return np.split(order, np.searchsorted(self.owner[order], np.arange(1, len(self.rows))))


@dataclass(frozen=True)
class SplitFiles:
    """What the rules look at: paths for the messages, features [N, R, F], the number of captions, the ids' lines."""

    features_path: Path
    captions_path: Path
    ids_path: Path
    features: np.ndarray
    captions: int
    ids: Sequence[str] | None


@dataclass(frozen=True)
class ScanSplit:
    """What one split's files hold (see `scan`); None for an optional file that is not there."""

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
    counted = SplitFiles(path("ims.npy"), path("caps.txt"), path("ids.txt"), features, len(captions), ids)
    boxes = array("boxes.npy", "f", [rows, regions, 4], "boxes x1 y1 x2 y2 of each region")
    sizes = array("sizes.npy", "iuf", [rows, 2], "width and height of each image in pixels")
    return ScanSplit(
        folder,
        name,
        features,
        captions,
        find_owners(counted, rule, notes),
        _check_one_per_row(names, rows, path("names.txt")),
        boxes,
        _detect_pixels(boxes, sizes, path("boxes.npy"), path("sizes.npy"), notes),
        sizes,
        array("classes.npy", "iu", [rows, regions], "the class id of each region"),
        array("scores.npy", "f", [rows, regions], "the score of each region"),
        array("n_regions.npy", "iu", [rows], "the number of real regions of each image"),
        _check_one_per_row(lines("relations.jsonl"), rows, path("relations.jsonl")),
    )


def _check_one_per_row(lines: list[str] | None, rows: int, path: Path) -> list[str] | None:
    if lines is not None and len(lines) != rows:
        raise DataError(f"{path}: {len(lines)} lines. Expected {rows}, one per image row of the features.")
    return lines


def _detect_pixels(
    boxes: np.ndarray | None, sizes: np.ndarray | None, path: Path, sizes_path: Path, notes: Notes
) -> bool:
    """Whether boxes are pixels: they are where any number is above 1 by more than a fraction may overhang."""
    if boxes is None:
        return False
    pixels = bool(np.fmax.reduce(boxes, axis=None) > 1.01)
    if pixels and sizes is None:
        raise DataError(
            f"{path}: numbers above 1, so the boxes are in pixels, but {sizes_path.name} is missing. Write it as "
            "[N, 2] width and height of each image, or give the boxes as fractions of them."
        )
    notes.add(f"{path.name}: boxes are in {'pixels' if pixels else 'fractions (no number is above 1)'}.")
    return pixels


def find_owners(files: SplitFiles, rule: str, notes: Notes) -> CaptionOwners:
    """The caption -> image map of one split. rule: auto, ids, or the number of captions per image.

    auto: an ids file with one row number per caption decides; otherwise every image has equally many captions, in
    order. Raises DataError where that does not come out even, naming the option that settles it.
    """
    if rule == "ids":
        return _read_owners(files)
    if rule != "auto" and not (rule.isdecimal() and int(rule) > 0):
        raise DataError(f"--captions-per-image {rule}: expected auto, ids or a number from 1.")
    rows, total = len(files.features), files.captions
    copies = _COPIES if rule == "auto" else int(rule)
    if rows == total and copies > 1 and rows % copies == 0 and _has_copies(files.features, copies):
        notes.add(f"{files.features_path.name}: each image is there {copies} times, once per caption; it is kept once.")
        return _spread_evenly(files, copies, copies)
    if rule == "auto" and files.ids is not None and len(files.ids) == total and _are_row_numbers(files.ids, rows):
        notes.add(f"{files.ids_path.name}: one row number per caption, taken as the caption -> image map.")
        return _read_owners(files)
    per_image = total // rows if rule == "auto" else int(rule)
    if per_image * rows != total:
        raise DataError(_describe_uneven(files, rule))
    notes.add(f"{files.captions_path.name}: {per_image} captions per image, in the order of the images.")
    return _spread_evenly(files, per_image, 1)


def _describe_uneven(files: SplitFiles, rule: str) -> str:
    wanted = "a multiple of that" if rule == "auto" else f"{int(rule) * len(files.features)} ({rule} per image)"
    return (
        f"{files.captions_path}: {files.captions} captions for {len(files.features)} images of "
        f"{files.features_path.name}. Expected {wanted}. If the number differs from image to image, write "
        f"{files.ids_path.name} with, for each caption, the row number of its image (0 to "
        f"{len(files.features) - 1}) and say --captions-per-image ids; if not, lines are missing."
    )


def _are_row_numbers(ids: Sequence[str], rows: int) -> bool:
    return all(text.strip().isdecimal() and int(text) < rows for text in ids)


def _has_copies(features: np.ndarray, copies: int) -> bool:
    """Whether rows come in runs of `copies` equal ones; looks at a few runs, `scan` compares all as it reads them."""
    blocks = np.unique(np.linspace(0, len(features) // copies - 1, 8).astype(int))
    return all((features[b * copies : (b + 1) * copies] == features[b * copies]).all() for b in blocks)


def _read_owners(files: SplitFiles) -> CaptionOwners:
    if files.ids is None:
        raise DataError(f"--captions-per-image ids: {files.ids_path} is missing. Expected a row number per caption.")
    rows = len(files.features)
    if len(files.ids) != files.captions:
        raise DataError(
            f"{files.ids_path}: {len(files.ids)} lines for {files.captions} captions of {files.captions_path.name}. "
            "Expected, for each caption, the row number of its image."
        )
    for number, text in enumerate(files.ids, 1):
        if not (text.strip().isdecimal() and int(text) < rows):
            raise DataError(
                f"{files.ids_path}: line {number} is '{text}', but {files.features_path.name} has no such image. "
                f"Expected a row number from 0 to {rows - 1}; with another kind of id say --captions-per-image N."
            )
    owner = np.array([int(text) for text in files.ids], np.int64)
    bare = np.setdiff1d(np.arange(rows), owner)
    if len(bare):
        raise DataError(
            f"{files.ids_path}: image row {bare[0]} has no caption ({len(bare)} of {rows} images have none). Every "
            "image needs one; take such images out, or say --captions-per-image N if these ids are no row numbers."
        )
    return CaptionOwners(np.arange(rows), owner, None)


def _spread_evenly(files: SplitFiles, per_image: int, copies: int) -> CaptionOwners:
    images = len(files.features) // copies
    owner = np.repeat(np.arange(images), per_image)
    return CaptionOwners(np.arange(images) * copies, owner, _read_names(files, images, per_image), copies)


def _read_names(files: SplitFiles, images: int, per_image: int) -> list[str] | None:
    """The images' names out of an ids file with a line per image, or with the image's name again for each caption."""
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
        if len(set(files.ids)) == len(files.ids):  # the captions' own ids: they name no image
            return None
        raise DataError(
            f"{files.ids_path}: {len(files.ids)} ids, one per caption, that are neither row numbers of "
            f"{files.features_path.name} nor the same for each {per_image} captions of an image. Expected row numbers "
            f"from 0 to {len(files.features) - 1} (--captions-per-image ids), or no such file."
        )
    raise DataError(
        f"{files.ids_path}: {len(files.ids)} lines. Expected {images} (one per image) or {files.captions} (one per "
        "caption)."
    )

"""Which image a caption of SCAN's layout belongs to: said by an ids file, or by a rule of so many per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.data.importers.files import repeated
from hire_model.errors import DataError

_COPIES = 5  # how often VSE++'s and SCAN's files repeat an image, once per caption


@dataclass(frozen=True)
class Owners:
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

    def groups(self) -> list[np.ndarray]:
        """For each image the numbers of its captions, in order."""
        order = np.argsort(self.owner, kind="stable")
        return np.split(order, np.searchsorted(self.owner[order], np.arange(1, len(self.rows))))


@dataclass(frozen=True)
class Counted:
    """What the rules look at: paths for the messages, features [N, R, F], the number of captions, the ids' lines."""

    features_path: Path
    captions_path: Path
    ids_path: Path
    features: np.ndarray
    captions: int
    ids: Sequence[str] | None


def find_owners(files: Counted, rule: str, notes: Notes) -> Owners:
    """The caption -> image map of one split. rule: auto, ids, or the number of captions per image.

    auto: an ids file with one row number per caption decides; otherwise every image has equally many captions, in
    order. Raises DataError where that does not come out even, naming the option that settles it.
    """
    if rule == "ids":
        return _by_ids(files)
    if rule != "auto" and not (rule.isdecimal() and int(rule) > 0):
        raise DataError(f"--captions-per-image {rule}: expected auto, ids or a number from 1.")
    rows, total = len(files.features), files.captions
    copies = _COPIES if rule == "auto" else int(rule)
    if rows == total and copies > 1 and rows % copies == 0 and _has_copies(files.features, copies):
        notes.say(f"{files.features_path.name}: each image is there {copies} times, once per caption; it is kept once.")
        return _evenly(files, copies, copies)
    if rule == "auto" and files.ids is not None and len(files.ids) == total and _are_rows(files.ids, rows):
        notes.say(f"{files.ids_path.name}: one row number per caption, taken as the caption -> image map.")
        return _by_ids(files)
    per_image = total // rows if rule == "auto" else int(rule)
    if per_image * rows != total:
        raise DataError(_uneven(files, rule))
    notes.say(f"{files.captions_path.name}: {per_image} captions per image, in the order of the images.")
    return _evenly(files, per_image, 1)


def _uneven(files: Counted, rule: str) -> str:
    wanted = "a multiple of that" if rule == "auto" else f"{int(rule) * len(files.features)} ({rule} per image)"
    return (
        f"{files.captions_path}: {files.captions} captions for {len(files.features)} images of "
        f"{files.features_path.name}. Expected {wanted}. If the number differs from image to image, write "
        f"{files.ids_path.name} with, for each caption, the row number of its image (0 to "
        f"{len(files.features) - 1}) and say --captions-per-image ids; if not, lines are missing."
    )


def _are_rows(ids: Sequence[str], rows: int) -> bool:
    return all(text.strip().isdecimal() and int(text) < rows for text in ids)


def _has_copies(features: np.ndarray, copies: int) -> bool:
    """Whether rows come in runs of `copies` equal ones; looks at a few runs, `scan` compares all as it reads them."""
    blocks = np.unique(np.linspace(0, len(features) // copies - 1, 8).astype(int))
    return all((features[b * copies : (b + 1) * copies] == features[b * copies]).all() for b in blocks)


def _by_ids(files: Counted) -> Owners:
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
    return Owners(np.arange(rows), owner, None)


def _evenly(files: Counted, per_image: int, copies: int) -> Owners:
    images = len(files.features) // copies
    owner = np.repeat(np.arange(images), per_image)
    return Owners(np.arange(images) * copies, owner, _names(files, images, per_image), copies)


def _names(files: Counted, images: int, per_image: int) -> list[str] | None:
    """The images' names out of an ids file with a line per image, or with the image's name again for each caption."""
    if files.ids is None:
        return None
    if len(files.ids) == images:
        repeated(files.ids, files.ids_path, "id")
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

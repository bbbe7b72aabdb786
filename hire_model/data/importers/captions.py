"""Read a captions file: captions and splits for feature files that hold neither.

Two layouts are supported:
- Karpathy's JSON (`dataset_flickr30k.json`, `dataset_coco.json`):
  {"images": [{"filename", "split", "cocoid", "sentences": [{"raw", "sentid"}]}]}
- a table: `.jsonl` with {"image", "split", "caption"} per line, or `.tsv` with the columns image, split, caption,
  which its first line names
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hire_model.data.importers.base import Notes, select_splits
from hire_model.data.importers.checks import check_caption, select_real_features, to_fractions
from hire_model.data.importers.files import parse_json, read_bytes, read_lines
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
_COCO = re.compile(r"(?:COCO_\w+_)?0*(\d+)")
_SPLITS = {"val": "dev"}  # Karpathy's name: our name


@dataclass
class CaptionedImage:
    """One image of a captions file. `keys`: all names that its features may have."""

    image_id: str
    split: str
    keys: set[str]
    captions: list[str] = field(default_factory=list)
    caption_ids: list[str] = field(default_factory=list)


def derive_image_keys(name: str) -> list[str]:
    """Return the names that other files may use for image `name`: without folder, without suffix, its COCO number."""
    base = PurePosixPath(name).name
    stem = base[: -len(suffix)] if (suffix := PurePosixPath(base).suffix).lower() in _PICTURE_SUFFIXES else base
    number = _COCO.fullmatch(stem)
    return list(dict.fromkeys([name, base, stem, *([number[1]] if number else [])]))


class Captions:
    """All images of a captions file in the imported splits. Images are found by any of their names."""

    def __init__(self, path: Path, images: Iterable[CaptionedImage], splits: Sequence[str]) -> None:
        self.path = path
        all_images = list(images)
        if not all_images:
            raise DataError(f"{path}: no images. Expected captions of at least one.")
        selected = set(select_splits(splits, dict.fromkeys(image.split for image in all_images), str(path)))
        self.images = [image for image in all_images if image.split in selected]
        self._by_key: dict[str, int] = {}
        for index, image in enumerate(self.images):
            for key in image.keys:
                if self._by_key.setdefault(key, index) != index:
                    other = self.images[self._by_key[key]].image_id
                    raise DataError(f"{path}: images '{other}' and '{image.image_id}' share the name '{key}'.")

    def find(self, name: str) -> int | None:
        """Return the index in `images` of the image called `name`, None if there is none."""
        return next((self._by_key[key] for key in derive_image_keys(name) if key in self._by_key), None)

    def check_complete(self, found: Iterable[int], source: str) -> None:
        """Raise DataError if an image with captions has no features. `found`: indices of the images with features."""
        missing = sorted(set(range(len(self.images))) - set(found))
        if missing:
            first = ", ".join(f"'{self.images[i].image_id}'" for i in missing[:3])
            raise DataError(
                f"{source}: no features for {len(missing):,} of {len(self.images):,} images with captions in "
                f"{self.path} ({first}). Expected features for each image. Add the missing files, or restrict the "
                "import with --split."
            )


def read_captions(path: Path, splits: Sequence[str], restval: str, notes: Notes, first: int = 0) -> Captions:
    """Read Karpathy's JSON (.json) or a table of captions (.jsonl, .tsv).

    Args:
        path: the captions file
        splits: names of the splits to read; empty for all
        restval: "train" adds the 30,504 images of COCO's split restval to train, as papers do; "drop" skips them
        notes: receives what was changed
        first: number of captions to keep per image, 0 for all. The published COCO results use 5, the lists of SCAN.
    """
    path = path.expanduser()
    if path.suffix == ".json":
        images = _read_karpathy(path, restval, notes)
    elif path.suffix in (".jsonl", ".tsv"):
        images = _read_table(path, notes)
    else:
        raise DataError(f"{path}: unknown type of captions file. Expected Karpathy's .json, or a table .jsonl or .tsv.")
    captions = Captions(path, images, splits)
    if first:
        _truncate_captions(captions, first, notes)
    return captions


def _truncate_captions(captions: Captions, first: int, notes: Notes) -> None:
    """Keep only the `first` captions of each image."""
    for image in captions.images:
        where = f"image '{image.image_id}'"
        if len(image.captions) > first:
            notes.count(f"captions after the first {first} of an image, skipped", where, len(image.captions) - first)
        elif len(image.captions) < first:
            notes.count(f"images with fewer than {first} captions", where)
        del image.captions[first:], image.caption_ids[first:]


def _read_karpathy(path: Path, restval: str, notes: Notes) -> list[CaptionedImage]:
    data = parse_json(read_bytes(path), str(path))
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError(f"{path}: not in Karpathy's layout. Expected an object with a list 'images'.")
    images = []
    id_places: dict[str, str] = {}
    for number, entry in enumerate(data["images"]):
        where = f"{path}: images[{number}]"
        name, split, sentences = (_read_field(entry, key, kind, where) for key, kind in _KARPATHY_FIELDS)
        if split == "restval":
            if restval == "drop":
                notes.count("images of split restval, skipped", where)
                continue
            split = "train"
            notes.count("images of split restval, added to train", where)
        image = CaptionedImage(name, _SPLITS.get(split, split), {*derive_image_keys(name)})
        if "cocoid" in entry:
            image.keys.add(str(entry["cocoid"]))
        for index, sentence in enumerate(sentences):
            _add_sentence(image, sentence, index, f"{where}.sentences[{index}]", id_places)
        if not sentences:
            raise DataError(f"{where}: image '{name}' has no sentence. Expected at least one.")
        images.append(image)
    return images


def _add_sentence(image: CaptionedImage, entry: Any, index: int, where: str, id_places: dict[str, str]) -> None:
    """Add a sentence to its image. `id_places`: place of each caption id in the file."""
    raw = _read_field(entry, "raw", str, where)
    number = entry.get("sentid")
    caption_id = f"{image.image_id}#{index}" if number is None else str(number)
    if caption_id in id_places:
        raise DataError(
            f"{where}: caption id '{caption_id}' is already used at {id_places[caption_id]}. Expected each sentid "
            "once. Renumber the sentences, or remove the field from all of them."
        )
    id_places[caption_id] = where
    _add_caption(image, raw, caption_id, where)


_KARPATHY_FIELDS = (("filename", str), ("split", str), ("sentences", list))


def _read_field(entry: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind) or entry[key] == "":
        expected = "a list" if kind is list else "a non-empty string"
        raise DataError(f"{where}: field '{key}' is missing or has the wrong type. Expected {expected}.")
    return entry[key]


def _add_caption(image: CaptionedImage, text: str, caption_id: str, where: str) -> None:
    caption = " ".join(text.split("\n")).strip()
    if not caption:
        raise DataError(f"{where}: the caption is empty. Expected text. Remove the caption or restore its text.")
    check_caption(caption, where)
    image.captions.append(caption)
    image.caption_ids.append(caption_id)


def _read_table(path: Path, notes: Notes) -> list[CaptionedImage]:
    images: dict[str, CaptionedImage] = {}
    for number, row in _read_rows(path, notes):
        where = f"{path}: line {number}"
        name, split, text = (_read_field(row, key, str, where) for key in ("image", "split", "caption"))
        image = images.setdefault(name, CaptionedImage(name, split, {*derive_image_keys(name)}))
        if image.split != split:
            raise DataError(f"{where}: image '{name}' is in split '{split}' here and in '{image.split}' above.")
        _add_caption(image, text, f"{name}#{len(image.captions)}", where)
    return list(images.values())


def _read_rows(path: Path, notes: Notes) -> Iterable[tuple[int, Any]]:
    lines = read_lines(path, notes)
    if path.suffix == ".jsonl":
        yield from ((n, parse_json(line, f"{path}: line {n}")) for n, line in enumerate(lines, 1))
        return
    columns = lines[0].split("\t")
    if missing := {"image", "split", "caption"} - set(columns):
        raise DataError(f"{path}: line 1 has no column {', '.join(sorted(missing))}. Expected image, split, caption.")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise DataError(f"{path}: line {number} has {len(cells)} columns. Expected {len(columns)}, as in line 1.")
        yield number, dict(zip(columns, cells, strict=True))


@dataclass(frozen=True)
class Detections:
    """Detected regions of one image. Fields are None if the file does not have them.

    features [r, F], boxes [r, 4], size (width, height) in pixels, classes [r], scores [r]
    """

    features: np.ndarray
    boxes: np.ndarray | None = None
    size: tuple[int, int] | None = None
    classes: np.ndarray | None = None
    scores: np.ndarray | None = None


def make_record(image: CaptionedImage, detections: Detections, where: str, notes: Notes) -> ImageRecord:
    """Check the regions of an image and return its record. Boxes are in pixels if a number is above 1."""
    features = select_real_features(detections.features, None, where, notes)
    real = slice(0, len(features))
    boxes, width, height = detections.boxes, *(detections.size or (0, 0))
    if boxes is not None:
        pixels = bool(np.fmax.reduce(boxes[real], axis=None) > 1.01)
        if pixels and not detections.size:
            raise DataError(
                f"{where}: the boxes are in pixels, but width and height of the image are missing. Expected both."
            )
        boxes = to_fractions(boxes[real], detections.size if pixels else None, where, notes)
    return ImageRecord(
        image_id=image.image_id,
        split=image.split,
        features=features,
        captions=image.captions,
        caption_ids=image.caption_ids,
        width=width,
        height=height,
        boxes=boxes,
        classes=None if detections.classes is None else detections.classes[real],
        scores=None if detections.scores is None else detections.scores[real],
        picture=image.image_id,
    )

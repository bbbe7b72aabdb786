"""Captions and splits for features that come without them: Karpathy's JSON, or a table of captions.

Karpathy's `dataset_flickr30k.json` / `dataset_coco.json`: {"images": [{"filename", "split", "cocoid", "sentences":
[{"raw", "sentid"}]}]}. A table: `.jsonl` with {"image", "split", "caption"} per line, or `.tsv` whose first line names
the columns image, split, caption.
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
_SPLITS = {"val": "dev"}  # Karpathy's word and ours


@dataclass
class CaptionedImage:
    """One image as a captions file knows it. keys: all names under which its features may be found."""

    image_id: str
    split: str
    keys: set[str]
    captions: list[str] = field(default_factory=list)
    caption_ids: list[str] = field(default_factory=list)


def derive_image_keys(name: str) -> list[str]:
    """The names under which `name`'s image goes elsewhere: without folder, without suffix, its number in COCO."""
    base = PurePosixPath(name).name
    stem = base[: -len(suffix)] if (suffix := PurePosixPath(base).suffix).lower() in _PICTURE_SUFFIXES else base
    number = _COCO.fullmatch(stem)
    return list(dict.fromkeys([name, base, stem, *([number[1]] if number else [])]))


class Captions:
    """All images of a captions file in the wanted splits, found by any of their names."""

    def __init__(self, path: Path, images: Iterable[CaptionedImage], splits: Sequence[str]) -> None:
        self.path = path
        everything = list(images)
        if not everything:
            raise DataError(f"{path}: not one image in it. Expected captions of one or more.")
        kept = set(select_splits(splits, dict.fromkeys(image.split for image in everything), str(path)))
        self.images = [image for image in everything if image.split in kept]
        self._by_key: dict[str, int] = {}
        for index, image in enumerate(self.images):
            for key in image.keys:
                if self._by_key.setdefault(key, index) != index:
                    other = self.images[self._by_key[key]].image_id
                    raise DataError(f"{path}: images '{other}' and '{image.image_id}' both go by the name '{key}'.")

    def find(self, name: str) -> int | None:
        """Index in `images` of the image that `name` means, None if it is not there."""
        return next((self._by_key[key] for key in derive_image_keys(name) if key in self._by_key), None)

    def check_complete(self, found: Iterable[int], source: str) -> None:
        """Raise DataError if images with captions have no features."""
        missing = sorted(set(range(len(self.images))) - set(found))
        if missing:
            first = ", ".join(f"'{self.images[i].image_id}'" for i in missing[:3])
            raise DataError(
                f"{source}: no features for {len(missing):,} of {len(self.images):,} images that {self.path} has "
                f"captions for ({first}). Expected features for each; name the missing files too, or restrict the "
                "import with --split."
            )


def read_captions(path: Path, splits: Sequence[str], restval: str, notes: Notes, first: int = 0) -> Captions:
    """Read Karpathy's JSON (.json) or a table of captions (.jsonl, .tsv).

    restval: "train" puts COCO's 30,504 images of that split into train, as papers do; "drop" leaves them out.
    first: only an image's first so many captions are kept, 0 keeps all; 5 gives the lists of SCAN, on which COCO's
    figures are published.
    """
    path = path.expanduser()
    if path.suffix == ".json":
        images = _read_karpathy(path, restval, notes)
    elif path.suffix in (".jsonl", ".tsv"):
        images = _read_table(path, notes)
    else:
        raise DataError(f"{path}: unknown kind of captions file. Expected Karpathy's .json, or a table .jsonl or .tsv.")
    found = Captions(path, images, splits)
    if first:
        _truncate_captions(found, first, notes)
    return found


def _truncate_captions(found: Captions, first: int, notes: Notes) -> None:
    """Only the `first` captions of each image."""
    for image in found.images:
        where = f"image '{image.image_id}'"
        if len(image.captions) > first:
            notes.count(f"captions beyond an image's first {first} left out", where, len(image.captions) - first)
        elif len(image.captions) < first:
            notes.count(f"images with fewer than {first} captions", where)
        del image.captions[first:], image.caption_ids[first:]


def _read_karpathy(path: Path, restval: str, notes: Notes) -> list[CaptionedImage]:
    data = parse_json(read_bytes(path), str(path))
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError(f"{path}: expected Karpathy's layout, an object with a list 'images'.")
    images = []
    places: dict[str, str] = {}
    for number, entry in enumerate(data["images"]):
        where = f"{path}: images[{number}]"
        name, split, sentences = (_read_field(entry, key, kind, where) for key, kind in _KARPATHY_FIELDS)
        if split == "restval":
            if restval == "drop":
                notes.count("images of split restval left out", where)
                continue
            split = "train"
            notes.count("images of split restval put into train", where)
        image = CaptionedImage(name, _SPLITS.get(split, split), {*derive_image_keys(name)})
        if "cocoid" in entry:
            image.keys.add(str(entry["cocoid"]))
        for at, sentence in enumerate(sentences):
            _add_sentence(image, sentence, at, f"{where}.sentences[{at}]", places)
        if not sentences:
            raise DataError(f"{where}: image '{name}' has no sentence. Expected one or more.")
        images.append(image)
    return images


def _add_sentence(image: CaptionedImage, entry: Any, at: int, where: str, places: dict[str, str]) -> None:
    """Add a sentence to its image. places: where each caption id was found, over the whole file."""
    raw = _read_field(entry, "raw", str, where)
    number = entry.get("sentid")
    caption_id = f"{image.image_id}#{at}" if number is None else str(number)
    if caption_id in places:
        raise DataError(
            f"{where}: the caption's id '{caption_id}' is already that of {places[caption_id]}. Expected each sentid "
            "once; number the sentences anew, or leave the field out of all."
        )
    places[caption_id] = where
    _add_caption(image, raw, caption_id, where)


_KARPATHY_FIELDS = (("filename", str), ("split", str), ("sentences", list))


def _read_field(entry: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind) or entry[key] == "":
        words = {str: "a text that is not empty", list: "a list", int: "an integer", dict: "an object"}[kind]
        raise DataError(f"{where}: field '{key}' is missing or of the wrong kind. Expected {words}.")
    return entry[key]


def _add_caption(image: CaptionedImage, text: str, caption_id: str, where: str) -> None:
    words = " ".join(text.split("\n")).strip()
    if not words:
        raise DataError(f"{where}: the caption is empty. Expected text; take the caption out or put its text back.")
    check_caption(words, where)
    image.captions.append(words)
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
        raise DataError(f"{path}: line 1 names no column {', '.join(sorted(missing))}. Expected image, split, caption.")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise DataError(f"{path}: line {number} has {len(cells)} columns. Expected {len(columns)}, as line 1 has.")
        yield number, dict(zip(columns, cells, strict=True))


@dataclass(frozen=True)
class Detections:
    """What one file says of one image: features [r, F], boxes [r, 4] or None, (width, height) or None."""

    features: np.ndarray
    boxes: np.ndarray | None = None
    size: tuple[int, int] | None = None
    classes: np.ndarray | None = None
    scores: np.ndarray | None = None


def make_record(image: CaptionedImage, found: Detections, where: str, notes: Notes) -> ImageRecord:
    """The image with its regions, checked. Boxes are taken for pixels if a number is above 1."""
    features = select_real_features(found.features, None, where, notes)
    real = slice(0, len(features))
    boxes, width, height = found.boxes, *(found.size or (0, 0))
    if boxes is not None:
        pixels = bool(np.fmax.reduce(boxes[real], axis=None) > 1.01)
        if pixels and not found.size:
            raise DataError(f"{where}: boxes in pixels, but no width and height of the image. Expected both.")
        boxes = to_fractions(boxes[real], found.size if pixels else None, where, notes)
    return ImageRecord(
        image_id=image.image_id,
        split=image.split,
        features=features,
        captions=image.captions,
        caption_ids=image.caption_ids,
        width=width,
        height=height,
        boxes=boxes,
        classes=None if found.classes is None else found.classes[real],
        scores=None if found.scores is None else found.scores[real],
        picture=image.image_id,
    )

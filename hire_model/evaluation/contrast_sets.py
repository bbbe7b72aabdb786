"""Read and write contrast sets: images with true and false texts.

`read_contrasts` reads our format, JSON lines with one item per line:

    {"image": "1022454332_6af2c1449a.jpg", "true": ["a dog on a box"], "false": ["a box on a dog"], "kind": "roles"}

It also reads the published files of SugarCrepe, SugarCrepe++, ARO, VALSE and Winoground, and recognises them by their
fields. `make_contrasts` makes a contrast set from the captions of a split.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hire_model.data.importers.captions import derive_image_keys
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.evaluation.behaviour import negate, shuffle_words, swap_colours, swap_roles
from hire_model.evaluation.phrases import swap_phrases
from hire_model.files import write_text

log = logging.getLogger(__name__)

RULES: Final[dict[str, Callable[[str], str | None]]] = {
    "phrases": swap_phrases,
    "roles": swap_roles,
    "colours": swap_colours,
    "order": shuffle_words,
    "negation": negate,
}
"""How `make_contrasts` makes a false text from a caption, by kind."""

_FORMATS = "our JSON lines, or a published file of SugarCrepe, SugarCrepe++, ARO, VALSE or Winoground"
_MIN_VOTES = 2  # VALSE: of three annotators; the paper evaluates only these items


@dataclass(frozen=True)
class ContrastItem:
    """An image id, the texts that are true for the image, those that are false, and the kind of contrast."""

    image: str
    true: tuple[str, ...]
    false: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class MatchedItems:
    """The items whose image is in a split.

    items     I items, sorted by image
    images    [I] int64, index of each item's image in the split
    kinds     kinds of the items, in the order of the file
    missing   ids of the images that are not in the split
    left_out  number of items of missing images
    """

    items: list[ContrastItem]
    images: np.ndarray
    kinds: list[str]
    missing: list[str]
    left_out: int


def read_contrasts(path: Path) -> list[ContrastItem]:
    """Read the contrast set in `path`. Raises DataError with file, item and field if it has no known format."""
    path = path.expanduser()
    items = [item for record in _read_records(path) for item in _convert(record)]
    if not items:
        raise DataError(f"{path}: no items. Expected {_FORMATS}.")
    return items


def write_contrasts(items: Sequence[ContrastItem], path: Path) -> Path:
    """Write `items` to `path` in our format, atomically."""
    return write_text("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items), path)


def make_contrasts(split: Split) -> list[ContrastItem]:
    """Make an item of each caption and each of RULES that applies to it.

    The rules work on the surface of the text. They do not parse it, and the result is not checked against the image. A
    result that equals a caption of the same image is left out.
    """
    captions: dict[int, set[str]] = {}
    for text, image in zip(split.texts, split.owner.tolist(), strict=True):
        captions.setdefault(image, set()).add(text.lower())
    return [
        ContrastItem(split.image_id(image), (text,), (changed,), kind)
        for kind, change in RULES.items()
        for text, image in zip(split.texts, split.owner.tolist(), strict=True)
        if (changed := change(text)) is not None and changed.lower() not in captions[image]
    ]


def find_rows(images: Iterable[str], split: Split) -> dict[str, int]:
    """Return the index in `split` of each image id, each once and in order; -1 for an image that is not in the split.

    Ids match if they are equal, or equal without folder and suffix, or have the same COCO number. An id that could be
    two images of the split does not match.
    """
    rows: dict[str, int] = {}
    for row in range(len(split.images)):
        for key in derive_image_keys(split.image_id(row))[1:]:
            rows[key] = -1 if rows.get(key, row) != row else row
    rows |= {split.image_id(row): row for row in range(len(split.images))}
    return {
        image: next((rows[key] for key in derive_image_keys(image) if key in rows), -1)
        for image in dict.fromkeys(images)
    }


def match_images(items: Sequence[ContrastItem], split: Split) -> MatchedItems:
    """Find the image of each item in `split`, as `find_rows`. Raise DataError if no item has an image in the split."""
    found = find_rows([item.image for item in items], split)
    missing = [image for image, row in found.items() if row < 0]
    kept = sorted((item for item in items if found[item.image] >= 0), key=lambda item: found[item.image])
    if not kept:
        raise DataError(
            f"{split.dataset.folder}: split '{split.name}' has no image of the contrast set. It has ids such as "
            f"'{split.image_id(0)}', the contrast set such as '{missing[0]}'. Choose the data set and the split that "
            "the contrast set was made for."
        )
    images = np.array([found[item.image] for item in kept], np.int64)
    kinds = list(dict.fromkeys(item.kind for item in items if found[item.image] >= 0))
    return MatchedItems(kept, images, kinds, missing, len(items) - len(kept))


@dataclass(frozen=True)
class _Record:
    """One JSON object of a file. where: file and item, for error messages."""

    path: Path
    where: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """Return the text in field `name`."""
        if name not in self.fields:
            raise DataError(f"{self.where}: field '{name}' is missing. Expected {_FORMATS}.")
        return self._check(name, self.fields[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts in field `name`, at least one."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not value:
            found = "is missing" if name not in self.fields else f"is {_shorten(value)}"
            raise DataError(f"{self.where}: field '{name}' {found}. Expected a list of one or more texts.")
        return tuple(self._check(f"{name}[{k}]", text) for k, text in enumerate(value))

    def _check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: field '{name}' is {_shorten(value)}. Expected a text that is not empty.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{self.where}: field '{name}' holds half a character: {error}.") from error
        return value


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:37] + "..."


def _read_records(path: Path) -> Iterator[_Record]:
    """Yield the objects of a JSON file (a list, or an object of objects) or of a file with one object per line."""
    try:
        content = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}. Expected {_FORMATS}.") from error
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:
        whole = None
    values: Iterator[tuple[str, Any]]
    if isinstance(whole, list):
        values = ((f"{path}, item {number}", value) for number, value in enumerate(whole))
    elif isinstance(whole, dict) and all(isinstance(value, dict) for value in whole.values()):
        values = ((f"{path}, item '{key}'", value) for key, value in whole.items())
    else:
        values = _read_lines(path, content)
    for where, fields in values:
        if not isinstance(fields, dict):
            raise DataError(f"{where}: is {_shorten(fields)}. Expected an object, in {_FORMATS}.")
        yield _Record(path, where, fields)


def _read_lines(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        where = f"{path}, line {number}"
        try:
            if line.strip():
                yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: is not JSON: {error}. Expected {_FORMATS}.") from error


def _convert(record: _Record) -> list[ContrastItem]:
    """Convert a record of any known format."""
    for names, convert in _PUBLISHED:
        if names <= record.fields.keys():
            return convert(record)
    image = record.fields.get("image")
    name = str(image) if isinstance(image, int) and not isinstance(image, bool) else record.text("image")
    return [ContrastItem(name, record.texts("true"), record.texts("false"), record.text("kind"))]


def _convert_sugarcrepe(record: _Record) -> list[ContrastItem]:
    """One file per kind, such as swap_att.json: {"0": {"filename", "caption", "negative_caption"}, ...}."""
    true, kind = (record.text("caption"),), f"sugarcrepe/{record.path.stem}"
    return [ContrastItem(record.text("filename"), true, (record.text("negative_caption"),), kind)]


def _convert_sugarcrepe_pp(record: _Record) -> list[ContrastItem]:
    """One file per kind: [{"id", "filename", "caption", "caption2", "negative_caption"}, ...]."""
    true, kind = (record.text("caption"), record.text("caption2")), f"sugarcrepe++/{record.path.stem}"
    return [ContrastItem(record.text("filename"), true, (record.text("negative_caption"),), kind)]


def _convert_aro(record: _Record) -> list[ContrastItem]:
    """visual_genome_relation.json, visual_genome_attribution.json: [{"image_path", "true_caption", ...}, ...]."""
    kind = "aro/relation" if "relation_name" in record.fields else "aro/attribution"
    true, false = (record.text("true_caption"),), (record.text("false_caption"),)
    return [ContrastItem(record.text("image_path"), true, false, kind)]


def _convert_aro_order(record: _Record) -> list[ContrastItem]:
    """`test_cases` of ARO's COCO_Order or Flickr30k_Order as JSON: [{"image", "caption_options": [true, false...]}]."""
    options = record.texts("caption_options")
    if len(options) < 2:
        raise DataError(f"{record.where}: field 'caption_options' has one text. Expected the caption and false texts.")
    return [ContrastItem(record.text("image"), options[:1], options[1:], "aro/order")]


def _convert_valse(record: _Record) -> list[ContrastItem]:
    """One file per kind: {"ID": {"image_file", "caption", "foil", "mturk": {"caption": votes}, ...}, ...}.

    Items that fewer than two of three annotators confirmed are left out, as in the paper.
    """
    votes = record.fields.get("mturk")
    confirmed = votes.get("caption") if isinstance(votes, dict) else None
    if not isinstance(confirmed, int):
        raise DataError(f"{record.where}: field 'mturk.caption' is {_shorten(confirmed)}. Expected a number of votes.")
    if confirmed < _MIN_VOTES:
        return []
    kind = f"valse/{record.path.stem}"
    return [ContrastItem(record.text("image_file"), (record.text("caption"),), (record.text("foil"),), kind)]


def _convert_winoground(record: _Record) -> list[ContrastItem]:
    """examples.jsonl: two images, two captions, and "collapsed_tag". Each image becomes an item."""
    tag = record.fields.get("collapsed_tag")
    kind = f"winoground/{tag}" if isinstance(tag, str) and tag else "winoground"
    first, second = (record.text("caption_0"),), (record.text("caption_1"),)
    return [
        ContrastItem(record.text("image_0"), first, second, kind),
        ContrastItem(record.text("image_1"), second, first, kind),
    ]


# The fields by which a format is recognised, the more specific first.
_PUBLISHED: Final[list[tuple[set[str], Callable[[_Record], list[ContrastItem]]]]] = [
    ({"image_0", "image_1", "caption_0", "caption_1"}, _convert_winoground),
    ({"filename", "caption", "caption2", "negative_caption"}, _convert_sugarcrepe_pp),
    ({"filename", "caption", "negative_caption"}, _convert_sugarcrepe),
    ({"image_path", "true_caption", "false_caption"}, _convert_aro),
    ({"image", "caption_options"}, _convert_aro_order),
    ({"image_file", "caption", "foil"}, _convert_valse),
]

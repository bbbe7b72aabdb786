"""Read captions of pictures from any common layout; the layout is recognised from the content.

csv, tsv   a header that names a column for the picture and one for the caption; a column "split" is optional
jsonl      an object per line with the same keys
coco       {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}
karpathy   {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}]}]}
token      Flickr's lines `name.jpg#0<TAB>caption`
hf         a folder with metadata.csv or metadata.jsonl, or with a folder per split that has one (imagefolder)
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hire_model.data.importers.base import Notes
from hire_model.data.importers.captions import CaptionedImage, read_captions
from hire_model.data.importers.checks import check_caption
from hire_model.data.importers.files import parse_json, read_bytes, read_lines
from hire_model.errors import DataError

FORMATS: Final = ("csv", "tsv", "jsonl", "coco", "karpathy", "token", "hf")
_NAME_COLUMNS = ("image", "file_name", "filename", "image_name", "file", "picture")
_TEXT_COLUMNS = ("caption", "text", "sentence", "description")
_SPLIT_WORDS = {"val": "dev", "valid": "dev", "validation": "dev"}
_TOKEN_LINE = re.compile(r"(?P<name>.+?)#\d+\t(?P<text>.*)")
_METADATA = ("metadata.csv", "metadata.jsonl")
_EXPECTED = f"Expected a picture ({', '.join(_NAME_COLUMNS)}) and a caption ({', '.join(_TEXT_COLUMNS)})."


def read_picture_captions(path: Path, kind: str, notes: Notes) -> list[CaptionedImage]:
    """Return the pictures of a captions file, in order, each once and with one caption or more.

    `image_id` is the picture's name in the file. `split` is empty if the file has no splits; "val" becomes "dev".

    Args:
        path: a file, or a folder in the `hf` layout
        kind: one of FORMATS, or "auto" to recognise it
        notes: receives what was recognised and left out

    Raises:
        DataError: the layout is unknown, a line or field is wrong, or only some of the pictures have a split.
    """
    path = path.expanduser()
    if kind == "auto":
        kind = recognise_format(path)
        notes.add(f"{path.name}: read as {kind}.")
    if kind == "hf" or path.is_dir():
        images = _read_imagefolder(path, notes)
    elif kind == "karpathy":
        images = read_captions(path, (), "train", notes).images
    elif kind == "coco":
        images = _read_coco(path, notes)
    else:
        images = _collect(_read_rows(path, kind, notes))
    if not images:
        raise DataError(f"{path}: no captions in it. {_EXPECTED}")
    for image in images:
        image.split = _SPLIT_WORDS.get(image.split, image.split)
    bare = [image.image_id for image in images if not image.split]
    if 0 < len(bare) < len(images):
        raise DataError(
            f"{path}: picture '{bare[0]}' has no split ({len(bare)} of {len(images)} have none). Expected a split for "
            "each picture, or for none."
        )
    return images


def recognise_format(path: Path) -> str:
    """Return the layout of a captions file or folder. Raises DataError if none fits."""
    if path.is_dir():
        return "hf"
    head = read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace").rstrip("\r")
    if first.startswith("{"):
        return _recognise_json(head, first)
    if _TOKEN_LINE.fullmatch(first):
        return "token"
    for kind, separator in (("tsv", "\t"), ("csv", ",")):
        columns = [cell.strip(' "').lower() for cell in first.split(separator)]
        if set(columns) & set(_NAME_COLUMNS) and set(columns) & set(_TEXT_COLUMNS):
            return kind
    raise DataError(
        f"{path}: the layout was not recognised; it starts with '{first[:60]}'. {_EXPECTED[:-1]} as columns of a first "
        f"line or as JSON keys, or one of the layouts {', '.join(FORMATS)}, named with --captions-format."
    )


def _recognise_json(head: bytes, first: str) -> str:
    """Tell one JSON object from a line of many by the keys; the file is not parsed as a whole."""
    if b'"annotations"' in head and b'"images"' in head:
        return "coco"
    if b'"sentences"' in head and b'"images"' in head:
        return "karpathy"
    return "jsonl"


def _read_rows(path: Path, kind: str, notes: Notes) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place for messages, picture, split, caption) of each line."""
    if kind == "csv":
        yield from _read_csv(path)
        return
    lines = read_lines(path, notes)
    if kind == "token":
        for number, line in enumerate(lines, 1):
            match = _TOKEN_LINE.fullmatch(line)
            if not match:
                raise DataError(f"{path}: line {number}: '{line[:60]}'. Expected name.jpg#0, a tab and a caption.")
            yield f"{path}: line {number}", match["name"], "", match["text"]
    elif kind == "jsonl":
        for number, line in enumerate(lines, 1):
            where = f"{path}: line {number}"
            yield _pick_fields(parse_json(line, where), where)
    else:
        columns = lines[0].split("\t")
        for number, line in enumerate(lines[1:], 2):
            yield _pick_cells(columns, line.split("\t"), f"{path}: line {number}")


def _read_csv(path: Path) -> Iterator[tuple[str, str, str, str]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}. Convert the file to UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        for cells in reader:
            if cells:  # the csv module gives an empty list for an empty line
                yield _pick_cells(columns, cells, f"{path}: line {reader.line_num}")
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not CSV ({error}). Quote cells with commas.") from error


def _pick_cells(columns: list[str], cells: list[str], where: str) -> tuple[str, str, str, str]:
    if len(cells) != len(columns):
        raise DataError(f"{where} has {len(cells)} columns. Expected {len(columns)}, as line 1 has.")
    return _pick_fields(dict(zip((name.strip().lower() for name in columns), cells, strict=True)), where)


def _pick_fields(row: Any, where: str) -> tuple[str, str, str, str]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object. {_EXPECTED}")
    name = next((row[key] for key in _NAME_COLUMNS if key in row), None)
    text = next((row[key] for key in _TEXT_COLUMNS if key in row), None)
    if not (isinstance(name, str) and name.strip() and isinstance(text, str)):
        raise DataError(f"{where}: the picture or the caption is missing or no text. {_EXPECTED}")
    split = row.get("split") or ""
    if not isinstance(split, str):
        raise DataError(f"{where}: field 'split' is {split!r}. Expected the name of a split.")
    return where, name.strip(), split.strip(), text


def _collect(rows: Iterable[tuple[str, str, str, str]]) -> list[CaptionedImage]:
    """Return the pictures of all rows, in order of their first row."""
    images: dict[str, CaptionedImage] = {}
    for where, name, split, text in rows:
        image = images.setdefault(name, CaptionedImage(name, split, set()))
        if image.split != split:
            raise DataError(f"{where}: picture '{name}' is in split '{split}' here and in '{image.split}' above.")
        _add(image, text, f"{name}#{len(image.captions)}", where)
    return list(images.values())


def _add(image: CaptionedImage, text: str, caption_id: str, where: str) -> None:
    text = " ".join(text.split())
    if not text:
        raise DataError(f"{where}: the caption is empty. Expected text; remove the line or add its text.")
    check_caption(text, where)
    image.captions.append(text)
    image.caption_ids.append(caption_id)


def _read_coco(path: Path, notes: Notes) -> list[CaptionedImage]:
    data = parse_json(read_bytes(path), str(path))
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: expected COCO's layout, an object with lists 'images' and 'annotations'.")
    images: dict[int, CaptionedImage] = {}
    for number, entry in enumerate(data["images"]):
        name, key = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(key, int) or key in images:
            raise DataError(f"{path}: images[{number}]: expected an 'id' that no other image has and a 'file_name'.")
        images[key] = CaptionedImage(name, "", set())
    seen = set()
    for number, entry in enumerate(data["annotations"]):
        where = f"{path}: annotations[{number}]"
        owner, text = (entry.get("image_id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        if not isinstance(owner, int) or owner not in images or not isinstance(text, str):
            raise DataError(f"{where}: expected the 'image_id' of one of the images and a text 'caption'.")
        caption_id = str(entry.get("id", f"{images[owner].image_id}#{len(images[owner].captions)}"))
        if caption_id in seen:
            raise DataError(f"{where}: the id {caption_id} is used before. Expected each id once.")
        seen.add(caption_id)
        _add(images[owner], text, caption_id, where)
    for image in images.values():
        if not image.captions:
            notes.count("pictures without a caption, left out", f"'{image.image_id}'")
    return [image for image in images.values() if image.captions]


def _read_imagefolder(path: Path, notes: Notes) -> list[CaptionedImage]:
    """Read Hugging Face's imagefolder: names are relative to the metadata file, a folder below is a split."""
    if path.is_file():
        path = path.parent
    rows: list[tuple[str, str, str, str]] = []
    for folder in (path, *sorted(entry for entry in path.iterdir() if entry.is_dir())):
        for file in (folder / name for name in _METADATA if (folder / name).is_file()):
            split = "" if folder == path else folder.name
            for where, name, given, text in _read_rows(file, file.suffix[1:], notes):
                rows.append((where, f"{split}/{name}" if split else name, split or given, text))
    if not rows:
        raise DataError(f"{path}: no {' or '.join(_METADATA)} with captions, neither there nor in a folder below.")
    return _collect(rows)

"""Read human judgements: pairs of an image and a text with the grades that people gave them.

`read_judgements` reads our format, JSON lines with one pair per line; a higher grade is a better match:

    {"image": "1022454332_6af2c1449a.jpg", "text": "a dog on a box", "grades": [4, 3, 4]}

"caption" with the id of a caption (IMAGE#NUMBER) can replace "text". It also reads the two published files of Flickr8k
(Hodosh et al. 2013), tab-separated, and recognises them by their numbers:

    ExpertAnnotations.txt        image, caption id, three grades of 1 to 4
    CrowdFlowerAnnotations.txt   image, caption id, share of yes, number of yes, number of no

The second column can also be a text. Caption ids are looked up in Flickr8k.token.txt beside the file, or else in the
data set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.importers.captions import derive_image_keys
from hire_model.data.store import Dataset, Split
from hire_model.errors import DataError
from hire_model.evaluation.contrast_sets import find_rows

TOKENS = "Flickr8k.token.txt"
_FORMATS = "our JSON lines, ExpertAnnotations.txt or CrowdFlowerAnnotations.txt of Flickr8k"
_CAPTION_ID = re.compile(r"(\S+)#(\d+)")
_EXPERT_GRADES = {1.0, 2.0, 3.0, 4.0}
_TOLERANCE = 0.01  # published shares of yes are rounded


@dataclass(frozen=True)
class Judgement:
    """An image id, a text, and the grades of the pair. own: the text is a caption of the image in a published file."""

    image: str
    text: str
    grades: tuple[float, ...]
    own: bool = False


@dataclass(frozen=True)
class MatchedJudgements:
    """The judgements of one file whose image is in a split.

    path          the file
    judgements    K pairs, sorted by image
    images        [K] int64, index of each pair's image in the split
    missing       ids of the images that are not in the split
    left_out      number of pairs of missing images
    own_captions  number of pairs that are left out because the caption belongs to the image
    """

    path: Path
    judgements: list[Judgement]
    images: np.ndarray
    missing: list[str]
    left_out: int
    own_captions: int


@dataclass(frozen=True)
class _Row:
    """One pair of a file. where: file and line, for error messages; caption: an id, or "" if `text` is given."""

    where: str
    image: str
    caption: str
    text: str
    grades: tuple[float, ...]


def match_judgements(path: Path, split: Split) -> MatchedJudgements:
    """Read the judgements in `path` and find their images in `split`.

    Image ids match as in `find_rows`. Pairs of a published file whose caption
    belongs to the image are left out, as is usual (Hessel et al. 2021, appendix A).

    Raises:
        DataError: the file has no known format, a caption is unknown, or no image is in the split.
    """
    judgements = read_judgements(path, split.dataset)
    kept = [judgement for judgement in judgements if not judgement.own]
    found = find_rows([judgement.image for judgement in kept], split)
    missing = [name for name, row in found.items() if row < 0]
    inside = sorted((one for one in kept if found[one.image] >= 0), key=lambda one: found[one.image])
    if not inside:
        raise DataError(
            f"{path}: no graded image is in split '{split.name}' of {split.dataset.folder}. The split has ids such as "
            f"'{split.image_id(0)}', the file such as '{judgements[0].image}'. Choose the data set and the split of "
            "the graded images."
        )
    images = np.array([found[one.image] for one in inside], np.int64)
    return MatchedJudgements(
        path, inside, images, missing, len(kept) - len(inside), own_captions=len(judgements) - len(kept)
    )


def read_judgements(path: Path, dataset: Dataset) -> list[Judgement]:
    """Read the judgements in `path`; `dataset` gives the texts of caption ids. Raise DataError with file and line."""
    path = path.expanduser()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}. Expected {_FORMATS}.") from error
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: no judgements. Expected {_FORMATS}.")
    published = not numbered[0][1].lstrip().startswith("{")
    rows = list(_read_table(path, numbered)) if published else [_read_object(*line) for line in numbered]
    find_text = _make_lookup(path, dataset) if any(row.caption for row in rows) else None
    judgements = []
    for row in rows:
        text = find_text(row) if find_text is not None and row.caption else row.text
        own = published and _name_image(row.caption) == _shorten_name(row.image)
        judgements.append(Judgement(row.image, text, row.grades, own))
    return judgements


def _read_object(where: str, line: str) -> _Row:
    """Read one line of our format."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON: {error}. Expected {_FORMATS}.") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: is not an object. Expected {_FORMATS}.")
    image, text, caption = (fields.get(name, "") for name in ("image", "text", "caption"))
    for name, value in (("image", image), ("text", text or caption)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: field '{name}' is {json.dumps(value)}. Expected a text that is not empty.")
    grades = fields.get("grades")
    if not isinstance(grades, list) or not grades or not all(_is_grade(grade) for grade in grades):
        raise DataError(f"{where}: field 'grades' is {json.dumps(grades)}. Expected a list of one or more numbers.")
    return _Row(where, image, "" if text else caption, text, tuple(map(float, grades)))


def _is_grade(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _read_table(path: Path, lines: Sequence[tuple[str, str]]) -> Iterator[_Row]:
    """Read a published file: the shares of yes of CrowdFlower, or the three grades of the experts."""
    cells, numbers = [], []
    for where, line in lines:
        columns = line.split("\t")
        try:
            if len(columns) != 5 or not columns[0] or not columns[1]:
                raise ValueError(f"{len(columns)} columns")
            numbers.append([float(value) for value in columns[2:]])
        except ValueError as error:
            raise DataError(
                f"{where}: {error}. Expected image, caption and three numbers, separated by tabs, as in {_FORMATS}."
            ) from error
        cells.append((where, columns[0], columns[1]))
    table = np.array(numbers)
    votes = np.maximum(table[:, 1] + table[:, 2], 1)
    if (np.abs(table[:, 0] - table[:, 1] / votes) < _TOLERANCE).all():
        table = table[:, :1]
    elif not np.isin(table, list(_EXPERT_GRADES)).all():
        row = int(np.flatnonzero(~np.isin(table, list(_EXPERT_GRADES)).all(axis=1))[0])
        raise DataError(
            f"{cells[row][0]}: numbers {numbers[row]}. Expected three grades of 1 to 4, or in every line the share of "
            "yes, the number of yes and the number of no."
        )
    for (where, image, caption), grades in zip(cells, table.tolist(), strict=True):
        is_id = _CAPTION_ID.fullmatch(caption)
        yield _Row(where, image, caption if is_id else "", "" if is_id else caption, tuple(grades))


def _make_lookup(path: Path, dataset: Dataset) -> Callable[[_Row], str]:
    """Return a function that returns the text of a row's caption id."""
    tokens, texts = path.parent / TOKENS, {}
    if tokens.is_file():
        source = str(tokens)
        for line in tokens.read_text("utf-8-sig").splitlines():
            name, _, text = line.partition("\t")
            texts[_shorten_id(name)] = text
    else:
        source = str(dataset.folder)
        for name, text in zip(dataset.caption_ids.tolist(), dataset.caption_texts.tolist(), strict=True):
            texts[_shorten_id(name)] = text

    def find_text(row: _Row) -> str:
        text = texts.get(_shorten_id(row.caption), "").strip()
        if not text:
            raise DataError(
                f"{row.where}: no caption '{row.caption}' in {source}. Put {TOKENS} beside the file, or name the data "
                "set with all captions in their published order."
            )
        return text

    return find_text


def _shorten_id(caption: str) -> str:
    """Return a caption id without the suffix of its image: 'x.jpg#2' -> 'x#2'."""
    image, _, number = caption.rpartition("#")
    return f"{_shorten_name(image)}#{number}"


def _name_image(caption: str) -> str:
    """Return the image of a caption id without its suffix; "" if it is no caption id."""
    return _shorten_name(caption.rpartition("#")[0])


def _shorten_name(image: str) -> str:
    return derive_image_keys(image)[-1] if image else ""

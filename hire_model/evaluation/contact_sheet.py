"""Render the contact sheet of a data set: images with boxes, classes, relations and captions, and figures about it all.

The page is one HTML file without a script, which works offline.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hire_model.data.importers.base import PictureFinder
from hire_model.evaluation.labels import LabelPlacer
from hire_model.evaluation.pages import render_template
from hire_model.evaluation.scenes import Box, Scene, load_scene

if TYPE_CHECKING:
    from hire_model.data.store import Split

_NAMED = 12  # labelled regions and drawn relations per image, highest score first
_LISTED = 20  # most frequent classes, predicates and words
_BINS = 12
_FRAME = 420, 315  # the part of the page in which each picture is shown
_ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Label:
    """A text on a picture, in its pixels; `x`, `y`: top left corner."""

    text: str
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Arrow:
    """A relation as an arrow between the centres of two boxes."""

    text: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Card:
    """One image of the sheet.

    unit       pixels of the picture that make one of the frame
    names      labels of regions; predicates: labels of arrows; both without overlap
    classes    the classes with their numbers of regions, most frequent first
    relations  all drawn relations in words
    more       number of relations that are not drawn
    """

    scene: Scene
    unit: float
    split: str
    captions: tuple[str, ...]
    names: tuple[Label, ...]
    arrows: tuple[Arrow, ...]
    predicates: tuple[Label, ...]
    classes: tuple[tuple[str, int], ...]
    relations: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class Bars:
    """A bar chart: rows of (label, count, share of the largest count in percent)."""

    title: str
    rows: tuple[tuple[str, int, int], ...]
    note: str = ""


def render(split: Split, limit: int, pictures: Path | None = None) -> str:
    """Render the sheet as HTML.

    Args:
        split: the images to describe; their figures count all of them.
        limit: number of images to show, evenly spread over the split.
        pictures: folder of the pictures if the data set has none; subfolders right below it count too.

    Raises:
        DataError: `pictures` is no folder, or a table of the data set cannot be read.
    """
    manifest = split.dataset.manifest
    shown = np.unique(np.linspace(0, len(split.images) - 1, min(limit, len(split.images))).round().astype(int)).tolist()
    finder = PictureFinder(pictures) if pictures else None
    cards = [_make_card(split, index, _find_picture(finder, split, index)) for index in shown]
    return render_template(
        "hire_model.evaluation",
        "contact_sheet.html.j2",
        name=manifest.name,
        facts=_list_facts(split),
        splits={name: counts for name, counts in manifest.splits.items() if split.name in ("", name)},
        bars=_make_charts(split),
        cards=cards,
        images=len(split.images),
        without_picture=sum(card.scene.uri is None for card in cards),
    )


def _list_facts(split: Split) -> dict[str, str]:
    manifest = split.dataset.manifest
    facts = {
        "split": split.name or "all",
        "data digest": manifest.digest,
        "features": f"{manifest.feature_dim} x {manifest.feature_dtype}, by {manifest.feature_extractor}",
        "regions per image": _describe_counts(split.region_counts),
        "relations per image": _describe_counts(split.relation_counts),
        "captions per image": _describe_counts(np.bincount(split.owner, minlength=len(split.images))),
        "words per caption": _describe_counts(np.array([len(text.split()) for text in split.texts])),
        "different words": f"{len(_count_words(split.texts)):,}",
        "source": manifest.source,
        "licence": manifest.licence,
        "created": manifest.created,
    }
    return {key: value for key, value in facts.items() if value}


def _describe_counts(counts: np.ndarray) -> str:
    if not len(counts):
        return "none"
    low, middle, high = counts.min(), np.median(counts), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:g}"


def _make_charts(split: Split) -> list[Bars]:
    """Return the charts of the split; one without content is left out."""
    manifest = split.dataset.manifest
    classes, predicates = _count_classes_and_predicates(split)
    charts = [
        _count_frequent("Classes", classes, manifest.classes),
        _count_frequent("Predicates", predicates, manifest.predicates),
        _make_bars("Words of the captions", _count_words(split.texts).most_common(_LISTED)),
        _make_histogram("Words per caption", np.array([len(text.split()) for text in split.texts])),
        _make_histogram("Regions per image", split.region_counts),
        _make_histogram("Relations per image", split.relation_counts),
    ]
    return [chart for chart in charts if len(chart.rows) > 1]


def _count_classes_and_predicates(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of regions of each class and of relations of each predicate."""
    manifest, layouts = split.dataset.manifest, [split.dataset.layout(int(image)) for image in split.images]
    classes = np.concatenate([np.zeros(0, np.int64), *(each.classes for each in layouts)])
    predicates = np.concatenate([np.zeros(0, np.int64), *(each.relations[:, 1] for each in layouts)])
    return _count_ids(classes, len(manifest.classes)), _count_ids(predicates, len(manifest.predicates))


def _count_ids(ids: np.ndarray, names: int) -> np.ndarray:
    return np.bincount(ids[(ids >= 0) & (ids < names)].astype(np.int64), minlength=names)


def _count_frequent(title: str, counts: np.ndarray, names: Sequence[str]) -> Bars:
    rows = [(names[i], int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return _make_bars(title, rows[:_LISTED], f"{len(rows):,} in use, of {len(names):,}")


def _count_words(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in re.findall(r"\w[\w'’-]*", text.lower()))


def _make_histogram(title: str, counts: np.ndarray) -> Bars:
    """Return the number of images or captions in at most twelve ranges of the same width."""
    if not len(counts):
        return Bars(title, ())
    low, high = int(counts.min()), int(counts.max())
    width = -(-(high - low + 1) // _BINS)
    rows = []
    for first in range(low, high + 1, width):
        last = min(first + width - 1, high)
        label = str(first) if first == last else f"{first}–{last}"
        rows.append((label, int(((counts >= first) & (counts <= last)).sum())))
    return _make_bars(title, rows)


def _make_bars(title: str, rows: Sequence[tuple[str, int]], note: str = "") -> Bars:
    most = max((count for _, count in rows), default=1) or 1
    return Bars(title, tuple((label, count, round(100 * count / most)) for label, count in rows), note)


def _find_picture(finder: PictureFinder | None, split: Split, index: int) -> Path | None:
    if finder is None:
        return None
    row, name = int(split.images[index]), split.image_id(index)
    splits = split.dataset.image_splits
    found = next(filter(None, (finder.find(name + ending, splits[row]) for ending in _ENDINGS)), None)
    return Path(os.path.join(finder.folder, found)) if found else None


def _make_card(split: Split, index: int, picture: Path | None) -> Card:
    dataset, row = split.dataset, int(split.images[index])
    layout, manifest = dataset.layout(row), dataset.manifest
    scene = load_scene(split, index, picture)
    boxes = {box.region: box for box in scene.boxes}
    known = [manifest.classes[k] if 0 <= k < len(manifest.classes) else "" for k in layout.classes.tolist()]
    order = np.argsort(-np.nan_to_num(layout.relation_scores, nan=0), kind="stable")[:_NAMED].tolist()
    drawn = [tuple(layout.relations[i].tolist()) for i in order]
    unit = round(max(scene.width / _FRAME[0], scene.height / _FRAME[1]), 3)
    placer = LabelPlacer(scene.width, scene.height, unit)
    ends = [region for subject, _, object_ in drawn for region in (subject, object_)]
    best = np.argsort(-np.nan_to_num(layout.scores, nan=0), kind="stable").tolist()
    regions = [r for r in dict.fromkeys([*ends, *best]) if r in boxes and known[r]][:_NAMED]
    names = _place_names([(boxes[region], known[region]) for region in regions], placer)
    arrows, predicates = _draw_arrows(drawn, boxes, manifest.predicates, placer)
    return Card(
        scene=scene,
        unit=unit,
        split=str(dataset.image_splits[row]),
        captions=tuple(split.texts[i] for i in np.flatnonzero(split.owner == index)),
        names=names,
        arrows=arrows,
        predicates=predicates,
        classes=tuple(Counter(name or "no class" for name in known).most_common()) if any(known) else (),
        relations=tuple(
            f"{known[s] or f'region {s}'} {manifest.predicates[p]} {known[o] or f'region {o}'}" for s, p, o in drawn
        ),
        more=len(layout.relations) - len(drawn),
    )


def _place_names(regions: Sequence[tuple[Box, str]], placer: LabelPlacer) -> tuple[Label, ...]:
    """Return the names of regions, each at a corner of its box; a name without free space is left out."""
    labels = []
    for box, name in regions:
        wide, high = placer.measure(name), placer.high
        right, bottom = box.x + box.width - wide, box.y + box.height - high
        corners = [(box.x, box.y - high), (right, box.y - high), (box.x, bottom), (box.x, box.y), (right, bottom)]
        if place := placer.reserve(corners, wide):
            labels.append(Label(name, *place, wide))
    return tuple(labels)


def _draw_arrows(
    relations: Sequence[tuple[int, int, int]], boxes: dict[int, Box], predicates: Sequence[str], placer: LabelPlacer
) -> tuple[tuple[Arrow, ...], tuple[Label, ...]]:
    arrows: list[Arrow] = []
    labels: list[Label] = []
    for subject, predicate, object_ in relations:
        if subject in boxes and object_ in boxes:
            (x1, y1), (x2, y2) = (
                (box.x + box.width / 2, box.y + box.height / 2) for box in (boxes[subject], boxes[object_])
            )
            text = predicates[predicate]
            arrows.append(Arrow(text, *(round(value, 1) for value in (x1, y1, x2, y2))))
            wide = placer.measure(text)
            places = [
                (x1 + share * (x2 - x1) - wide / 2, y1 + share * (y2 - y1) - placer.high / 2)
                for share in (0.5, 0.35, 0.65)
            ]
            if place := placer.reserve(places, wide):
                labels.append(Label(text, *place, wide))
    return tuple(arrows), tuple(labels)

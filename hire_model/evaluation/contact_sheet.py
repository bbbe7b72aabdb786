"""Render the contact sheet of a data set: images with boxes, classes, relations and captions, and figures about it all.

The page is one HTML file without a script, which works offline.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hire_model.data.importers.base import PictureFinder
from hire_model.evaluation.dataset_figures import list_facts, make_charts
from hire_model.evaluation.labels import LabelPlacer
from hire_model.evaluation.pages import render_template
from hire_model.evaluation.scenes import Box, Scene, load_scene

if TYPE_CHECKING:
    from hire_model.data.store import Split

_NAMED = 12  # labelled regions and drawn relations per image, highest score first
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
        facts=list_facts(split),
        splits={name: counts for name, counts in manifest.splits.items() if split.name in ("", name)},
        bars=make_charts(split),
        cards=cards,
        images=len(split.images),
        without_picture=sum(card.scene.uri is None for card in cards),
    )


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

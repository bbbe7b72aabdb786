"""Figures about the content of a data set: ranges of counts, and bar charts of what is frequent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hire_model.data.schema import name_with_digest

if TYPE_CHECKING:
    from hire_model.data.schema import MakerFacts
    from hire_model.data.store import Split

_LISTED = 20  # most frequent classes, predicates and words
_BINS = 12


@dataclass(frozen=True)
class Bars:
    """A bar chart: rows of (label, count, share of the largest count in percent)."""

    title: str
    rows: tuple[tuple[str, int, int], ...]
    note: str = ""


def list_facts(split: Split) -> dict[str, str]:
    """Return what is known about the split and its data set, by name."""
    manifest = split.dataset.manifest
    facts = {
        "split": split.name or "all",
        "data digest": manifest.digest,
        "features": f"{manifest.feature_dim} x {manifest.feature_dtype}, by {manifest.feature_extractor}",
        "regions per image": _describe_counts(split.region_counts),
        "relations per image": _describe_counts(split.relation_counts),
        "relations by": describe_maker(manifest.relation_maker),
        "captions per image": _describe_counts(np.bincount(split.owner, minlength=len(split.images))),
        "words per caption": _describe_counts(np.array([len(text.split()) for text in split.texts])),
        "different words": f"{len(_count_words(split.texts)):,}",
        "source": manifest.source,
        "licence": manifest.licence,
        "created": manifest.created,
    }
    return {key: value for key, value in facts.items() if value}


def describe_maker(maker: MakerFacts | None) -> str:
    """Return name and digest of what made relations; empty if that is not recorded."""
    return name_with_digest(maker.name, maker.digest) if maker else ""


def _describe_counts(counts: np.ndarray) -> str:
    if not len(counts):
        return "none"
    low, middle, high = counts.min(), np.median(counts), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:g}"


def make_charts(split: Split) -> list[Bars]:
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

"""Recall on parts of the split: by caption length, by number of regions, by number of relations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.ranks import NO_QUERY, compute_recall
from hire_model.evaluation.result import KS

if TYPE_CHECKING:
    from hire_model.data.store import Split

BINS = 4


@dataclass(frozen=True)
class Slice:
    """The queries whose count lies in `label`, and their recalls (0-100) at 1, 5 and 10."""

    label: str
    queries: int
    recalls: tuple[float, ...]


@dataclass(frozen=True)
class SliceTable:
    """One direction cut up by one count."""

    name: str
    direction: str
    slices: tuple[Slice, ...]


def split_into_bins(counts: np.ndarray, bins: int = BINS) -> list[tuple[int, int]]:
    """At most `bins` ranges (first, last) of the counts [Q], inclusive and disjoint, with about equally many queries.

    Equal counts are never torn apart, so there are fewer bins where one count is common.
    """
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")).astype(int)
    starts = [int(counts.min()), *(int(edge) + 1 for edge in edges[:-1])]
    return [(int(counts[counts >= first].min()), int(last)) for first, last in zip(starts, edges, strict=True)]


def slice_by(name: str, direction: str, counts: np.ndarray, ranks: np.ndarray) -> SliceTable:
    """Recall of the queries with `ranks` [Q] by their `counts` [Q], images without a caption left out."""
    counts, ranks = counts[ranks != NO_QUERY], ranks[ranks != NO_QUERY]
    slices = []
    for first, last in split_into_bins(counts):
        inside = ranks[(counts >= first) & (counts <= last)]
        label = str(first) if first == last else f"{first}–{last}"
        slices.append(Slice(label, len(inside), tuple(compute_recall(inside, k) for k in KS)))
    return SliceTable(name, direction, tuple(slices))


def compute_slices(split: Split, ranks: Ranks) -> list[SliceTable]:
    """The report's slices. A caption counts the regions and relations of its own image."""
    words = np.array([len(text.split()) for text in split.texts])
    tables = [slice_by("Words in the caption", "t2i", words, ranks.t2i)]
    for name, counts in (("Regions", split.region_counts), ("Relations", split.relation_counts)):
        tables.append(slice_by(f"{name} in the image", "i2t", counts, ranks.i2t))
        tables.append(slice_by(f"{name} in the image", "t2i", counts[split.owner], ranks.t2i))
    return tables

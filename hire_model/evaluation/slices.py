"""Compute recall on parts of the split: by caption length, number of regions and number of relations."""

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
    """The queries whose count is in the range `label`, and their recalls (0-100) at 1, 5 and 10."""

    label: str
    queries: int
    recalls: tuple[float, ...]


@dataclass(frozen=True)
class SliceTable:
    """The slices of one direction by one count."""

    name: str
    direction: str
    slices: tuple[Slice, ...]


def split_into_bins(counts: np.ndarray, bins: int = BINS) -> list[tuple[int, int]]:
    """Return at most `bins` ranges (first, last) of the counts [Q], with about the same number of queries in each.

    The ranges are inclusive and disjoint. Equal counts stay in one range, so there are fewer if one count is frequent.
    """
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")).astype(int)
    starts = [int(counts.min()), *(int(edge) + 1 for edge in edges[:-1])]
    return [(int(counts[counts >= first].min()), int(last)) for first, last in zip(starts, edges, strict=True)]


def slice_by(name: str, direction: str, counts: np.ndarray, ranks: np.ndarray) -> SliceTable:
    """Compute the recall of queries with `ranks` [Q] by their `counts` [Q]; images without a caption are ignored."""
    counts, ranks = counts[ranks != NO_QUERY], ranks[ranks != NO_QUERY]
    slices = []
    for first, last in split_into_bins(counts):
        selected = ranks[(counts >= first) & (counts <= last)]
        label = str(first) if first == last else f"{first}–{last}"
        slices.append(Slice(label, len(selected), tuple(compute_recall(selected, k) for k in KS)))
    return SliceTable(name, direction, tuple(slices))


def compute_slices(split: Split, ranks: Ranks) -> list[SliceTable]:
    """Compute the slices of the report. Regions and relations of a caption are those of its image."""
    words = np.array([len(text.split()) for text in split.texts])
    tables = [slice_by("Words in the caption", "t2i", words, ranks.t2i)]
    for name, counts in (("Regions", split.region_counts), ("Relations", split.relation_counts)):
        tables.append(slice_by(f"{name} in the image", "i2t", counts, ranks.i2t))
        tables.append(slice_by(f"{name} in the image", "t2i", counts[split.owner], ranks.t2i))
    return tables

"""The nearest of N unit vectors by inner product, with FAISS: a scan of them all while that is quick, HNSW beyond.

The scan is exact and needs no file of its own. It reads every vector: of 256 numbers each, 6 ms per 100,000 and query
on one core, so that up to `FLAT_UP_TO` it takes less than the pairwise score takes over the shortlist. HNSW (Malkov and
Yashunin 2018) needs a sixth of the time at 100,000 and finds 99 % of what the scan does. IVF found far fewer in the
same time at each size measured, and is left out: docs/search.md has the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from hire_model.progress import show_progress

Kind = Literal["flat", "hnsw"]
FLAT_UP_TO = 300_000
_LINKS = 32  # of each vector in the graph
_WIDTH = 2  # candidates that a search keeps, in multiples of what it is asked for
_BLOCK = 10_000


def choose_kind(items: int) -> Kind:
    """Choose the kind of index for `items` vectors."""
    return "flat" if items <= FLAT_UP_TO else "hnsw"


class Index:
    """Finds vectors; both ways are mapped from disk, and any number of threads may ask."""

    def __init__(self, vectors: np.ndarray, graph: Any = None) -> None:
        self._vectors, self._graph = vectors, graph

    @classmethod
    def open(cls, kind: Kind, vectors: np.ndarray, path: Path) -> Index:
        """The index of `vectors` [N, D] float32; `path` is what `write` wrote, where `kind` is not flat."""
        if kind == "flat":
            return cls(vectors)
        return cls(vectors, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY))

    @property
    def exact(self) -> bool:
        """Whether `nearest` finds all of them, always."""
        return self._graph is None

    def nearest(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
        """For each of Q unit vectors [Q, D] the rows of its `count` nearest, nearest first; HNSW may find fewer."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._graph is None:
            found = faiss.knn(queries, self._vectors, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
        else:
            width = faiss.SearchParametersHNSW(efSearch=_WIDTH * count)  # type: ignore[attr-defined]
            found = self._graph.search(queries, count, params=width)[1]
        return [rows[rows >= 0] for rows in found]


def write(vectors: np.ndarray, path: Path) -> None:
    """Build the graph of `vectors` [N, D] float32 unit vectors, possibly mapped from disk, and write it to `path`."""
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    for start in show_progress(range(0, len(vectors), _BLOCK), "index"):
        graph.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    faiss.write_index(graph, str(path))

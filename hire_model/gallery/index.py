"""Find the nearest of N unit vectors by inner product, with FAISS: by a scan of all, or by HNSW for large galleries.

A scan is exact and needs no file. For vectors of 256 numbers it takes 6 ms per query and 100,000 vectors on one core,
so up to `FLAT_UP_TO` vectors it takes less time than the pairwise scores of the shortlist. HNSW (Malkov and Yashunin
2018) takes a sixth of that time at 100,000 vectors and finds 99 % of the results of a scan. IVF finds far fewer in the
same time at every size that we measured, so it is not used: docs/search.md has the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from hire_model.progress import show_progress

Kind = Literal["flat", "hnsw"]
FLAT_UP_TO = 300_000
_LINKS = 32  # edges per vector in the HNSW graph
_WIDTH = 2  # candidates that a search keeps, as a multiple of the number of results
_BLOCK = 10_000


def choose_kind(items: int) -> Kind:
    """Choose the kind of index for `items` vectors."""
    return "flat" if items <= FLAT_UP_TO else "hnsw"


class Index:
    """Finds the nearest vectors. Vectors and graph are mapped from disk. Thread-safe."""

    def __init__(self, vectors: np.ndarray, graph: Any = None) -> None:
        self._vectors, self._graph = vectors, graph

    @classmethod
    def open(cls, kind: Kind, vectors: np.ndarray, path: Path) -> Index:
        """Open the index of `vectors` [N, D] float32; `path` is the file from `write`, not used if `kind` is flat."""
        if kind == "flat":
            return cls(vectors)
        return cls(vectors, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY))

    def find_nearest(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
        """Return the rows of the `count` nearest vectors for each of Q unit vectors [Q, D], nearest first.

        HNSW may find fewer.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if self._graph is None:
            nearest = faiss.knn(queries, self._vectors, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
        else:
            params = faiss.SearchParametersHNSW(efSearch=_WIDTH * count)  # type: ignore[attr-defined]
            nearest = self._graph.search(queries, count, params=params)[1]
        return [rows[rows >= 0] for rows in nearest]


def write(vectors: np.ndarray, path: Path) -> None:
    """Build the HNSW graph of unit vectors [N, D] float32, possibly mapped from disk, and write it to `path`."""
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    for start in show_progress(range(0, len(vectors), _BLOCK), "index"):
        graph.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    faiss.write_index(graph, str(path))

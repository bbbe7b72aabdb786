"""Measure how long indexes of FAISS take to find a shortlist among generated vectors, and their recall.

    python benchmarks/nearest.py [--items 10000 100000 1000000] [--dim 256] [--shortlist 200] [--kinds SQfp16]

The unit vectors are close to a subspace of 32 dimensions, like learned ones, and a query is an item with noise, like a
caption close to its image. Queries are searched one at a time in one thread; times are medians of CPU time. "Found" is
the share of the flat scan's shortlist.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

INNER = faiss.METRIC_INNER_PRODUCT


def draw_vectors(items: int, dim: int, queries: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    subspace = random.normal(size=(32, dim)).astype(np.float32)

    def project(latent: np.ndarray) -> np.ndarray:
        x = latent @ subspace + random.normal(size=(len(latent), dim), scale=0.5).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    latent = random.normal(size=(items, 32)).astype(np.float32)
    near = latent[random.integers(0, items, queries)]
    return project(latent), project(near + random.normal(size=near.shape, scale=0.7).astype(np.float32))


def measure_search(find, queries: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Return the median milliseconds per query, and the shortlists."""
    seconds, shortlists = [], []
    for row in range(len(queries)):
        start = time.process_time()
        shortlists.append(find(queries[row : row + 1]))
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds), shortlists


def compute_recall(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    return 100 * float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def build_index(kind: str, x: np.ndarray, folder: Path):
    """Return the index, the seconds of CPU time to build it, and its size in bytes."""
    start = time.process_time()
    index = faiss.index_factory(x.shape[1], kind, INNER)
    if not index.is_trained:
        wanted = 40 * index.nlist if kind.startswith("IVF") else 30_000
        index.train(x[:: max(1, len(x) // wanted)])
    index.add(x)
    seconds = time.process_time() - start
    path = folder / "index"
    faiss.write_index(index, str(path))
    return index, seconds, path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    for name, default in (("dim", 256), ("shortlist", 200), ("queries", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kinds", nargs="+", default=["SQfp16", "SQ8", "IVF", "HNSW32,Flat"], help="factory strings")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print(f"{'items':>9} {'index':<12} {'effort':>7} {'ms/query':>9} {'found %':>8} {'built s':>8} {'MB':>6}")
    for items in args.items:
        x, queries = draw_vectors(items, args.dim, args.queries, np.random.default_rng(0))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "x.npy", x)
            x = np.load(folder / "x.npy", mmap_mode="r")

            def scan(query: np.ndarray, x: np.ndarray = x) -> np.ndarray:
                return faiss.knn(query, x, args.shortlist, metric=INNER)[1][0]

            scan(queries[:1])
            ms, truth = measure_search(scan, queries)
            print(f"{items:9,} {'flat':<12} {'':>7} {ms:9.2f} {100:8.1f} {0:8.1f} {x.nbytes >> 20:6}", flush=True)
            lists = 1 << round(np.log2(4 * items**0.5))
            for kind in args.kinds:
                kind = f"IVF{lists},Flat" if kind == "IVF" else kind
                efforts = {"I": (32, 64, 128), "H": (args.shortlist, 2 * args.shortlist)}.get(kind[0], (0,))
                index, seconds, size = build_index(kind, x, folder)
                for effort in efforts:
                    if kind.startswith("IVF"):
                        index.nprobe = effort
                    elif kind.startswith("HNSW"):
                        index.hnsw.efSearch = effort
                    ms, found = measure_search(lambda q, i=index: i.search(q, args.shortlist)[1][0], queries)
                    print(
                        f"{items:9,} {kind.split(',')[0]:<12} {effort:7} {ms:9.2f} {compute_recall(found, truth):8.1f} "
                        f"{seconds:8.1f} {size >> 20:6}",
                        flush=True,
                    )
                del index


if __name__ == "__main__":
    print(f"cores: {os.cpu_count()}, faiss {faiss.__version__}")
    main()

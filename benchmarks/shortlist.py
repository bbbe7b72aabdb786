"""Measure how long a shortlist must be, how often the search's warning is right, and the time a shortlist saves.

    python benchmarks/shortlist.py measure DATASET MODEL --queries-of dev [--queries 500] [--json FILE]
    python benchmarks/shortlist.py draw FILE... --figure docs/images/shortlist.png

The gallery has all images of the data set; the queries are captions of one split, drawn with a fixed seed. Each query
is scored against every image. The shortlist is the best K images by the global head; its results are compared with
those of full scoring. Columns:

    r1, r5, r10           recall of the caption's own image
    lost1, lost5, lost10  recall lost against full scoring, in points
    top1, top10           share of queries with the same first image, the same ten images
    said0.25              share of queries with a hit beyond 25 % of the shortlist, for which the search warns
    wrong_said0.25        share of those whose top ten differ; wrong_unsaid0.25: of the others

--words 4 cuts captions to their first four words, like queries of users; 0 does not cut. Speed is measured with
`search` on a new gallery, the methods in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hire_model.data.store import Dataset, Split
from hire_model.gallery import search
from hire_model.gallery.building import build
from hire_model.gallery.store import Gallery
from hire_model.progress import show_progress
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer

LENGTHS = (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000)
DOUBTS = (0.25, 0.5, 0.75)


def draw_queries(gallery: Split, queries: Split, count: int) -> tuple[list[str], np.ndarray]:
    """Draw captions of `queries`; return them and the rows of their images in `gallery`."""
    chosen = np.random.default_rng(0).permutation(len(queries.captions))[:count]
    rows = {int(image): row for row, image in enumerate(gallery.images)}
    return [queries.texts[i] for i in chosen], np.array([rows[int(queries.images[queries.owner[i]])] for i in chosen])


@torch.inference_mode()
def compute_scores(scorer: Scorer, split: Split, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Compute full scores and scores of the global head, each [queries, images]."""
    images = matrix.encode_images(scorer.model, split)
    captions = [scorer.encode_texts([text]) for text in texts]
    full = [
        matrix.score_matrix(scorer.model, images, text, 512 << 20)[:, 0] for text in show_progress(captions, "score")
    ]
    return np.stack(full), (torch.cat([text.summary for text in captions]) @ images.summary.T).numpy()


def compare_lengths(full: np.ndarray, near: np.ndarray, own: np.ndarray) -> list[dict]:
    """Return a row per length of the shortlist.

    full, near: [queries, images] full scores and scores of the global head; own: [queries] row of the query's image.
    """
    images = full.shape[1]
    order = np.argsort(-near, axis=1, kind="stable")
    truth = np.argsort(-full, axis=1, kind="stable")[:, :10]
    rows = []
    for length in [k for k in LENGTHS if k < images] + [images]:
        listed = order[:, :length]
        scores = np.take_along_axis(full, listed, axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        found = np.take_along_axis(listed, best, axis=1)
        same = (np.sort(found, axis=1) == np.sort(truth, axis=1)).all(axis=1)
        row: dict = {
            "length": length,
            "top10": 100 * float(same.mean()),
            "top1": 100 * _compute_share(found[:, 0] == truth[:, 0]),
        }
        for k in (1, 5, 10):
            row[f"r{k}"] = 100 * _compute_share((found[:, :k] == own[:, None]).any(axis=1))
            row[f"lost{k}"] = 100 * _compute_share((truth[:, :k] == own[:, None]).any(axis=1)) - row[f"r{k}"]
        deep = best.max(axis=1) + 1
        for share in DOUBTS:
            said = deep > share * length
            row[f"said{share}"] = 100 * _compute_share(said)
            row[f"wrong_said{share}"] = 100 * _compute_share(~same[said])
            row[f"wrong_unsaid{share}"] = 100 * _compute_share(~same[~said])
        rows.append(row)
    return rows


def find_needed_lengths(full: np.ndarray, near: np.ndarray, own: np.ndarray) -> list[dict]:
    """Find, for several gallery sizes, the length at which most shortlists contain the best of full scoring."""
    random, images, rows = np.random.default_rng(0), full.shape[1], []
    required = np.unique(own)
    others = np.setdiff1d(np.arange(images), required)
    for size in sorted({images >> shift for shift in range(4)} - {0}):
        if size < len(required) + 10:
            continue
        chosen = np.concatenate([required, random.permutation(others)[: size - len(required)]])
        full_scores, head_scores = full[:, chosen], near[:, chosen]
        head_ranks = np.argsort(np.argsort(-head_scores, axis=1, kind="stable"), axis=1) + 1
        best = np.argsort(-full_scores, axis=1, kind="stable")[:, :10]
        ranks = np.take_along_axis(head_ranks, best, axis=1)
        rows.append(
            {
                "images": size,
                "top1 of 99 %": int(np.quantile(ranks[:, 0], 0.99)),
                "top5 of 95 %": int(np.quantile(ranks[:, :5].max(axis=1), 0.95)),
                "top10 of 95 %": int(np.quantile(ranks.max(axis=1), 0.95)),
            }
        )
    return rows


def measure_speed(scorer: Scorer, split: Split, texts: list[str], length: int, runs: int) -> dict:
    """Measure seconds per query of `search`: with a shortlist one by one and all at once, and with all images."""
    with tempfile.TemporaryDirectory() as name:
        build(scorer.model, split, Path(name) / "g")
        gallery = Gallery.open(Path(name) / "g")
        methods = {
            "shortlist": lambda: [search.search_images(scorer, gallery, [text], 10, length) for text in texts],
            "shortlist, together": lambda: search.search_images(scorer, gallery, texts, 10, length),
            "every image": lambda: search.search_images(scorer, gallery, texts, 10, len(gallery)),
        }
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        for _ in range(runs):
            for method, call in methods.items():
                start = time.perf_counter()
                call()
                seconds[method].append((time.perf_counter() - start) / len(texts))
    return {method: statistics.median(times) for method, times in seconds.items()}


def _compute_share(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    data = Dataset.open(args.dataset)
    split, scorer = data.split(""), Scorer.load(args.model)
    texts, own = draw_queries(split, data.split(args.queries_of), args.queries)
    texts = [" ".join(text.split()[: args.words or None]) for text in texts]
    full, near = compute_scores(scorer, split, texts)
    found = {
        "name": f"{data.manifest.name}, {full.shape[1]:,} images" + (f", {args.words} words" if args.words else ""),
        "queries": len(texts),
        "lengths": compare_lengths(full, near, own),
        "needed": find_needed_lengths(full, near, own),
        "speed": measure_speed(scorer, split, texts[: args.timed], min(search.SHORTLIST, full.shape[1]), args.runs),
    }
    print(f"{found['name']}, {len(texts)} queries (captions of {args.queries_of})")
    columns = [key for key in found["lengths"][0]]
    for row in [dict(zip(columns, columns, strict=True)), *found["lengths"]]:
        print("  ".join(f"{v:>9}" if isinstance(v, (str, int)) else f"{v:9.2f}" for v in row.values()))
    print(*found["needed"], sep="\n")
    every_image = found["speed"]["every image"]
    for method, seconds in found["speed"].items():
        print(f"{method:20} {1 / seconds:8.1f} queries/s  {every_image / seconds:6.2f} x every image")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def draw(args: argparse.Namespace) -> None:
    from hire_model.evaluation.plots import (
        BLUE,
        GREEN,
        ORANGE,
        PINK,
        add_legend_above,
        apply_style,
        make_canvas,
        save_plot,
    )

    with apply_style():
        figure, axes = make_canvas(6.4, 3.6)
        for path, colour in zip(args.files, (BLUE, ORANGE, GREEN, PINK), strict=False):
            found = json.loads(Path(path).read_text())
            rows = found["lengths"][:-1]
            axes.plot([r["length"] for r in rows], [r["top10"] for r in rows], "o-", color=colour, label=found["name"])
        axes.axvline(search.SHORTLIST, color="#888888", linewidth=1, linestyle="--")
        axes.set(xscale="log", xlabel="length of the shortlist", ylabel="same ten images, % of queries")
        axes.set_xticks(LENGTHS, [str(k) for k in LENGTHS])
        axes.minorticks_off()
        add_legend_above(axes, 1)
    save_plot(figure, args.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measure_parser = commands.add_parser("measure")
    measure_parser.add_argument("dataset")
    measure_parser.add_argument("model")
    measure_parser.add_argument("--queries-of", default="dev")
    measure_parser.add_argument("--json")
    for name, default in (("queries", 500), ("words", 0), ("timed", 20), ("runs", 3), ("threads", 2)):
        measure_parser.add_argument(f"--{name}", type=int, default=default)
    measure_parser.set_defaults(run=measure)
    draw_parser = commands.add_parser("draw")
    draw_parser.add_argument("files", nargs="+")
    draw_parser.add_argument("--figure", required=True)
    draw_parser.set_defaults(run=draw)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())

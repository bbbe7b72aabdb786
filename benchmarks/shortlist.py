"""How long a shortlist has to be, how often the answer's warning is right, and what a shortlist saves.

    python benchmarks/shortlist.py measure DATASET MODEL --queries-of dev [--queries 500] [--json FILE]
    python benchmarks/shortlist.py draw FILE... --figure docs/images/shortlist.png

The gallery is every image of the data set, the queries are captions of one split, drawn with a fixed seed. Each query
is scored against every image once; a shortlist is then the best K by the global head, and its answer is compared with
that of full scoring. "Lost" is recall of the caption's own image in points; "top10" the share of queries with exactly
the same ten images; "said" how often a hit lies beyond that share of the shortlist, which is what the answer's note
says, and "wrong" how many of those top tens differ. --words 4 cuts the captions to their first four words, as users
ask; 0 does not. Speed is that of `search` on a gallery built for the purpose, the
ways in turn.
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


def queries_of(split: Split, asked: Split, count: int) -> tuple[list[str], np.ndarray]:
    """Captions of `asked`, and for each the row of its image in `split`."""
    picked = np.random.default_rng(0).permutation(len(asked.captions))[:count]
    place = {int(image): row for row, image in enumerate(split.images)}
    return [asked.texts[i] for i in picked], np.array([place[int(asked.images[asked.owner[i]])] for i in picked])


@torch.inference_mode()
def scores_of(scorer: Scorer, split: Split, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Full scores and those of the global head, each [queries, images]."""
    images = matrix.encode_images(scorer.model, split)
    captions = [scorer.encode_texts([text]) for text in texts]
    full = [matrix.score_matrix(scorer.model, images, one, 512 << 20)[:, 0] for one in show_progress(captions, "score")]
    return np.stack(full), (torch.cat([one.summary for one in captions]) @ images.summary.T).numpy()


def answers(full: np.ndarray, near: np.ndarray, own: np.ndarray) -> list[dict]:
    """A row per length of the shortlist."""
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
            "top1": 100 * _share(found[:, 0] == truth[:, 0]),
        }
        for k in (1, 5, 10):
            row[f"r{k}"] = 100 * _share((found[:, :k] == own[:, None]).any(axis=1))
            row[f"lost{k}"] = 100 * _share((truth[:, :k] == own[:, None]).any(axis=1)) - row[f"r{k}"]
        deep = best.max(axis=1) + 1
        for share in DOUBTS:
            said = deep > share * length
            row[f"said{share}"] = 100 * _share(said)
            row[f"wrong_said{share}"] = 100 * _share(~same[said])
            row[f"wrong_unsaid{share}"] = 100 * _share(~same[~said])
        rows.append(row)
    return rows


def needed(full: np.ndarray, near: np.ndarray, own: np.ndarray) -> list[dict]:
    """For galleries of several sizes, how long a list has to be to hold the best of full scoring for most queries."""
    random, images, found = np.random.default_rng(0), full.shape[1], []
    asked = np.unique(own)
    others = np.setdiff1d(np.arange(images), asked)
    for size in sorted({images >> shift for shift in range(4)} - {0}):
        if size < len(asked) + 10:
            continue
        chosen = np.concatenate([asked, random.permutation(others)[: size - len(asked)]])
        sub, head = full[:, chosen], near[:, chosen]
        places = np.argsort(np.argsort(-head, axis=1, kind="stable"), axis=1) + 1
        best = np.argsort(-sub, axis=1, kind="stable")[:, :10]
        at = np.take_along_axis(places, best, axis=1)
        found.append(
            {
                "images": size,
                "top1 of 99 %": int(np.quantile(at[:, 0], 0.99)),
                "top5 of 95 %": int(np.quantile(at[:, :5].max(axis=1), 0.95)),
                "top10 of 95 %": int(np.quantile(at.max(axis=1), 0.95)),
            }
        )
    return found


def speed(scorer: Scorer, split: Split, texts: list[str], length: int, runs: int) -> dict:
    """Seconds per query of `search` with a shortlist and with all images, one sentence at a time, and all at once."""
    with tempfile.TemporaryDirectory() as name:
        build(scorer.model, split, Path(name) / "g")
        gallery = Gallery.open(Path(name) / "g")
        ways = {
            "shortlist": lambda: [search.search_images(scorer, gallery, [text], 10, length) for text in texts],
            "shortlist, together": lambda: search.search_images(scorer, gallery, texts, 10, length),
            "every image": lambda: search.search_images(scorer, gallery, texts, 10, len(gallery)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(runs):
            for way, call in ways.items():
                started = time.perf_counter()
                call()
                seconds[way].append((time.perf_counter() - started) / len(texts))
    return {way: statistics.median(times) for way, times in seconds.items()}


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    data = Dataset.open(args.dataset)
    split, scorer = data.split(""), Scorer.load(args.model)
    texts, own = queries_of(split, data.split(args.queries_of), args.queries)
    texts = [" ".join(text.split()[: args.words or None]) for text in texts]
    full, near = scores_of(scorer, split, texts)
    found = {
        "name": f"{data.manifest.name}, {full.shape[1]:,} images" + (f", {args.words} words" if args.words else ""),
        "queries": len(texts),
        "lengths": answers(full, near, own),
        "needed": needed(full, near, own),
        "speed": speed(scorer, split, texts[: args.timed], min(search.SHORTLIST, full.shape[1]), args.runs),
    }
    print(f"{found['name']}, {len(texts)} queries (captions of {args.queries_of})")
    columns = [key for key in found["lengths"][0]]
    for row in [dict(zip(columns, columns, strict=True)), *found["lengths"]]:
        print("  ".join(f"{v:>9}" if isinstance(v, (str, int)) else f"{v:9.2f}" for v in row.values()))
    print(*found["needed"], sep="\n")
    one = found["speed"]["every image"]
    for way, seconds in found["speed"].items():
        print(f"{way:20} {1 / seconds:8.1f} queries/s  {one / seconds:6.2f} x every image")
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
    one = commands.add_parser("measure")
    one.add_argument("dataset")
    one.add_argument("model")
    one.add_argument("--queries-of", default="dev")
    one.add_argument("--json")
    for name, default in (("queries", 500), ("words", 0), ("timed", 20), ("runs", 3), ("threads", 2)):
        one.add_argument(f"--{name}", type=int, default=default)
    one.set_defaults(run=measure)
    two = commands.add_parser("draw")
    two.add_argument("files", nargs="+")
    two.add_argument("--figure", required=True)
    two.set_defaults(run=draw)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())

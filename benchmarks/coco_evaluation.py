"""Run `hire evaluate` on 5,000 images x 25,000 captions, kill it in the middle, and let it continue.

    python benchmarks/coco_evaluation.py DATASET [--recipe flickr8k_mini] [--limit 0] [--kill-at 0.5] [--set ...]

If DATASET does not exist, it is made: the test images of `coco_size.py`, 0.7 GB. The model has the recipe's settings
and random weights. When a share of the blocks of captions is finished, the process gets SIGKILL; then the same command
runs to its end. Prints seconds, CPU seconds and memory of both, and pairs per CPU second of both together.

Checks that no block was scored twice, that the figures are those of all blocks, and that blocks from before and after
the kill equal the same blocks computed here without an interruption. OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from coco_size import IMAGES, make, run_and_watch

from hire_model.bench.scoring import use_torch
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Dataset, Split
from hire_model.evaluation.protocols import evaluate_matrix
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import encode_images, encode_text_blocks, score_matrix, split_captions
from hire_model.settings import resolve

BUDGET = 512 << 20
COMPARED = 3  # blocks; with torch, which is slower, a corner of each


def make_model(split: Split, recipe: str, overrides: list[str], folder: Path) -> Hire:
    """Save a model with random weights, and return it. Weights that start at zero are random too."""
    torch.manual_seed(0)
    model = build_model(resolve(recipe, overrides).settings.model, split).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and not parameter.any():
                parameter.normal_(std=0.05)
    artifact.save(model, folder)
    return model


class Watch:
    """Keep a link to each block that appears, and tell when to kill."""

    def __init__(self, cache: Path, kept: Path) -> None:
        self.cache, self.kept, self.kill_at = cache, kept, 0

    def __call__(self) -> bool:
        for path in self.cache.glob("scores/*/[0-9]*.npz"):
            link = self.kept / path.name
            with suppress(FileNotFoundError):  # the evaluation has ended
                if not link.exists():
                    os.link(path, link)
                assert link.samefile(path), f"{path.name} was written twice"
        return 0 < self.kill_at <= len(list(self.kept.iterdir()))


@torch.inference_mode()
def check(model: Hire, split: Split, kept: Path, killed_at: int, figures: Path) -> None:
    """Compare the figures with those of the blocks, and some blocks with the same ones computed here."""
    bank = build_caption_bank(model, split.texts)
    blocks = split_captions(bank)
    scores = np.empty((len(split.images), len(bank)), np.float32)
    for number, rows in enumerate(blocks):
        scores[:, rows] = np.load(kept / f"{number:06d}.npz")["scores"]
    stored = json.loads(figures.read_text("utf-8"))
    result = evaluate_matrix(scores, split.owner, stored["protocol"], bootstrap=0)
    assert (result.rsum, result.t2i.mean) == (stored["rsum"], stored["t2i"]["mean"]), "other figures"
    images = encode_images(model, split)
    chosen = np.random.default_rng(0).choice(len(blocks), COMPARED, replace=False)
    for number in {0, killed_at, len(blocks) - 1, *map(int, chosen)}:
        [texts] = encode_text_blocks(model, bank, [blocks[number]])
        expected = scores[:, blocks[number]]
        difference = np.abs(score_matrix(model, images, texts, BUDGET) - expected).max()
        with use_torch():
            corner = score_matrix(model, images[slice(0, 64)], texts[slice(0, 16)], BUDGET)
        print(
            f"block {number}: largest difference {difference:.1e}; with torch, of 64 x 16 pairs, "
            f"{np.abs(corner - expected[:64, :16]).max():.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--limit", type=int, default=0, help="use only the first N images")
    parser.add_argument("--kill-at", type=float, default=0.5, help="share of the blocks that are finished first")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if not args.data.exists():
        make(args.data, {"test": IMAGES["test"]})
    split = Dataset.open(args.data).split("test", args.limit)
    with tempfile.TemporaryDirectory() as temporary:
        folder, kept = Path(temporary), Path(temporary, "kept")
        kept.mkdir()
        os.environ["HIRE_CACHE"] = str(folder / "cache")
        model = make_model(split, args.recipe, args.set, folder / "model")
        watch, figures = Watch(folder / "cache", kept), folder / "figures.json"
        blocks = len(split_captions(CaptionBank.from_lists(model.vocabulary.encode(split.texts))))
        command = [sys.executable, "-m", "hire_model", "evaluate", "--model", str(folder / "model")]
        command += ["--data", str(args.data), "--split", "test", "--limit", str(args.limit)]
        command += ["--protocol", "full" if args.limit else "coco-5k"]
        command += ["--json", str(figures), "--report", str(folder / "report.html")]
        watch.kill_at = max(1, int(args.kill_at * blocks))
        seconds = run_and_watch("killed", command, watch)
        killed_at, watch.kill_at = len(list(kept.iterdir())), 0
        seconds += run_and_watch("continued", command, watch)
        pairs = len(split.images) * len(split.captions)
        print(
            f"{pairs:,} pairs in {blocks} blocks, killed after {killed_at}: {seconds / 60:.1f} CPU minutes, "
            f"{pairs / seconds:,.0f} pairs per CPU second with all preparation",
            flush=True,
        )
        assert not list((folder / "cache" / "scores").iterdir()), "scores are left"
        check(model, split, kept, killed_at, figures)


if __name__ == "__main__":
    main()

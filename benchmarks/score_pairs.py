"""Measure scored pairs per second: a loop over captions, one large block, and the blocks of `compute_similarity`.

    python benchmarks/score_pairs.py [--images 100] [--captions 500] [--set model.dim=128 ...]

The three methods run in turn, several times; quote the ratio of the medians. Weights and features are random, as the
time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.bench.scoring import score_in_blocks, score_in_loop
from hire_model.model.hire import Hire
from hire_model.model.layers import normalize
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.settings import resolve


def draw_items(model: Hire, images: int, captions: int, regions: int, words: int) -> tuple[EncodedImages, EncodedTexts]:
    size, dim = model.settings.pair_dim or model.settings.dim, model.settings.dim
    lengths = torch.randint(words // 2, words + words // 2, (captions,))
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return (
        EncodedImages(
            torch.randn(images, regions, size), torch.ones(images, regions).bool(), normalize(torch.randn(images, dim))
        ),
        EncodedTexts(torch.randn(*mask.shape, size), mask, normalize(torch.randn(captions, dim))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("images", 100),
        ("captions", 500),
        ("regions", 36),
        ("words", 13),
        ("runs", 3),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    settings = resolve(None, args.set, {}).settings.model
    model = Hire(settings, 64, (), learn_vocabulary(["a dog"], settings.text)).eval()
    images, texts = draw_items(model, args.images, args.captions, args.regions, args.words)
    methods = {
        "a loop over captions": lambda: score_in_loop(model, images, texts),
        "one block": lambda: model.score(images, texts).total,
        "blocks (similarity)": lambda: score_in_blocks(model, images, texts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        expected = methods["a loop over captions"]()
        for _ in range(args.runs):
            for name, method in methods.items():
                start = time.perf_counter()
                scores = method()
                seconds[name].append(time.perf_counter() - start)
                torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    pairs, loop_seconds = args.images * args.captions, statistics.median(seconds["a loop over captions"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:22} {pairs / median:9,.0f} pairs/s   {loop_seconds / median:5.2f} x the loop")


if __name__ == "__main__":
    main()

"""Measure scoring on one core: a loop over captions, the blocks of torch, and the compiled kernel.

    python benchmarks/score_pairs.py [--images 100] [--captions 500] [--set model.dim=128 ...]

The methods run in turn, several times, and CPU seconds are counted; quote the ratio of the medians. Weights and
features are random, as the time does not depend on them. Three cases: a matrix, one caption against all images, and one
pair. The last line compares the kernel with the rate of its matrix product alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.bench.scoring import score_in_blocks, score_in_loop
from hire_model.model.fused import library
from hire_model.model.hire import Hire
from hire_model.model.layers import normalize
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.scoring.matrix import score_matrix
from hire_model.settings import resolve

PREDICATES = ("left of", "holds")


def draw_items(model: Hire, images: int, captions: int, regions: int, words: int) -> tuple[EncodedImages, EncodedTexts]:
    size, dim = model.settings.pair_dim or model.settings.dim, model.settings.dim
    lengths = torch.randint(words // 2, words + words // 2, (captions,))
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    edges = roles = None
    if model.roles is not None:
        relations = model.interaction.relations
        assert relations is not None
        edges = torch.rand(images, relations.kinds, regions, regions)
        roles = torch.randn(*mask.shape, model.roles.width)
    return (
        EncodedImages(
            torch.randn(images, regions, size),
            torch.ones(images, regions).bool(),
            normalize(torch.randn(images, dim)),
            edges,
        ),
        EncodedTexts(torch.randn(*mask.shape, size), mask, normalize(torch.randn(captions, dim)), roles),
    )


def count_operations(model: Hire, images: EncodedImages, texts: EncodedTexts) -> float:
    """Return the multiplications and additions of the products of stages 6 to 8, without the relation match."""
    size, stage = images.regions.shape[2], model.interaction
    total = 0.0
    for refine, level, lanes, context in (
        (stage.on_words, stage.word_image, texts.mask, images.mask),
        (stage.on_regions, stage.object_sentence, images.mask, texts.mask),
    ):
        n, per_item = int(lanes.sum()), context.sum(dim=1).double()
        if refine is not None:
            total += n * float((6 * per_item * size + 4 * size**2).sum())  # cosine, attended keys, F1 and F2
        if level is not None:
            total += n * len(context) * 4 * size**2
    return total


def measure(methods: dict[str, Callable[[], torch.Tensor]], runs: int, repeats: int) -> dict[str, float]:
    """Run the methods in turn; return the median CPU seconds of one call, and print them with their ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    expected = None
    for _ in range(runs):
        for name, method in methods.items():
            os.environ[library.SWITCH] = "1" if "kernel" in name else "0"
            scores = method()
            start = time.process_time()
            for _ in range(repeats):
                scores = method()
            seconds[name].append((time.process_time() - start) / repeats)
            expected = scores if expected is None else expected
            torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    assert expected is not None
    for name, median in medians.items():
        print(f"  {name:22} {expected.numel() / median:9,.0f} pairs/s {1000 * median:10.3f} ms {first / median:6.2f} x")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"images": 100, "captions": 500, "regions": 36, "words": 13, "reranked": 1000, "runs": 3, "threads": 1}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    settings = resolve(args.recipe, args.set, {}).settings.model
    model = Hire(settings, 64, PREDICATES, learn_vocabulary(["a dog"], settings.text)).eval()
    many, texts = draw_items(model, max(args.images, args.reranked), args.captions, args.regions, args.words)
    images, text, image = many[: args.images], texts.extract(0), many.extract(0)
    many, zero = many[: args.reranked], torch.zeros(1, dtype=torch.int64)
    compiled = library.load() is not None
    if not compiled:
        print("The compiled kernel is not available here: no C++ compiler, or HIRE_FUSED=0.")
    with torch.inference_mode():
        print(f"{args.images} x {args.captions}, per core:")
        methods: dict[str, Callable[[], torch.Tensor]] = {
            "torch, loop": lambda: score_in_loop(model, images, texts),
            "torch, blocks": lambda: score_in_blocks(model, images, texts),
        }
        if compiled:
            methods["compiled kernel"] = lambda: score_in_blocks(model, images, texts)
        medians = measure(methods, args.runs, 1)
        for title, call, repeats in (
            (
                f"one caption, {args.reranked} images:",
                lambda: torch.tensor(score_matrix(model, many, text, 1 << 29)),
                1,
            ),
            ("one pair:", lambda: model.score_pairs(image, text, zero, zero).total, 100),
        ):
            print(title)
            measure({name: call for name in ("torch", "compiled kernel")[: 1 + compiled]}, args.runs, repeats)
    os.environ[library.SWITCH] = "1"
    if compiled and (kernel := library.load()):
        start = time.process_time()
        rate = kernel.multiply(images.regions.shape[2], 5_000) / (time.process_time() - start)
        share = count_operations(model, images, texts) / medians["compiled kernel"] / rate
        print(f"Matrix product alone: {rate / 1e9:.0f} GFLOP/s; the kernel reaches {share:.0%} of it in the matrix.")


if __name__ == "__main__":
    main()

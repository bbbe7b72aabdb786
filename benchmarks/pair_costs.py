"""Tabulate and draw the cost of scoring a pair: operations and bytes per stage, share of time, growth with sizes.

    python benchmarks/pair_costs.py [--images 64] [--captions 64] [--figure docs/images/pair-costs.png]

Operations and bytes are counted from the shapes (hire_model/bench/cost.py); shares of time are measured here, with one
thread, random weights and the plain path. The sizes of the recipes are those of their data.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.bench.cost import Sizes, count_cost, count_flop
from hire_model.model import interaction
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.settings import resolve

RECIPES = {  # regions, words and predicates of the data
    "synthetic": (7, 12, 12),
    "flickr8k_mini": (36, 13, 0),
}
GROWTH = {"regions": range(4, 101, 4), "words": range(4, 61, 4), "size": range(32, 513, 32), "kinds": range(0, 17)}


def make_model(recipe: str, predicates: int) -> Hire:
    settings = resolve(recipe).settings.model
    if settings.text.kind != "bigru":  # the text encoder has no part in scoring a pair
        settings = settings.model_copy(update={"text": settings.text.model_copy(update={"kind": "bigru"})})
    torch.manual_seed(0)
    names = [f"p{number}" for number in range(predicates)]
    return Hire(settings, 16, names, learn_vocabulary(["a dog"], settings.text)).eval()


def make_items(model: Hire, images: int, captions: int, r: int, n: int) -> tuple[EncodedImages, EncodedTexts]:
    size, dim = model.settings.pair_dim or model.settings.dim, model.settings.dim
    edges = roles = None
    if model.roles is not None and model.interaction.relations is not None:
        edges = torch.rand(images, model.interaction.relations.kinds, r, r)
        roles = torch.randn(captions, n, model.roles.width)
    return (
        EncodedImages(torch.randn(images, r, size), torch.ones(images, r).bool(), torch.randn(images, dim), edges),
        EncodedTexts(torch.randn(captions, n, size), torch.ones(captions, n).bool(), torch.randn(captions, dim), roles),
    )


@torch.inference_mode()
def measure_shares(model: Hire, images: EncodedImages, texts: EncodedTexts, runs: int = 5) -> dict[str, float]:
    """Return each stage's share of the CPU time of scoring all pairs; attended keys are in "other"."""
    stage, seconds = model.interaction, dict[str, float]()

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            before = time.process_time()
            result = call(*args)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - before
            return result

        return run

    targets: list[tuple[Any, str, str]] = [
        (stage, "compute_cosine", "cosines"), (stage, "attend_to_regions", "attention"),
        (stage, "attend_to_words", "attention"), (stage, "_align", "alignment"), (interaction, "pool", "pooling"),
    ]  # fmt: skip
    modules = (
        (stage.on_words, "refinement"), (stage.on_regions, "refinement"), (stage.word_image, "cross-level"),
        (stage.object_sentence, "cross-level"), (stage.relations, "relation match"),
    )  # fmt: skip
    targets += [(module, "forward", name) for module, name in modules if module is not None]
    originals = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in targets]
    model.score(images, texts)
    for owner, attribute, name in targets:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    before = time.process_time()
    for _ in range(runs):
        model.score(images, texts)
    total = time.process_time() - before
    for owner, attribute, original in originals:
        setattr(owner, attribute, original)
    return {name: value / total for name, value in seconds.items()} | {"other": 1 - sum(seconds.values()) / total}


def print_recipe(recipe: str, images: int, captions: int) -> None:
    regions, words, predicates = RECIPES[recipe]
    model = make_model(recipe, predicates)
    kinds = 0 if model.interaction.relations is None else model.interaction.relations.kinds
    sizes = Sizes.of(model.settings, regions, words, kinds)
    shares = measure_shares(model, *make_items(model, images, captions, regions, words))
    costs = count_cost(model.settings, sizes)
    total = sum(cost.flop for cost in costs.values())
    print(f"\n{recipe}: R = {regions}, L = {words}, P = {sizes.size}, K = {kinds}\n")
    print("| Stage | kFLOP per pair | share | kB written per pair | share of time |\n|---|---:|---:|---:|---:|")
    for name, cost in costs.items():
        time_share = f"{shares[name]:.0%}" if name in shares else ""
        print(f"| {name} | {cost.flop / 1e3:.1f} | {cost.flop / total:.0%} | {cost.bytes / 1e3:.1f} | {time_share} |")
    print(f"| other | | | | {shares['other']:.0%} |")
    written = sum(cost.bytes for cost in costs.values())
    print(f"| **all** | {total / 1e3:.1f} | | {written / 1e3:.1f} | |")


def draw(path: Path) -> None:
    from matplotlib.figure import Figure

    from hire_model.evaluation.plots import BLUE, ORANGE, apply_style, save_plot

    labels = {"regions": "regions R", "words": "words L", "size": "P", "kinds": "edge maps K"}
    with apply_style():
        figure = Figure(figsize=(8.4, 2.6), layout="constrained")
        panels = figure.subplots(1, len(GROWTH), sharey=True)
        for recipe, colour in zip(RECIPES, (BLUE, ORANGE), strict=True):
            settings = resolve(recipe).settings.model
            regions, words, _ = RECIPES[recipe]
            base = Sizes.of(settings, regions, words, 5 if recipe == "synthetic" else 0)
            for axes, (name, values) in zip(panels, GROWTH.items(), strict=True):
                flop = [count_flop(settings, dataclasses.replace(base, **{name: value})) / 1e6 for value in values]
                axes.plot(list(values), flop, color=colour, label=recipe)
                axes.set(xlabel=labels[name], yscale="log")
        panels[0].set_ylabel("MFLOP per pair")
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].legend(fontsize="small")
    save_plot(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for recipe in RECIPES:
        print_recipe(recipe, args.images, args.captions)
    if args.figure:
        draw(args.figure)


if __name__ == "__main__":
    main()

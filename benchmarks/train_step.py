"""Measure seconds per training step, with Hire's loop and a plain one: the cost of checks, clipping, Fabric, loading.

    python benchmarks/train_step.py --data DATASET [--recipe synthetic] [--steps 30] [--set model.preset=base ...]

Both train the same model from the same seed on the same batches, in one run. `plain` has its batches in memory, scores
all padded pairs at once and does only forward, backward and AdamW; `ours, loaded` has the same batches in
memory; `ours` reads them from disk. The last rows are CPU seconds of `ours, loaded`, with and without the compiled
kernel in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from hire_model.bench.timing import alternate
from hire_model.bench.training import Item, make_loader, make_plain_step, make_step
from hire_model.data.store import Dataset, Split
from hire_model.model.fused.library import SWITCH
from hire_model.settings import Settings, resolve
from hire_model.training.distributed import launch_fabric

WARM = 3


def time_steps(items: Iterable[Item], step: Callable[[Item], None], device: torch.device) -> list[float]:
    """Return the seconds of each step, including the wait for the item."""
    seconds, before = [], time.perf_counter()
    for item in items:
        step(item)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds[WARM:]


def compare_with_torch(settings: Settings, split: Split, items: list[Item], out: Path) -> dict[str, float]:
    """Return the median CPU seconds of a step with and without the compiled kernel, which take turns."""

    def follow(name: str, switch: str) -> Callable[[], None]:
        remaining, run_step = itertools.cycle(items), make_step(settings, split, out / name, len(items))

        def step() -> None:
            os.environ[SWITCH] = switch
            run_step(next(remaining))

        return step

    return alternate({"torch": follow("torch", "0"), "kernel": follow("kernel", "1")}, len(items) - WARM, WARM)


def main(data: str, recipe: str | None, steps: int, overrides: list[str]) -> None:
    settings = resolve(recipe, overrides=overrides).settings
    train, split = settings.train, Dataset.open(data).split(settings.data.train, settings.data.train_images)
    if train.threads:
        torch.set_num_threads(train.threads)
    fabric = launch_fabric(train)
    loader = make_loader(settings, split)
    loaded = list(itertools.islice(loader.load_epoch(0), steps + WARM))
    with tempfile.TemporaryDirectory() as out:
        run_step = make_step(settings, split, Path(out), len(loader.sampler.draw_batches(0)))
        results = {
            "plain": time_steps(loaded, make_plain_step(settings, split, fabric.device), fabric.device),
            "ours, loaded": time_steps(loaded, run_step, fabric.device),
            "ours": time_steps(itertools.islice(loader.load_epoch(0), steps + WARM), run_step, fabric.device),
        }
        compared = compare_with_torch(settings, split, loaded, Path(out))
    print(f"device {fabric.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {train.batch}")
    for name, seconds in results.items():
        print(
            f"{name:14} median {statistics.median(seconds):.4f} s per step, least {min(seconds):.4f}, n {len(seconds)}"
        )
    print(*(f"{name} {seconds:.4f} CPU s per step" for name, seconds in compared.items()), sep=", ", end="; ")
    print(f"ratio {compared['torch'] / compared['kernel']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    main(options.data, options.recipe, options.steps, options.overrides)

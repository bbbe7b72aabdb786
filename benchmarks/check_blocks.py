"""Measure what checking the digests of a data set costs per training epoch, in CPU seconds.

    python benchmarks/check_blocks.py --data DATASET [--repeat 5] [--set model.preset=base ...]

One epoch reads all training features. The checked and the unchecked reading alternate; the first epoch of a training
checks every block, later epochs check nothing. The step is one training step of the recipe, times the number of steps.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from hire_model.data.blocks import hash_blocks
from hire_model.data.schema import FEATURES
from hire_model.data.store import Dataset, Split
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.settings import resolve
from hire_model.training.batches import Augment, CaptionSampler, Loader, PlannedBatches
from hire_model.training.distributed import launch_fabric, seed_everything
from hire_model.training.loop import train_step
from hire_model.training.train_state import TrainState


def open_split(folder: str, name: str, checked: bool) -> Split:
    """Open a split; `checked` also works for a data set whose manifest has no digests of blocks."""
    data = Dataset.open(folder)
    blocks = {FEATURES: hash_blocks(data.folder / FEATURES)[1]}
    manifest = data.manifest.model_copy(update={"blocks": blocks if checked else {}})
    return Dataset(data.folder, manifest, checked).split(name)


def time_reading(split: Split) -> float:
    """Return the CPU seconds of reading all regions of a split."""
    before = time.process_time()
    for image in range(len(split.images)):
        split.regions(image)
    return time.process_time() - before


def main(folder: str, repeat: int, steps: int, overrides: list[str]) -> None:
    settings = resolve(overrides=overrides).settings
    train, name = settings.train, settings.data.train
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for checked in [True, False] * repeat:
        seconds[checked].append(time_reading(open_split(folder, name, checked)))
    checked, plain = (statistics.median(seconds[kind]) for kind in (True, False))
    split = open_split(folder, name, False)
    fabric = launch_fabric(train)
    seed_everything(train.seed)
    model = build_model(settings.model, split)
    sampler = CaptionSampler(split.owner, train.batch, train.seed)
    batches = PlannedBatches(split, build_caption_bank(model, split.texts), Augment(train.seed))
    count, times = len(sampler.draw_batches(0)), []
    with tempfile.TemporaryDirectory() as out:
        state = TrainState(model, settings, fabric, Path(out), "", count)
        for plan, batch in itertools.islice(Loader(sampler, batches).load_epoch(0), steps):
            before = time.process_time()
            train_step(state, plan, batch, hardest=False)
            times.append(time.process_time() - before)
    epoch = plain + count * statistics.median(times[1:])
    size = (Path(folder) / FEATURES).stat().st_size / 1e6
    print(f"{size:,.0f} MB of features, {len(split.images):,} images, {count} steps per epoch, batch {train.batch}")
    print(f"reading {plain:.2f} s, with checks {checked:.2f} s, an epoch {epoch:.1f} s of CPU time")
    print(f"checks: {100 * (checked - plain) / epoch:.2f} % of the first epoch, 0 % of the later ones")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    main(options.data, options.repeat, options.steps, options.overrides)

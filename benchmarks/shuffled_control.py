"""Control experiment: train and evaluate with images assigned to captions at random. Recall must equal chance.

    python benchmarks/shuffled_control.py --recipe flickr8k_mini --data DATASET [--set train.epochs=1 ...]

A recall above chance would come from something other than matching, for example leaked captions or wrong ranks.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from hire_model.data.splits import Splits, open_dataset, open_splits
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.evaluation.ranks import compute_chance_recall
from hire_model.settings import resolve
from hire_model.workflows.evaluate import score_split
from hire_model.workflows.train import fit_model


def shuffle_images(split: Split, seed: int) -> Split:
    """Shuffle the images of the split, so that each caption gets the image of another."""
    return dataclasses.replace(split, images=np.random.default_rng(seed).permutation(split.images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    settings = resolve(args.recipe, [f"data.path={args.data}", *args.set]).settings
    splits = open_splits(open_dataset(settings.data), settings.data)
    all_splits = (splits.train, splits.dev, splits.test)
    splits = Splits(*(shuffle_images(split, seed) for seed, split in enumerate(all_splits)))
    with tempfile.TemporaryDirectory() as folder:
        model, _ = fit_model(settings, splits, Path(folder))
    result = protocols.evaluate_matrix(
        score_split(model, splits.test, settings.evaluate), splits.test.owner, bootstrap=0
    )
    print({name: round(value, 1) for name, value in result.metrics().items()})
    i2t, t2i = compute_chance_recall(splits.test.owner, len(splits.test.images), np.array([1, 5, 10]))
    print("chance: i2t R@1/5/10", i2t.round(1).tolist(), "t2i", t2i.round(1).tolist())


if __name__ == "__main__":
    main()

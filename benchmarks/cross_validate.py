"""Compare settings without using dev: K-fold cross-validation over the images of the training split.

    python benchmarks/cross_validate.py --recipe flickr8k_mini --data DATASET --folds 7 [--only 0,3] [--start]
        [--set train.warm_text_ridge=6 ...]

Each fold is held out once, with its captions, and evaluated with a model trained on the other folds. --start evaluates
the closed-form start without training, which takes seconds. The folds are the same for all settings (seed 0), so
compare fold by fold.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from hire_model.data.splits import Splits, open_dataset, open_splits
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.settings import resolve
from hire_model.workflows.evaluate import score_split
from hire_model.workflows.train import fit_model, prepare_model


def select_images(split: Split, chosen: np.ndarray) -> Split:
    """Select images of `split` by a mask [N] bool, with their captions."""
    new_rows = np.cumsum(chosen) - 1
    captions = chosen[split.owner]
    owner = new_rows[split.owner[captions]].astype(np.int64)
    return Split(split.dataset, split.name, split.images[chosen], split.captions[captions], owner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--data", required=True)
    parser.add_argument("--folds", type=int, default=7)
    parser.add_argument("--only", help="comma-separated numbers of the folds to hold out; default: all")
    parser.add_argument("--start", action="store_true", help="evaluate the closed-form start, without training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    settings = resolve(args.recipe, [f"data.path={args.data}", *args.set]).settings
    whole = open_splits(open_dataset(settings.data), settings.data).train
    fold = np.random.default_rng(0).permutation(len(whole.images)) % args.folds
    rsums = []
    for held_out in map(int, args.only.split(",")) if args.only else range(args.folds):
        train, dev = select_images(whole, fold != held_out), select_images(whole, fold == held_out)
        if args.start:
            model = prepare_model(settings, train, warm=settings.train.warm_start)[0].eval()
        else:
            with tempfile.TemporaryDirectory() as folder:
                model, _ = fit_model(settings, Splits(train, dev, dev), Path(folder))
        result = protocols.evaluate_matrix(score_split(model, dev, settings.evaluate), dev.owner, bootstrap=0)
        rsums.append(result.rsum)
        print(f"fold {held_out}: {len(dev.images)} images, rSum {result.rsum:.1f}", flush=True)
    print(f"mean rSum {statistics.mean(rsums):.1f} ({min(rsums):.1f} to {max(rsums):.1f}), {args.set}", flush=True)


if __name__ == "__main__":
    main()

"""Measure the hub correction on dev: rSum by size of the bank and weight, with the paired interval of the gain.

    python benchmarks/hub_correction.py --model FOLDER --recipe flickr8k_mini --data DATASET [--sizes 250,500,1000]
        [--weights 0.5,0.75,1] [--set data.train_images=400 ...]

The bank is collected anew from the training split for each size. --start measures the closed-form start of the recipe
instead of a trained model.
"""

from __future__ import annotations

import argparse

from hire_model.data.splits import open_dataset, open_splits
from hire_model.evaluation.bootstrap import bootstrap_differences
from hire_model.evaluation.protocols import compute_rsum, rank_under_protocol
from hire_model.model import artifact, hubs
from hire_model.model.captions import build_caption_bank
from hire_model.scoring.hub_correction import collect_bank, correct_matrix
from hire_model.settings import resolve
from hire_model.workflows.evaluate import score_split
from hire_model.workflows.train import prepare_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained model")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", default="250,500,1000")
    parser.add_argument("--weights", default="0.5,0.75,1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    settings = resolve(args.recipe, [f"data.path={args.data}", *args.set]).settings
    splits = open_splits(open_dataset(settings.data), settings.data)
    model = prepare_model(settings, splits.train, warm=True)[0].eval() if args.start else artifact.load(args.model)
    dev, captions = splits.dev, build_caption_bank(model, splits.dev.texts)
    matrix = score_split(model, dev, settings.evaluate)
    plain = rank_under_protocol(matrix, dev.owner, "full")
    print(f"plain: rSum {compute_rsum(plain, dev.owner):.1f}", flush=True)
    for size in map(int, args.sizes.split(",")):
        model.hubs = collect_bank(model, splits.train, size, settings.train.temperature)
        for weight in map(float, args.weights.split(",")):
            hubs.WEIGHT = weight
            ranks = rank_under_protocol(correct_matrix(model, dev, captions, matrix), dev.owner, "full")
            low, high = bootstrap_differences(
                (ranks.i2t, ranks.t2i), (plain.i2t, plain.t2i), dev.owner, plain.fold, 1000, 0
            )["rsum"]
            rsum = compute_rsum(ranks, dev.owner)
            gain = f"{rsum - compute_rsum(plain, dev.owner):+.1f} ({low:+.1f} to {high:+.1f})"
            print(f"bank {len(model.hubs or ())}, weight {weight:g}: rSum {rsum:.1f}, {gain}", flush=True)


if __name__ == "__main__":
    main()

"""Compare our rows with two peers at equal start, loss, dropout, boxes and epochs.

    python benchmarks/peers/compare.py --recipe flickr8k_mini --data DATASET --out DIR
        [--images 1500] [--epochs 2] [--seeds 0,1,2] [--only base,GPO] [--set KEY=VALUE ...]

Rows: the closed-form start without training, base (no stage 3, 4, 6, 7), the recipe, the recipe with
model.region_weights=equal ("equal regions"), full (every stage, both directions), VSE-infinity's pooling (GPO) and
SCAN's attention (t2i). The last column is the difference to the recipe, averaged over the seeds that both rows have,
with the 95 % interval of a paired bootstrap over images. The best epoch is chosen on dev for every row. A run that was
stopped continues with the missing rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from models import PEERS, make_peer

from hire_model.ablation.stages import VARIANTS
from hire_model.ablation.study import RecordFile, Study, Trial, TrialRecord, run_missing_trials
from hire_model.ablation.tables import Spread, Table
from hire_model.cli.options import collect_overrides
from hire_model.data.splits import open_dataset, open_splits
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.evaluation.bootstrap import bootstrap_mean_differences
from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import KS, Result
from hire_model.files import write_text
from hire_model.model.hire import Hire
from hire_model.settings import Settings, resolve
from hire_model.training.loop import fit
from hire_model.workflows.evaluate import score_split
from hire_model.workflows.train import prepare_model

OVERRIDES = {variant.name: variant.overrides for variant in VARIANTS}
BASE = OVERRIDES["base"]
PLAIN = {"model.region_weights": "equal"}  # the published models start from the plain mean
ROWS: dict[str, Mapping[str, str]] = {
    "start only": BASE,
    "base": BASE,
    "GPO": BASE | PLAIN | {"model.pair_dim": "0"},
    "SCAN": BASE | PLAIN | {"model.global_head": "false", "model.global_weight": "0"},
    "recipe": {},
    "equal regions": PLAIN,
    "full": OVERRIDES["full"],
}


class PeerRecord(TrialRecord):
    """The figures of a row with one seed, on the split that the recipe evaluates."""

    seconds: float
    parameters: int
    i2t: list[int]
    t2i: list[int]
    result: Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the records and the table")
    parser.add_argument("--images", type=int, default=0, help="train on this many images; 0: all")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of every row; 0: as in the recipe")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help=f"comma-separated rows of {', '.join(ROWS)}; default: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    overrides = [
        f"data.path={args.data}",
        "train.threads=1",
        f"data.train_images={args.images}",
        *collect_overrides(args.set),
    ]
    overrides += [f"train.epochs={args.epochs}"] if args.epochs else []
    dataset = open_dataset(resolve(args.recipe, overrides).settings.data)
    study = Study(args.recipe, overrides, [int(seed) for seed in args.seeds.split(",")], args.out, dataset)
    rows = {name: ROWS[name] for name in args.only.split(",")} if args.only else ROWS
    trials = [
        dataclasses.replace(trial, key=f"{trial.variant}-{trial.key}")  # rows with equal settings are not equal models
        for trial in study.plan(rows.items())
        if trial.variant != "start only" or trial.seed == study.seeds[0]  # it does not depend on the seed
    ]

    def write(records: Mapping[str, PeerRecord]) -> None:
        done = [records[trial.key] for trial in trials if trial.key in records]
        origin = study.describe_origin(trials[0].settings, [record.result for record in done])
        table = make_table(done, study.open_split(trials[0].settings).owner)
        write_text(f"{origin.markdown()}\n\n{table.markdown()}\n", args.out / "peers.md")

    file = RecordFile(args.out / "peers.jsonl", PeerRecord)
    write(run_missing_trials(trials, file, lambda trial: run_trial(trial, study), write))
    print((args.out / "peers.md").read_text("utf-8"))


def run_trial(trial: Trial, study: Study) -> PeerRecord:
    """Train and evaluate one row with one seed."""
    splits = open_splits(study.dataset, trial.settings.data)
    model, bank = prepare_model(trial.settings, splits.train, warm=trial.settings.train.warm_start)
    if trial.variant in PEERS:
        model = make_peer(trial.variant, model)
    seconds = 0.0
    if trial.variant != "start only":

        def evaluate_dev(candidate: Hire) -> dict[str, float]:
            return {"rsum": measure(candidate, splits.dev, trial.settings)[1].rsum}

        with tempfile.TemporaryDirectory() as folder:
            fitted = fit(
                model, splits.train, bank, trial.settings,
                dev=evaluate_dev, out=Path(folder), digest=study.dataset.manifest.digest,
            )  # fmt: skip
        seconds = sum(epoch.seconds for epoch in fitted.history)
    ranks, result = measure(model.eval(), splits.test, trial.settings)
    return PeerRecord(
        key=trial.key,
        variant=trial.variant,
        seed=trial.seed,
        seconds=seconds,
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        i2t=ranks.i2t.tolist(),
        t2i=ranks.t2i.tolist(),
        result=result.model_copy(update={"facts": collect_facts()}),
    )


def measure(model: Hire, split: Split, settings: Settings) -> tuple[Ranks, Result]:
    """Return ranks and figures of `model` on `split`."""
    matrix = score_split(model, split, settings.evaluate)
    ranks = protocols.rank_under_protocol(matrix, split.owner, settings.evaluate.protocol)
    return ranks, protocols.evaluate_matrix(matrix, split.owner, settings.evaluate.protocol, bootstrap=0, ranks=ranks)


def make_table(records: list[PeerRecord], owner: np.ndarray) -> Table:
    """Make the table of all rows that have a record."""
    by_row = {name: [record for record in records if record.variant == name] for name in ROWS}
    cells = []
    for name, found in by_row.items():
        if not found:
            continue
        recalls = [[getattr(record.result, side) for record in found] for side in ("i2t", "t2i")]
        means = ["/".join(f"{np.mean([getattr(d, f'r{k}') for d in side]):.0f}" for k in KS) for side in recalls]
        rsum = Spread.of(record.result.rsum for record in found).text()
        seconds = np.mean([record.seconds for record in found])
        difference = describe_difference(found, by_row["recipe"], owner) if name != "recipe" else ""
        cells.append([name, *means, rsum, difference, f"{seconds:.0f}", f"{found[0].parameters:,}", str(len(found))])
    headings = ["row", "i2t R@1/5/10", "t2i R@1/5/10", "rSum", "minus recipe (95 %)", "s", "trained weights", "seeds"]
    return Table("Our rows and two peers", headings, cells, "s: seconds of training, without evaluation.")


def describe_difference(rows: list[PeerRecord], recipe: list[PeerRecord], owner: np.ndarray) -> str:
    """Return the difference of rSum to the recipe with its paired interval; "" without common seeds."""
    by_seed = {record.seed: record for record in recipe}
    pairs = [(row, by_seed[row.seed]) for row in rows if row.seed in by_seed]
    if not pairs:
        return ""
    sides = [[(np.array(r.i2t), np.array(r.t2i)) for r in side] for side in zip(*pairs, strict=True)]
    low, high = bootstrap_mean_differences(*sides, owner, np.zeros(len(sides[0][0][0]), int), 1000, 0)["rsum"]
    mean = np.mean([row.result.rsum - other.result.rsum for row, other in pairs])
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()

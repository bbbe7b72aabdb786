"""Compare stages: `base` has none, `base+X` has one, `full` has all, and `full-X` has all but one.

Each variant is compared with its reference per seed: what a stage adds to `base`, and what `full` loses without it.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from hire_model.ablation.study import (
    RecordFile,
    Study,
    Trial,
    TrialRecord,
    evaluate_model,
    run_missing_trials,
    train_trial,
)
from hire_model.ablation.tables import Origin, Spread, Table
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation.result import KS, Result
from hire_model.files import write_text

_GRAPHS, _IMPLICIT = "model.graphs", "model.image_implicit"
_WORD, _SENTENCE, _IMAGE = "model.object_word", "model.object_sentence", "model.word_image"
_MATCH = "model.relation_match"
# Stage 3 on words is off if stage 3 on regions is off; else model.text_implicit of the recipe applies.
_NO_IMPLICIT = {_IMPLICIT: "false", "model.text_implicit": "off"}
# All variants score both directions, because stage 7 on regions is inactive in a t2i model.
_BOTH = {"model.direction": "both"}
_NONE = _NO_IMPLICIT | _BOTH | {_GRAPHS: "none", _WORD: "false", _SENTENCE: "false", _IMAGE: "false", _MATCH: "false"}
_ALL = _BOTH | {_IMPLICIT: "true", _GRAPHS: "both", _WORD: "true", _SENTENCE: "true", _IMAGE: "true", _MATCH: "true"}
_IMPLICIT_ALONE = {key: value for key, value in _NONE.items() if key != "model.text_implicit"} | {_IMPLICIT: "true"}


@dataclass(frozen=True)
class Variant:
    """Settings that override the recipe, and the name of the variant to compare with ("" for none)."""

    name: str
    overrides: dict[str, str]
    reference: str = ""


VARIANTS = (
    Variant("base", _NONE),
    Variant("base+implicit", _IMPLICIT_ALONE, "base"),
    Variant("base+spatial", _NONE | {_GRAPHS: "spatial"}, "base"),
    Variant("base+semantic", _NONE | {_GRAPHS: "semantic"}, "base"),
    Variant("base+both-graphs", _NONE | {_GRAPHS: "both"}, "base"),
    Variant("base+both-graphs+relation-match", _NONE | {_GRAPHS: "both", _MATCH: "true"}, "base+both-graphs"),
    Variant("base+object-word", _NONE | {_WORD: "true"}, "base"),
    Variant("base+object-sentence", _NONE | {_SENTENCE: "true"}, "base"),
    Variant("base+word-image", _NONE | {_IMAGE: "true"}, "base"),
    Variant("full", _ALL, "base"),
    Variant("full-implicit", _ALL | _NO_IMPLICIT, "full"),
    Variant("full-spatial", _ALL | {_GRAPHS: "semantic"}, "full"),
    Variant("full-semantic", _ALL | {_GRAPHS: "spatial"}, "full"),
    Variant("full-both-graphs", _ALL | {_GRAPHS: "none"}, "full"),
    Variant("full-relation-match", _ALL | {_MATCH: "false"}, "full"),
    Variant("full-alignment", _ALL | {"model.alignment": "false"}, "full"),
    Variant("full-object-word", _ALL | {_WORD: "false"}, "full"),
    Variant("full-object-sentence", _ALL | {_SENTENCE: "false"}, "full"),
    Variant("full-word-image", _ALL | {_IMAGE: "false"}, "full"),
)


class StageRecord(TrialRecord):
    """The figures of a trial. best_epoch: counts from 1; result: on the evaluation split."""

    dev_rsum: float
    best_epoch: int
    epochs: int
    seconds_per_epoch: float
    parameters: int
    result: Result


class Row(BaseModel):
    """The figures of a variant over its seeds. change: rSum minus that of `reference` per seed; None without any."""

    variant: str
    overrides: dict[str, str]
    seeds: list[int]
    reference: str
    rsum: Spread
    change: Spread | None
    dev_rsum: Spread
    i2t: list[Spread]
    t2i: list[Spread]
    seconds_per_epoch: Spread
    parameters: int


class StageTable(BaseModel):
    """The table, as stored in stages.json."""

    origin: Origin
    rows: list[Row]


def run(study: Study, only: Sequence[str] = ()) -> StageTable:
    """Run the trials that are not yet in stages.jsonl; write stages.md and stages.json after each one.

    only: names of variants; all if empty. Raise HireError for wrong settings before anything is trained, and
    TrainingStopped after Ctrl-C: the same call continues.
    """
    variants = select_variants(only)
    trials = study.plan([(variant.name, variant.overrides) for variant in variants])
    split = study.open_split(trials[0].settings)

    def write(records: Mapping[str, StageRecord]) -> StageTable:
        table = _build_table(study, trials, records)
        write_text(table.model_dump_json(indent=1) + "\n", study.out / "stages.json")
        parts = [table.origin.markdown(), *(part.markdown() for part in make_tables(table))]
        write_text("\n\n".join(parts) + "\n", study.out / "stages.md")
        return table

    file = RecordFile(study.out / "stages.jsonl", StageRecord)
    return write(run_missing_trials(trials, file, lambda trial: _run_trial(trial, study, split), write))


def select_variants(only: Sequence[str], variants: tuple[Variant, ...] = VARIANTS) -> tuple[Variant, ...]:
    """Return the variants with these names, or all, in the order of `variants`. Raise HireError for an unknown name."""
    names = [variant.name for variant in variants]
    for name in only:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise HireError(f"--only {name}: no such variant; there are {', '.join(names)}.{hint}")
    return tuple(variant for variant in variants if not only or variant.name in only)


def _run_trial(trial: Trial, study: Study, split: Split) -> StageRecord:
    folder = study.out / "unfinished" / trial.key
    model, fitted = train_trial(trial, study.dataset, folder)
    record = StageRecord(
        key=trial.key,
        variant=trial.variant,
        seed=trial.seed,
        dev_rsum=fitted.best_metrics["rsum"],
        best_epoch=fitted.best_epoch + 1,
        epochs=len(fitted.history),
        seconds_per_epoch=sum(epoch.seconds for epoch in fitted.history) / len(fitted.history),
        parameters=sum(weight.numel() for weight in model.parameters()),
        result=evaluate_model(model, trial.settings, split),
    )
    shutil.rmtree(folder)  # the checkpoints of all variants would need much space
    return record


def _build_table(study: Study, trials: Sequence[Trial], records: Mapping[str, StageRecord]) -> StageTable:
    """Build the table of the trials that are done."""
    done = {(trial.variant, trial.seed): records[trial.key] for trial in trials if trial.key in records}
    by_variant = {v.name: {seed: r for (name, seed), r in done.items() if name == v.name} for v in VARIANTS}
    rows = [_build_row(variant, by_variant) for variant in VARIANTS if by_variant[variant.name]]
    origin = study.describe_origin(trials[0].settings, [record.result for record in done.values()])
    return StageTable(origin=origin, rows=rows)


def _build_row(variant: Variant, by_variant: Mapping[str, Mapping[int, StageRecord]]) -> Row:
    by_seed, reference = by_variant[variant.name], by_variant.get(variant.reference, {})
    records = list(by_seed.values())
    changes = [by_seed[seed].result.rsum - reference[seed].result.rsum for seed in by_seed if seed in reference]
    return Row(
        variant=variant.name,
        overrides=variant.overrides,
        seeds=list(by_seed),
        reference=variant.reference,
        rsum=Spread.of(r.result.rsum for r in records),
        change=Spread.of(changes) if changes else None,
        dev_rsum=Spread.of(r.dev_rsum for r in records),
        i2t=[Spread.of(getattr(r.result.i2t, f"r{k}") for r in records) for k in KS],
        t2i=[Spread.of(getattr(r.result.t2i, f"r{k}") for r in records) for k in KS],
        seconds_per_epoch=Spread.of(r.seconds_per_epoch for r in records),
        parameters=records[0].parameters,
    )


def make_tables(table: StageTable) -> list[Table]:
    """Make the tables to print and write: rSum and its change; recalls, time and size."""
    sums, recalls = [], []
    for row in table.rows:
        sums.append(
            [row.variant, row.rsum.text(), row.change.text(sign=True) if row.change else "", row.dev_rsum.text()]
        )
        means = [f"{spread.mean:.1f}" for spread in (*row.i2t, *row.t2i, row.seconds_per_epoch)]
        recalls.append([row.variant, *means, f"{row.parameters:,}"])
    note = "Change of rSum per seed: base+… and full are compared with base, full-… with full." + _list_missing_seeds(
        table
    )
    headings = ["variant", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "s/epoch", "weights"]
    return [
        Table("Each stage on and off", ["variant", "rSum", "change", "dev rSum"], sums, note),
        Table("Recalls, seconds per epoch and size", headings, recalls),
    ]


def _list_missing_seeds(table: StageTable) -> str:
    incomplete = [f"{row.variant} ({len(row.seeds)})" for row in table.rows if len(row.seeds) < len(table.origin.seeds)]
    return f" Fewer seeds than requested: {', '.join(incomplete)}." if incomplete else ""

"""The ablation table: each stage alone on top of none, all of them, and all but each one.

A variant is compared with its reference, seed by seed: what a stage adds to `base`, and what `full` loses without it.
"""

from __future__ import annotations

import difflib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from hire_model.ablation.memory import Memory, Record
from hire_model.ablation.tables import Origin, Spread, Table
from hire_model.ablation.trial import Planned, Study, judge, train
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation.result import KS, Result
from hire_model.files import write_text

log = logging.getLogger(__name__)
_GRAPHS, _IMPLICIT = "model.graphs", "model.image_implicit"
_WORD, _SENTENCE, _IMAGE = "model.object_word", "model.object_sentence", "model.word_image"
_MATCH = "model.relation_match"
# Stage 3 on words is switched off with stage 3 on regions; where it is on, the recipe's model.text_implicit decides.
_NO_IMPLICIT = {_IMPLICIT: "false", "model.text_implicit": "off"}
# Both directions are scored, whatever the recipe says: stage 7 on regions rests in a t2i model.
_BOTH = {"model.direction": "both"}
_NONE = _NO_IMPLICIT | _BOTH | {_GRAPHS: "none", _WORD: "false", _SENTENCE: "false", _IMAGE: "false", _MATCH: "false"}
_ALL = _BOTH | {_IMPLICIT: "true", _GRAPHS: "both", _WORD: "true", _SENTENCE: "true", _IMAGE: "true", _MATCH: "true"}
_IMPLICIT_ALONE = {key: value for key, value in _NONE.items() if key != "model.text_implicit"} | {_IMPLICIT: "true"}


@dataclass(frozen=True)
class Variant:
    """Settings over the recipe's, and the variant it is compared with ('' for none)."""

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


class Trial(Record):
    """A variant trained with a seed. best_epoch counts from 1; result: on the split that is judged in the end."""

    dev_rsum: float
    best_epoch: int
    epochs: int
    seconds_per_epoch: float
    parameters: int
    result: Result


class Row(BaseModel):
    """A variant over its seeds. change: of the rSum against `reference`, seed by seed; None where it has no like."""

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
    """The whole table, as stages.json holds it."""

    origin: Origin
    rows: list[Row]


def choose(only: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of these names in the table's order, or all. Raises HireError naming the nearest known name."""
    known = {variant.name: variant for variant in VARIANTS}
    for name in only:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise HireError(f"--only {name}: no such variant; there are {', '.join(known)}.{hint}")
    return tuple(variant for variant in VARIANTS if not only or variant.name in only)


def run(study: Study, only: Sequence[str] = ()) -> StageTable:
    """Train and judge what stages.jsonl does not hold yet; stages.md and stages.json are written after each trial.

    only: names of variants, all where there are none. Raises HireError for wrong settings before anything is trained,
    and TrainingStopped after Ctrl-C: the same call goes on.
    """
    variants = choose(only)
    planned = study.plan([(variant.name, variant.overrides) for variant in variants])
    split = study.split(planned[0].settings)
    memory = Memory(study.out / "stages.jsonl", Trial)
    done = memory.all()
    for number, one in enumerate(planned, 1):
        if one.key in done:
            continue
        log.info("Trial %d of %d: %s, seed %d", number, len(planned), one.variant, one.seed)
        done[one.key] = _trial(one, study, split)
        memory.add(done[one.key])
        _write(_table(study, planned, done), study.out)
    table = _table(study, planned, done)
    _write(table, study.out)
    return table


def show(table: StageTable) -> list[Table]:
    """The tables as they are printed and written: rSum and what a stage changes; recalls and what it costs."""
    sums, recalls = [], []
    for row in table.rows:
        sums.append(
            [row.variant, row.rsum.text(), row.change.text(sign=True) if row.change else "", row.dev_rsum.text()]
        )
        means = [f"{spread.mean:.1f}" for spread in (*row.i2t, *row.t2i, row.seconds_per_epoch)]
        recalls.append([row.variant, *means, f"{row.parameters:,}"])
    note = "Change of rSum seed by seed: of base+… and full against base, of full-… against full." + _missing(table)
    headings = ["variant", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "s/epoch", "weights"]
    return [
        Table("Each stage on and off", ["variant", "rSum", "change", "dev rSum"], sums, note),
        Table("Recalls, seconds per epoch and size", headings, recalls),
    ]


def _missing(table: StageTable) -> str:
    lacking = [f"{row.variant} ({len(row.seeds)})" for row in table.rows if len(row.seeds) < len(table.origin.seeds)]
    return f" Fewer seeds than asked for: {', '.join(lacking)}." if lacking else ""


def _write(table: StageTable, out: Path) -> None:
    write_text(table.model_dump_json(indent=1) + "\n", out / "stages.json")
    parts = [table.origin.markdown(), *(part.markdown() for part in show(table))]
    write_text("\n\n".join(parts) + "\n", out / "stages.md")


def _trial(one: Planned, study: Study, split: Split) -> Trial:
    folder = study.out / "unfinished" / one.key
    model, found = train(one, study.dataset, folder)
    record = Trial(
        key=one.key,
        variant=one.variant,
        seed=one.seed,
        dev_rsum=found.best_metrics["rsum"],
        best_epoch=found.best_epoch + 1,
        epochs=len(found.history),
        seconds_per_epoch=sum(epoch.seconds for epoch in found.history) / len(found.history),
        parameters=sum(weight.numel() for weight in model.parameters()),
        result=judge(model, one.settings, split),
    )
    shutil.rmtree(folder)  # checkpoints of sixteen variants and more are not worth their space
    return record


def _table(study: Study, planned: Sequence[Planned], done: Mapping[str, Trial]) -> StageTable:
    """What is there so far."""
    trials = {(one.variant, one.seed): done[one.key] for one in planned if one.key in done}
    by_variant = {v.name: {seed: t for (name, seed), t in trials.items() if name == v.name} for v in VARIANTS}
    rows = [_row(variant, by_variant) for variant in VARIANTS if by_variant[variant.name]]
    origin = study.origin(planned[0].settings, [found.result for found in trials.values()])
    return StageTable(origin=origin, rows=rows)


def _row(variant: Variant, by_variant: Mapping[str, Mapping[int, Trial]]) -> Row:
    trials = by_variant[variant.name]
    found, reference = list(trials.values()), by_variant.get(variant.reference, {})
    changes = [trials[seed].result.rsum - reference[seed].result.rsum for seed in trials if seed in reference]
    return Row(
        variant=variant.name,
        overrides=variant.overrides,
        seeds=list(trials),
        reference=variant.reference,
        rsum=Spread.of(t.result.rsum for t in found),
        change=Spread.of(changes) if changes else None,
        dev_rsum=Spread.of(t.dev_rsum for t in found),
        i2t=[Spread.of(getattr(t.result.i2t, f"r{k}") for t in found) for k in KS],
        t2i=[Spread.of(getattr(t.result.t2i, f"r{k}") for t in found) for k in KS],
        seconds_per_epoch=Spread.of(t.seconds_per_epoch for t in found),
        parameters=found[0].parameters,
    )

"""The paper's own claim, checked: with the implicit relations first, missing and wrong explicit edges do less harm.

The model is trained on the edges as they are, with and without stage 3 on regions, and then judged with more and more
of its edges dropped or shuffled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel

from hire_model.ablation.memory import Memory, Record
from hire_model.ablation.perturb import KINDS, Kind, perturbed
from hire_model.ablation.tables import Origin, Spread, Table
from hire_model.ablation.trial import Planned, Study, train
from hire_model.data.store import Split
from hire_model.errors import SettingsError
from hire_model.evaluation import figures, protocols
from hire_model.evaluation.result import Result
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.captions import caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import Settings
from hire_model.tracking.facts import facts
from hire_model.training.distributed import pick_device

log = logging.getLogger(__name__)
VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("implicit stage on", {"model.image_implicit": "true"}),
    ("implicit stage off", {"model.image_implicit": "false"}),
)

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Point(BaseModel):
    """A model's figures with a share (0-1) of its edges hit; relations and pairs: the shares that were hit in fact."""

    kind: Kind
    share: float
    relations: float
    pairs: float
    result: Result


class Trial(Record):
    """All points of one model; share 0 is there once for each kind, as the same figures."""

    dev_rsum: float
    points: list[Point]


class Cell(BaseModel):
    """A variant at a share.

    rsums: of each seed; lost: rSum against that of share 0, seed by seed; relations, pairs: hit in fact, 0-1
    """

    variant: str
    kind: Kind
    share: float
    seeds: list[int]
    rsums: list[float]
    rsum: Spread
    lost: Spread
    relations: Spread
    pairs: Spread
    metrics: dict[str, Spread]


class EdgeTable(BaseModel):
    """The whole table, as edges.json holds it."""

    origin: Origin
    graphs: str
    cells: list[Cell]


def run(study: Study) -> EdgeTable:
    """Train and judge what edges.jsonl does not hold yet; edges.md, edges.json and plots are written after each trial.

    Trained models are kept in models/. Raises HireError for wrong settings before anything is trained, among them a
    model without graphs; TrainingStopped after Ctrl-C: the same call goes on.
    """
    planned = study.plan(VARIANTS)
    if planned[0].settings.model.graphs == "none":
        raise SettingsError("model.graphs=none: there are no edges to drop. Set model.graphs=both.")
    split = study.split(planned[0].settings)
    memory = Memory(study.out / "edges.jsonl", Trial)
    done = memory.all()
    for number, one in enumerate(planned, 1):
        if one.key in done:
            continue
        log.info("Trial %d of %d: %s, seed %d", number, len(planned), one.variant, one.seed)
        model, dev_rsum = _model(one, study)
        points = judge_points(model, split, one.settings)
        done[one.key] = Trial(key=one.key, variant=one.variant, seed=one.seed, dev_rsum=dev_rsum, points=points)
        memory.add(done[one.key])
        _write(_table(study, planned, done), study.out)
    table = _table(study, planned, done)
    _write(table, study.out)
    return table


def judge_points(model: Hire, split: Split, settings: Settings) -> list[Point]:
    """`model` on `split` at each kind and share. train.seed draws what is hit."""
    points: list[Point] = []
    with torch.inference_mode():
        bank = caption_bank(model, split.texts)
        for kind in KINDS:
            for share in SHARES:
                if share == 0 and points:
                    points.append(points[0].model_copy(update={"kind": kind}))
                    continue
                log.info("%.0f %% of the edges %s", 100 * share, kind)
                with perturbed(model, kind, share, settings.train.seed) as tally:
                    matrix = compute_similarity(model, split, bank, settings.evaluate.budget_mb << 20)
                result = protocols.judge(matrix, split.owner, settings.evaluate.protocol, bootstrap=0)
                result = result.model_copy(update={"facts": facts()})
                relations, pairs = tally.shares
                points.append(Point(kind=kind, share=share, relations=relations, pairs=pairs, result=result))
    return points


def show(table: EdgeTable) -> list[Table]:
    """The tables as they are printed and written: rSum, what of it is lost, and what was hit in fact."""
    columns = [(variant, kind) for variant, _ in VARIANTS for kind in KINDS]
    cells = {(cell.variant, cell.kind, cell.share): cell for cell in table.cells}
    there = [column for column in columns if (*column, 0.0) in cells]
    headings = ["edges hit", *(", ".join(column) for column in there)]

    def rows(text: str) -> list[list[str]]:
        picked = [(f"{100 * s:.0f} %", [cells[(*column, s)] for column in there]) for s in SHARES]
        if text == "rsum":
            return [[name, *(cell.rsum.text() for cell in row)] for name, row in picked]
        if text == "lost":
            return [[name, *(cell.lost.text(sign=True) for cell in row)] for name, row in picked[1:]]
        hit = [
            [name, *(f"{100 * c.relations.mean:.0f} / {100 * c.pairs.mean:.0f}" for c in row)] for name, row in picked
        ]
        return hit[1:]

    note = (
        f"model.graphs={table.graphs}; edges are hit in judging only, all models were trained on the edges as they are."
    )
    return [
        Table("rSum against the share of explicit edges that are dropped or shuffled", headings, rows("rsum"), note),
        Table("Change of rSum against 0 %, seed by seed", headings, rows("lost")),
        Table("Hit in fact, in %: relations / pairs of boxes", headings, rows("hit")),
    ]


def _model(one: Planned, study: Study) -> tuple[Hire, float]:
    """The trial's model, trained or as an earlier call left it, and its dev rSum."""
    folder = study.out / "models" / one.key
    if (folder / artifact.CONFIG).is_file():
        dev_rsum = artifact.read_config(folder)["facts"]["dev_rsum"]
        return artifact.load(folder).to(pick_device(one.settings.train)), dev_rsum
    unfinished = study.out / "unfinished" / one.key
    model, found = train(one, study.dataset, unfinished)
    dev_rsum = found.best_metrics["rsum"]
    artifact.save(model, folder, {"variant": one.variant, "seed": one.seed, "dev_rsum": dev_rsum} | facts())
    shutil.rmtree(unfinished)
    return model, dev_rsum


def _table(study: Study, planned: Sequence[Planned], done: Mapping[str, Trial]) -> EdgeTable:
    """What is there so far."""
    settings, trials = planned[0].settings, [(one.variant, done[one.key]) for one in planned if one.key in done]
    cells = []
    for variant, _ in VARIANTS:
        mine = [found for name, found in trials if name == variant]
        cells += [_cell(variant, kind, share, mine) for kind in KINDS for share in SHARES if mine]
    origin = study.origin(settings, [point.result for _, found in trials for point in found.points])
    return EdgeTable(origin=origin, graphs=settings.model.graphs, cells=cells)


def _cell(variant: str, kind: Kind, share: float, trials: Sequence[Trial]) -> Cell:
    points = [next(p for p in t.points if (p.kind, p.share) == (kind, share)) for t in trials]
    metrics = [point.result.metrics() for point in points]
    lost = [p.result.rsum - t.points[0].result.rsum for p, t in zip(points, trials, strict=True)]
    return Cell(
        variant=variant,
        kind=kind,
        share=share,
        seeds=[found.seed for found in trials],
        rsums=[point.result.rsum for point in points],
        rsum=Spread.of(point.result.rsum for point in points),
        lost=Spread.of(lost),
        relations=Spread.of(point.relations for point in points),
        pairs=Spread.of(point.pairs for point in points),
        metrics={name: Spread.of(one[name] for one in metrics) for name in metrics[0]},
    )


def _write(table: EdgeTable, out: Path) -> None:
    write_text(table.model_dump_json(indent=1) + "\n", out / "edges.json")
    images = "![rSum against the share of edges hit](edges.svg)\n\n![Its change against 0 %](edges-change.svg)"
    parts = [table.origin.markdown(), images, *(part.markdown() for part in show(table))]
    write_text("\n\n".join(parts) + "\n", out / "edges.md")
    level: dict[str, dict[float, list[float]]] = {}
    change: dict[str, dict[float, list[float]]] = {}
    for cell in table.cells:
        name = f"{cell.variant}, {cell.kind}"
        level.setdefault(name, {})[cell.share] = cell.rsums
        whole = level[name][0.0]
        change.setdefault(name, {})[cell.share] = [a - b for a, b in zip(cell.rsums, whole, strict=True)]
    for file, lines, label in (("edges", level, "rSum"), ("edges-change", change, "change of rSum against 0 %")):
        figure = figures.robustness_plot(lines, label)
        for ending in ("svg", "png"):
            figures.save(figure, out / f"{file}.{ending}")

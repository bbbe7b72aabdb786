"""Test the paper's claim: a model with implicit relations loses less when explicit edges are missing or wrong.

The model is trained on the true edges, with and without stage 3 on regions. It is then evaluated with a growing share
of its edges dropped or shuffled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel

from hire_model.ablation.perturb import KINDS, Kind, perturb_edges
from hire_model.ablation.study import RecordFile, Study, Trial, TrialRecord, run_missing_trials, train_trial
from hire_model.ablation.tables import Origin, Spread, Table
from hire_model.data.store import Split
from hire_model.errors import SettingsError
from hire_model.evaluation import plots, protocols
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import Settings
from hire_model.workflows.evaluate import load_model

log = logging.getLogger(__name__)
VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("implicit stage on", {"model.image_implicit": "true"}),
    ("implicit stage off", {"model.image_implicit": "false"}),
)

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Point(BaseModel):
    """The figures of a model with a share (0-1) of its edges changed. relations, pairs: the shares really changed."""

    kind: Kind
    share: float
    relations: float
    pairs: float
    result: Result


class EdgeRecord(TrialRecord):
    """All points of a model. Share 0 has a point for each kind, with the same figures."""

    dev_rsum: float
    points: list[Point]


class Cell(BaseModel):
    """The figures of a variant at a share, over its seeds.

    Attributes:
        share: requested share of changed edges, 0-1.
        rsums: rSum of each seed, in the order of `seeds`.
        lost: rSum minus that at share 0, per seed.
        relations: share of relations really changed, 0-1; pairs: the same for pairs of boxes.
        metrics: all metrics by name.
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
    """The table, as stored in edges.json."""

    origin: Origin
    graphs: str
    cells: list[Cell]


def run(study: Study) -> EdgeTable:
    """Run the trials that are not yet in edges.jsonl; write edges.md, edges.json and the plots after each one.

    Trained models are stored in models/. Raise HireError for wrong settings, such as a model without graphs, before
    anything is trained; TrainingStopped after Ctrl-C: the same call continues.
    """
    trials = study.plan(VARIANTS)
    if trials[0].settings.model.graphs == "none":
        raise SettingsError("model.graphs=none: there are no edges to drop. Set model.graphs=both.")
    split = study.open_split(trials[0].settings)

    def run_trial(trial: Trial) -> EdgeRecord:
        model, dev_rsum = _load_or_train(trial, study)
        points = evaluate_points(model, split, trial.settings)
        return EdgeRecord(key=trial.key, variant=trial.variant, seed=trial.seed, dev_rsum=dev_rsum, points=points)

    def write(records: Mapping[str, EdgeRecord]) -> EdgeTable:
        table = _build_table(study, trials, records)
        _write_files(table, study.out)
        return table

    return write(run_missing_trials(trials, RecordFile(study.out / "edges.jsonl", EdgeRecord), run_trial, write))


def evaluate_points(model: Hire, split: Split, settings: Settings) -> list[Point]:
    """Evaluate `model` on `split` for each kind and share. train.seed determines which edges are changed."""
    points: list[Point] = []
    with torch.inference_mode():
        bank = build_caption_bank(model, split.texts)
        for kind in KINDS:
            for share in SHARES:
                if share == 0 and points:
                    points.append(points[0].model_copy(update={"kind": kind}))
                    continue
                log.info("%.0f %% of the edges %s", 100 * share, kind)
                with perturb_edges(model, kind, share, settings.train.seed) as tally:
                    matrix = compute_similarity(model, split, bank, settings.evaluate.budget_mb << 20)
                result = protocols.evaluate_matrix(matrix, split.owner, settings.evaluate.protocol, bootstrap=0)
                result = result.model_copy(update={"facts": collect_facts()})
                relations, pairs = tally.shares
                points.append(Point(kind=kind, share=share, relations=relations, pairs=pairs, result=result))
    return points


def _load_or_train(trial: Trial, study: Study) -> tuple[Hire, float]:
    """Return the trial's model and its dev rSum. Load the model if an earlier call trained it, else train it."""
    folder = study.out / "models" / trial.key
    if (folder / artifact.CONFIG).is_file():
        dev_rsum = artifact.read_config(folder)["facts"]["dev_rsum"]
        return load_model(folder, trial.settings), dev_rsum
    unfinished = study.out / "unfinished" / trial.key
    model, fitted = train_trial(trial, study.dataset, unfinished)
    dev_rsum = fitted.best_metrics["rsum"]
    artifact.save(model, folder, {"variant": trial.variant, "seed": trial.seed, "dev_rsum": dev_rsum} | collect_facts())
    shutil.rmtree(unfinished)
    return model, dev_rsum


def _build_table(study: Study, trials: Sequence[Trial], records: Mapping[str, EdgeRecord]) -> EdgeTable:
    """Build the table of the trials that are done."""
    settings = trials[0].settings
    done = [(trial.variant, records[trial.key]) for trial in trials if trial.key in records]
    cells = []
    for variant, _ in VARIANTS:
        selected = [record for name, record in done if name == variant]
        cells += [_build_cell(variant, kind, share, selected) for kind in KINDS for share in SHARES if selected]
    origin = study.describe_origin(settings, [point.result for _, record in done for point in record.points])
    return EdgeTable(origin=origin, graphs=settings.model.graphs, cells=cells)


def _build_cell(variant: str, kind: Kind, share: float, records: Sequence[EdgeRecord]) -> Cell:
    points = [next(p for p in record.points if (p.kind, p.share) == (kind, share)) for record in records]
    metrics = [point.result.metrics() for point in points]
    lost = [p.result.rsum - r.points[0].result.rsum for p, r in zip(points, records, strict=True)]
    return Cell(
        variant=variant,
        kind=kind,
        share=share,
        seeds=[record.seed for record in records],
        rsums=[point.result.rsum for point in points],
        rsum=Spread.of(point.result.rsum for point in points),
        lost=Spread.of(lost),
        relations=Spread.of(point.relations for point in points),
        pairs=Spread.of(point.pairs for point in points),
        metrics={name: Spread.of(values[name] for values in metrics) for name in metrics[0]},
    )


def make_tables(table: EdgeTable) -> list[Table]:
    """Make the tables to print and write: rSum, its change, and the share of edges really changed."""
    cells = {(cell.variant, cell.kind, cell.share): cell for cell in table.cells}
    columns = [(variant, kind) for variant, _ in VARIANTS for kind in KINDS if (variant, kind, 0.0) in cells]
    headings = ["edges changed", *(", ".join(column) for column in columns)]

    def make_rows(shares: Sequence[float], form: Callable[[Cell], str]) -> list[list[str]]:
        return [[f"{100 * s:.0f} %", *(form(cells[(*column, s)]) for column in columns)] for s in shares]

    note = f"model.graphs={table.graphs}; edges are changed in the evaluation only, after training on the true edges."
    rsums = make_rows(SHARES, lambda cell: cell.rsum.text())
    losses = make_rows(SHARES[1:], lambda cell: cell.lost.text(sign=True))
    changed = make_rows(SHARES[1:], lambda c: f"{100 * c.relations.mean:.0f} / {100 * c.pairs.mean:.0f}")
    return [
        Table("rSum by the share of explicit edges that are dropped or shuffled", headings, rsums, note),
        Table("Change of rSum from 0 %, per seed", headings, losses),
        Table("Edges really changed, in %: relations / pairs of boxes", headings, changed),
    ]


def _write_files(table: EdgeTable, out: Path) -> None:
    write_text(table.model_dump_json(indent=1) + "\n", out / "edges.json")
    images = "![rSum by the share of edges changed](edges.svg)\n\n![Its change from 0 %](edges-change.svg)"
    parts = [table.origin.markdown(), images, *(part.markdown() for part in make_tables(table))]
    write_text("\n\n".join(parts) + "\n", out / "edges.md")
    rsums: dict[str, dict[float, list[float]]] = {}
    changes: dict[str, dict[float, list[float]]] = {}
    for cell in table.cells:
        name = f"{cell.variant}, {cell.kind}"
        rsums.setdefault(name, {})[cell.share] = cell.rsums
        at_zero = rsums[name][0.0]
        changes.setdefault(name, {})[cell.share] = [a - b for a, b in zip(cell.rsums, at_zero, strict=True)]
    for file, lines, label in (("edges", rsums, "rSum"), ("edges-change", changes, "change of rSum from 0 %")):
        figure = plots.plot_robustness(lines, label)
        for ending in ("svg", "png"):
            plots.save_plot(figure, out / f"{file}.{ending}")

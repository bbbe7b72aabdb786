"""`hire train` and `hire evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.contrasts import ContrastFiles, print_contrasts
from hire_model.cli.hints import print_next
from hire_model.cli.judgements import JudgementFiles, print_judgements
from hire_model.cli.options import (
    Data,
    EvaluationData,
    EvaluationSplit,
    HubCorrection,
    JsonFile,
    Limit,
    Protocol,
    Ray,
    Recipe,
    ReportFile,
    Resume,
    Set,
    collect_overrides,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hire_model.evaluation.result import EccvResult, Result
    from hire_model.workflows.evaluate import EvaluationOutcome
    from hire_model.workflows.train import TrainOutcome

_RECALLS = ("r1", "r5", "r10")


def train(
    recipe: Recipe = "synthetic",
    data: Data = "",
    epochs: Annotated[
        int, typer.Option(min=0, help="Same as --set train.epochs=N; 0 uses the value of the recipe.")
    ] = 0,
    set_: Set = None,
    resume: Resume = False,
) -> None:
    """Train and register a model; evaluate it on the split data.test, or on the dev split if data.test is not set."""
    from hire_model.settings import resolve

    resolved = resolve(recipe, collect_overrides(set_, data__path=data, train__epochs=epochs))
    from hire_model.workflows import train as workflow  # imports torch, so import it after the settings are checked

    print_training(workflow.train(resolved, name=Path(recipe).stem, resume=resume))


def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Registry address or model folder; repeat for an ensemble. Default: models:/hire@challenger."
        ),
    ] = None,
    data: EvaluationData = "",
    split: EvaluationSplit = "test",
    protocol: Protocol = "",
    limit: Limit = 0,
    json: JsonFile = None,
    report: ReportFile = None,
    contrasts: ContrastFiles = None,
    judgements: JudgementFiles = None,
    hub_correction: HubCorrection = False,
    eccv: Annotated[
        bool, typer.Option("--eccv", help="On COCO's 5,000 test images: add ECCV Caption and CxC.")
    ] = False,
    ray: Ray = "",
    set_: Set = None,
) -> None:
    """Evaluate a model, or an ensemble of models, on a split."""
    from hire_model.files import check_writable
    from hire_model.settings import resolve

    overrides = collect_overrides(set_, data__path=data, evaluate__protocol=protocol, evaluate__ray=ray)
    settings = resolve(None, overrides).settings
    for path in filter(None, (json, report)):
        check_writable(path)
    from hire_model.workflows import evaluate as workflow

    models = model or [f"models:/{settings.tracking.model_name}@challenger"]
    print_evaluation(
        workflow.evaluate(
            models, settings, split, json, report, limit, typer.echo,
            contrasts=contrasts or (), judgements=judgements or (), hub_correction=hub_correction, eccv=eccv,
        )
    )  # fmt: skip


def print_training(outcome: TrainOutcome | None) -> None:
    """Print the results of a training and the next commands. Only the first process has an `outcome`."""
    from rich.console import Console

    if outcome is None:
        return
    from hire_model.training.run_folder import LATEST, find_run_folder

    console, facts = Console(soft_wrap=True, highlight=False, markup=False), outcome.result.facts
    name = f"version {outcome.version}" if outcome.version else str(outcome.model)
    console.print(
        f"Evaluated {name} on {facts['data']}: digest {facts['data digest'][:12]}, split {outcome.split}, "
        f"{outcome.result.images:,} images."
    )
    console.print(make_recall_table(outcome.result, outcome.split))
    console.print(f"Best epoch {outcome.best_epoch + 1} of {outcome.epochs} by rSum on the dev split.\n")
    folder = outcome.report.parent
    link = folder.with_name(LATEST)
    paths = {"report": outcome.report, "figures": outcome.figures, "model": outcome.model}
    _print_paths(console, {**paths, "link": link if link.is_symlink() and find_run_folder(link) == folder else None})
    if outcome.registered:
        console.print(f"  registered  {outcome.registered}")
    address, data = str(outcome.registered or outcome.model), str(outcome.data)
    split = ["--split", outcome.split, *(["--limit", str(outcome.limit)] if outcome.limit else [])]
    commands = [["hire", "evaluate", "--model", address, "--data", data, *split]]
    if outcome.registered:
        commands.append(["hire", "gate", "--data", data, *split])
    if outcome.tracking_uri:
        if outcome.tracking_uri.startswith(("http://", "https://")):
            server = outcome.tracking_uri.rstrip("/")
        else:
            commands.append(["mlflow", "ui", "--backend-store-uri", outcome.tracking_uri])
            server = "http://127.0.0.1:5000"
        # Without the parameter, MLflow opens its page for language models.
        runs = f"{server}/#/experiments/{outcome.experiment}/runs?workflowType=machine_learning"
    print_next(*commands)
    if outcome.tracking_uri:
        console.print(f"The training in MLflow: {runs}")


def print_evaluation(outcome: EvaluationOutcome) -> None:
    """Print the results of an evaluation and the files that it wrote."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(make_recall_table(outcome.result, outcome.split))
    if outcome.result.eccv:
        console.print(_make_eccv_table(outcome.result.eccv))
    if outcome.result.contrasts:
        print_contrasts(console, outcome.result.contrasts)
    if outcome.result.judgements:
        print_judgements(console, outcome.result.judgements)
    _print_paths(console, {"report": outcome.report, "figures": outcome.figures})


def make_recall_table(result: Result, split: str) -> Table:
    """Return the results of one protocol as a table with one row per direction."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{split}, protocol {result.title}: {result.images} images, {result.captions} captions"
    table = Table(title=title, box=SIMPLE, caption=_describe_rsum(result))
    for heading in ("", "R@1", "R@5", "R@10", "median", "mean rank"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, direction in (("image to text", result.i2t), ("text to image", result.t2i)):
        recall = [f"{getattr(direction, key):.1f}" for key in _RECALLS]
        table.add_row(name, *recall, f"{direction.median:g}", f"{direction.mean:.1f}")
        if direction.intervals:
            intervals = ["{:.1f}-{:.1f}".format(*direction.intervals[key]) for key in _RECALLS]
            table.add_row("", *intervals, style="dim")
    return table


def _make_eccv_table(result: EccvResult) -> Table:
    """Return ECCV Caption and CxC as a table with one row per direction."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title="ECCV Caption and CxC, in %", box=SIMPLE)
    headings = {"eccv_map_at_r": "mAP@R", "eccv_rprecision": "R-P", "eccv_r1": "R@1"}
    headings |= {f"cxc_r{k}": f"CxC R@{k}" for k in (1, 5, 10)}
    for heading in ("", *headings.values()):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, values in (("image to text", result.i2t), ("text to image", result.t2i)):
        table.add_row(name, *(f"{values[key]:.1f}" for key in headings))
    return table


def _describe_rsum(result: Result) -> str:
    if result.rsum_interval is None:
        return f"rSum {result.rsum:.1f} of 600"
    low, high = result.rsum_interval
    return f"rSum {result.rsum:.1f} of 600 ({low:.1f}-{high:.1f}: 95 % of {result.bootstrap} resamplings)"


def _print_paths(console: Console, paths: dict[str, Path | None]) -> None:
    for name, path in paths.items():
        if path is not None:
            console.print(f"  {name:<11} {path}")

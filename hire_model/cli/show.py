"""What the commands print in the end: the figures, where things lie, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hire_model.evaluation.result import Result
    from hire_model.workflows.evaluate import EvaluationOutcome
    from hire_model.workflows.train import TrainOutcome


_KEYS = ("r1", "r5", "r10")


def recalls(result: Result, split: str) -> Table:
    """The figures of one protocol, a row per direction."""
    title = f"{split}, protocol {result.title}: {result.images} images, {result.captions} captions"
    table = Table(title=title, box=SIMPLE, caption=_summary(result))
    for heading in ("", "R@1", "R@5", "R@10", "median", "mean rank"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, direction in (("image to text", result.i2t), ("text to image", result.t2i)):
        recall = [f"{getattr(direction, key):.1f}" for key in _KEYS]
        table.add_row(name, *recall, f"{direction.median:g}", f"{direction.mean:.1f}")
        if direction.intervals:
            spread = ["{:.1f}-{:.1f}".format(*direction.intervals[key]) for key in _KEYS]
            table.add_row("", *spread, style="dim")
    return table


def _summary(result: Result) -> str:
    if result.rsum_interval is None:
        return f"rSum {result.rsum:.1f} of 600"
    low, high = result.rsum_interval
    return f"rSum {result.rsum:.1f} of 600 ({low:.1f}-{high:.1f}: 95 % of {result.bootstrap} resamplings)"


def trained(outcome: TrainOutcome | None) -> None:
    """After a training; None in every process but the first of several."""
    if outcome is None:
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(recalls(outcome.result, outcome.split))
    console.print(f"Best epoch {outcome.best_epoch + 1} of {outcome.epochs} by rSum on the dev split.\n")
    _list(console, {"report": outcome.report, "figures": outcome.figures, "model": outcome.model})
    if outcome.registered:
        console.print(f"  registered  {outcome.registered}")
    address, data = (shlex.quote(str(name)) for name in (outcome.registered or outcome.model, outcome.data))
    console.print("\nNext:")
    limit = f" --limit {outcome.limit}" if outcome.limit else ""
    console.print(f"  hire evaluate --model {address} --data {data} --split {outcome.split}" + limit)
    if outcome.tracking_uri:
        console.print(f"  mlflow ui --backend-store-uri {shlex.quote(outcome.tracking_uri)}")


def evaluated(outcome: EvaluationOutcome) -> None:
    """After an evaluation."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(recalls(outcome.result, outcome.split))
    _list(console, {"report": outcome.report, "figures": outcome.figures})


def _list(console: Console, places: dict[str, Path | None]) -> None:
    for name, place in places.items():
        if place is not None:
            console.print(f"  {name:<11} {place}")

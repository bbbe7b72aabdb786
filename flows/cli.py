"""Commands that this package adds to `hire` (pyproject.toml, hire.commands). Prefect is imported inside them."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hire_model.cli.options import Recipe, ReportFile, Set, VersionName, collect_overrides
from hire_model.errors import HireError


class Name(StrEnum):
    """The flows that `hire flow` runs."""

    retrain = "retrain"
    validate = "validate"
    train = "train"
    evaluate = "evaluate"
    gate = "gate"
    promote = "promote"
    package = "package"


def flow(
    name: Annotated[Name, typer.Argument(help="retrain is the whole; the others are its parts.")],
    recipe: Recipe = "",
    data: Annotated[str, typer.Option(metavar="DATASET", help="Data set folder.")] = "",
    version: VersionName = "",
    set_: Set = None,
    fresh: Annotated[bool | None, typer.Option("--fresh", help="Train from the beginning in any case.")] = None,
    hours: Annotated[float | None, typer.Option(help="Stop the training after so many hours.")] = None,
) -> None:
    """Run a flow here and now, on the Prefect server if one is running, on a temporary one otherwise.

    Exit status: 0 done, 1 the version did not pass the gate, 2 failed.
    """
    module = import_module("flows.promote" if name is Name.package else f"flows.{name}")
    chosen = module.hire if name is Name.retrain else getattr(module, name)

    asked = collect_overrides(set_)
    given: dict[str, Any] = dict(recipe=recipe, data=data, version=version, overrides=asked, fresh=fresh, hours=hours)
    options = {key: "--set" if key == "overrides" else f"--{key}" for key in given}
    given = {key: value for key, value in given.items() if value not in (None, "", [])}
    known = chosen.parameters.properties
    if unknown := sorted(given.keys() - known.keys()):
        takes = ", ".join(options[key] for key in known if key in options)
        raise HireError(f"hire flow {name} takes no {options[unknown[0]]}; it takes {takes}.")
    state = chosen(**given, return_state=True)
    state.result()  # raises what the flow raised
    from flows.gate import REJECTED

    if state.name == REJECTED:
        raise typer.Exit(1)


def monitor(
    journal: Annotated[Path, typer.Option(metavar="FOLDER", help="As given to 'hire serve --journal'.")],
    data: Annotated[str, typer.Option(metavar="DATASET", help="What the model has learned from.")] = "",
    model: Annotated[str, typer.Option(help="models:/hire@champion, or a model folder; the champion without it.")] = "",
    report: ReportFile = None,
    set_: Set = None,
) -> None:
    """Compare what a server was asked with what its model has learned; exit status 1 on drift."""
    from hire_model.files import check_writable, write_text
    from hire_model.settings import resolve

    settings = resolve(None, collect_overrides(set_, data__path=data)).settings
    if report:
        check_writable(report)
    from expectations.check import run_suite
    from hire_model.workflows.monitor import monitor as run_monitor

    address = model or f"models:/{settings.tracking.model_name}@champion"
    found = run_monitor(journal, address, settings, run_suite)
    typer.echo(found.drift.summary())
    for row in found.drift.rows():
        typer.echo(f"  {row['statistic']:<30} {row['verdict']:<11} {row['training data']} → {row['journal']}")
    if report:
        typer.echo(f"Report: {write_text(found.page, report)}")
    if found.drift.verdict == "drift":
        raise typer.Exit(1)

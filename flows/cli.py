"""The commands `hire flow` and `hire monitor`. pyproject.toml (hire.commands) adds them to `hire`.

Prefect takes seconds to import, so the commands import it only when they run.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hire_model.cli.options import Recipe, ReportFile, Set, VersionName, collect_overrides
from hire_model.errors import HireError


class FlowName(StrEnum):
    """The flows that `hire flow` runs."""

    retrain = "retrain"
    validate = "validate"
    train = "train"
    evaluate = "evaluate"
    gate = "gate"
    promote = "promote"
    package = "package"


def flow(
    name: Annotated[FlowName, typer.Argument(help="retrain runs all steps; the others run one step.")],
    recipe: Recipe = "",
    data: Annotated[str, typer.Option(metavar="DATASET", help="Data set folder.")] = "",
    version: VersionName = "",
    set_: Set = None,
    fresh: Annotated[bool | None, typer.Option("--fresh", help="Train from the beginning; do not resume.")] = None,
    hours: Annotated[float | None, typer.Option(help="Stop the training after this many hours.")] = None,
) -> None:
    """Run a flow in this process, with the running Prefect server or a temporary one.

    Exit status: 0 success, 1 the gate rejected the version, 2 failure.
    """
    module = import_module("flows.promote" if name is FlowName.package else f"flows.{name}")
    chosen = module.hire if name is FlowName.retrain else getattr(module, name)

    overrides = collect_overrides(set_)
    values: dict[str, Any] = {
        "recipe": recipe,
        "data": data,
        "version": version,
        "overrides": overrides,
        "fresh": fresh,
        "hours": hours,
    }
    options = {key: "--set" if key == "overrides" else f"--{key}" for key in values}
    arguments = {key: value for key, value in values.items() if value not in (None, "", [])}
    accepted = chosen.parameters.properties
    if unknown := sorted(arguments.keys() - accepted.keys()):
        valid = ", ".join(options[key] for key in accepted if key in options)
        raise HireError(f"hire flow {name} has no option {options[unknown[0]]}. Use only: {valid}.")
    state = chosen(**arguments, return_state=True)
    state.result()  # raises the error of a failed flow
    from flows.gate import REJECTED

    if state.name == REJECTED:
        raise typer.Exit(1)


def monitor(
    journal: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of 'hire serve --journal'.")],
    data: Annotated[
        str, typer.Option(metavar="DATASET", help="Data set folder. Default: the training data of the version.")
    ] = "",
    version: VersionName = "champion",
    model: Annotated[
        str, typer.Option(metavar="FOLDER", help="Address or folder of a model, in place of --version.")
    ] = "",
    report: ReportFile = None,
    set_: Set = None,
) -> None:
    """Compare a server's requests with the data that its model was trained on; exit status 1 on drift."""
    from hire_model.files import check_writable, write_text
    from hire_model.settings import resolve

    settings = resolve(None, collect_overrides(set_, data__path=data)).settings
    if report:
        check_writable(report)
    from expectations.check import run_suite
    from hire_model.tracking import versions
    from hire_model.workflows.monitor import monitor as run_monitor

    uri = model or versions.find(settings.tracking, version).uri
    result = run_monitor(journal, uri, settings, run_suite)
    typer.echo(result.summary())
    for row in result.drift.rows():
        typer.echo(f"  {row['statistic']:<30} {row['verdict']:<11} {row['training data']} → {row['journal']}")
    if report:
        typer.echo(f"Report: {write_text(result.page, report)}")
    if result.drift.verdict == "drift":
        raise typer.Exit(1)

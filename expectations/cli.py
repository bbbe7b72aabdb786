"""Commands `hire data validate` and `hire data profile`; hire_model/cli/main.py loads them by entry point."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import DatasetFolder, ReportFile

if TYPE_CHECKING:
    from rich.table import Table

    from expectations.results import ExpectationResult, Validation
    from hire_model.tracking.run import TrackedRun


def validate(
    dataset: DatasetFolder,
    report: ReportFile = None,
    suites: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of suites; each replaces the built-in suite of the same name."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print a table of all expectations.")] = False,
) -> None:
    """Check files, captions, images, regions, relations and splits against suites; exit status 1 on an error."""
    from rich.console import Console

    from expectations import page
    from expectations.check import validate
    from hire_model.files import check_writable
    from hire_model.settings import resolve
    from hire_model.tracking.connection import inside_mlflow_run
    from hire_model.tracking.run import start_run

    if report is not None:
        check_writable(report)
    tracking = resolve(None).settings.tracking
    tracking = tracking.model_copy(update={"enabled": tracking.enabled and inside_mlflow_run()})
    with start_run(tracking, "validate") as run:
        validation = validate(dataset, suites=suites)
        _log_validation(run, validation, suites)
        console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        if verbose:
            console.print(_make_table(validation.results))
        console.print(validation.summary())
        if report is not None:
            console.print(f"Report: {page.write(validation, report)}")
        if not validation.ok:
            raise typer.Exit(1)


def profile(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the suites; must not contain any yet.")],
) -> None:
    """Propose suites from a good data set: the built-in suites plus the value ranges of this data set."""
    from expectations.profile import propose_suites

    for description in propose_suites(dataset, out):
        typer.echo(description)
    typer.echo(f"Written to {out}. Review the suites, loosen what is too strict, then run:")
    typer.echo(f"       hire data validate DATASET --suites {out}")


def _log_validation(run: TrackedRun, validation: Validation, suites: Path | None) -> None:
    """Log parameters, counts, data set and page to the run of `mlflow run -e validate`."""
    from expectations import page

    if not run.enabled:
        return
    run.log_params({"data.path": str(validation.folder), "suites": str(suites or "built-in")})
    run.log_dataset(validation.folder, validation.name, validation.digest, "validation")
    counts = {"expectations": len(validation.results), "errors": len(validation.failed("error"))}
    counts |= {"warnings": len(validation.failed("warning"))}
    run.log_metrics({f"validation/{name}": count for name, count in counts.items()})
    with tempfile.TemporaryDirectory() as folder:
        run.log_artifact(page.write(validation, Path(folder, "validation.html")), "validation")


def _make_table(results: list[ExpectationResult]) -> Table:
    """Return a table with one row per expectation, in the order of the suites."""
    from rich.table import Table

    table = Table("table", "expectation", "result")
    table.add_column("rows", justify="right")
    for result in results:
        rows = f"{result.unexpected:,}" if result.unexpected else ""
        table.add_row(result.table, result.expectation, result.status, rows)
    return table

"""`hire data validate` and `hire data profile`; hire_model/cli/main.py finds them by their entry points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import DatasetFolder

if TYPE_CHECKING:
    from rich.table import Table

    from expectations.check import Check


def validate(
    dataset: DatasetFolder,
    docs: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write Great Expectations' data docs.")] = None,
    suites: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Suites to take in place of ours of the same name.")
    ] = None,
) -> None:
    """Judge files, captions, images, regions, relations and splits by their suites; exit status 1 on an error."""
    from rich.console import Console

    from expectations.check import validate

    validation = validate(dataset, suites=suites, docs=docs)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(_checks(validation.checks))
    console.print(validation.summary())
    if docs is not None:
        console.print(f"Data docs: {docs / 'index.html'}")
    if not validation.ok:
        raise typer.Exit(1)


def profile(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the suites; must not have any yet.")],
) -> None:
    """Propose suites from a data set that is known to be good: ours, with the ranges that its rows keep to."""
    from expectations.profile import profile

    for learned in profile(dataset, out):
        typer.echo(learned)
    typer.echo(f"Written to {out}. Read them, change what was chance, and use them:")
    typer.echo(f"       hire data validate DATASET --suites {out}")


def _checks(checks: list[Check]) -> Table:
    """All expectations, table by table, as they were judged."""
    from rich.table import Table

    table = Table("table", "expectation", "result")
    table.add_column("rows", justify="right")
    for check in checks:
        rows = f"{check.unexpected:,}" if check.unexpected else ""
        table.add_row(check.table, check.expectation, "ok" if check.ok else check.severity, rows)
    return table

"""Commands `hire data validate` and `hire data profile`; hire_model/cli/main.py loads them by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import DatasetFolder

if TYPE_CHECKING:
    from rich.table import Table

    from expectations.results import ExpectationResult


def validate(
    dataset: DatasetFolder,
    docs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write Great Expectations data docs to this folder.")
    ] = None,
    suites: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of suites; each replaces the built-in suite of the same name."),
    ] = None,
) -> None:
    """Check files, captions, images, regions, relations and splits against suites; exit status 1 on an error."""
    from rich.console import Console

    from expectations.check import validate

    validation = validate(dataset, suites=suites, docs=docs)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(_make_table(validation.results))
    console.print(validation.summary())
    if docs is not None:
        console.print(f"Data docs: {docs / 'index.html'}")
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


def _make_table(results: list[ExpectationResult]) -> Table:
    """Return a table with one row per expectation, in the order of the suites."""
    from rich.table import Table

    table = Table("table", "expectation", "result")
    table.add_column("rows", justify="right")
    for result in results:
        rows = f"{result.unexpected:,}" if result.unexpected else ""
        table.add_row(result.table, result.expectation, "ok" if result.ok else result.severity, rows)
    return table

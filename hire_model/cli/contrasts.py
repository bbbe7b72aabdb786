"""`hire data contrasts`, and the option --contrasts of `hire evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import DatasetFolder, Limit

if TYPE_CHECKING:
    from rich.console import Console

    from hire_model.evaluation.contrast_result import ContrastResult

ContrastFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--contrasts",
        metavar="FILE",
        help="Contrast set: JSON lines of 'hire data contrasts', or a file of SugarCrepe, SugarCrepe++, ARO, VALSE or "
        "Winoground; repeatable.",
    ),
]
_NAMED = 5  # names that are printed


def contrasts(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write, JSON lines.")],
    split: Annotated[str, typer.Option(help="Split whose captions are changed.")] = "dev",
    limit: Limit = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Make a contrast set for 'hire evaluate --contrasts' from captions, by rules that change their meaning."""
    from hire_model.data.store import Dataset
    from hire_model.errors import HireError
    from hire_model.evaluation.contrast_sets import RULES, make_contrasts, write_contrasts
    from hire_model.files import check_writable

    check_writable(out)
    if out.expanduser().exists() and not overwrite:
        raise HireError(f"{out}: exists already. Choose another --out, or replace it with --overwrite.")
    if not split:
        raise HireError("split: the name is empty; 'hire data show' lists the splits of a data set.")
    chosen = Dataset.open(dataset).split(split, limit)
    items = make_contrasts(chosen)
    if not items:
        raise HireError(f"{dataset}: no rule applies to a caption of split '{split}'. The rules are made for English.")
    write_contrasts(items, out)
    for kind in RULES:
        typer.echo(f"  {kind:<10} {sum(item.kind == kind for item in items):>7,} items")
    typer.echo(f"Written to {out}, from {len(chosen.captions):,} captions of split '{split}'.")


def print_contrasts(console: Console, result: ContrastResult) -> None:
    """Print a table with three rows per kind, and the images that are missing."""
    from rich.box import SIMPLE
    from rich.table import Table

    console.print()
    table = Table(title="contrast sets: all true texts above all false texts, in % of items", box=SIMPLE)
    for heading in ("kind", "items", "images", "accuracy", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "kind" else "right", no_wrap=True)
    for kind, row in result.kinds.items():
        rows = {kind: row.model, "  blind": row.blind, "  no relations": row.no_relations}
        for name, figure in rows.items():
            if figure is not None:
                counts = (f"{row.items:,}", f"{row.images:,}") if figure is row.model else ("", "")
                interval = "{:.1f}-{:.1f}".format(*figure.interval) if figure.interval else ""
                table.add_row(name, *counts, f"{figure.accuracy:.1f}", interval)
    console.print(table)
    if missing := result.missing_images:
        number = f"{len(missing):,} (with {result.items_left_out:,} items, which are left out)"
        console.print(f"  Images that are not in the split: {number}: {format_names(missing)}\n")


def format_names(names: Sequence[str]) -> str:
    """Return the first names, and "..." if there are more."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")

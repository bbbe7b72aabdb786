"""The option --judgements of `hire evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.contrasts import format_names

if TYPE_CHECKING:
    from rich.console import Console

    from hire_model.evaluation.judgement_result import JudgementResult

JudgementFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--judgements",
        metavar="FILE",
        help="Human judgements: JSON lines of image, text, grades, or ExpertAnnotations.txt or "
        "CrowdFlowerAnnotations.txt of Flickr8k; repeatable.",
    ),
]


def print_judgements(console: Console, result: JudgementResult) -> None:
    """Print a row per file, and the pairs that were left out."""
    from rich.box import SIMPLE
    from rich.table import Table

    console.print()
    table = Table(title="human judgements: Kendall's tau of scores and grades, x 100", box=SIMPLE)
    for heading in ("file", "pairs", "grades", "images", "tau-c", "95 % interval", "tau-b"):
        table.add_column(heading, justify="left" if heading == "file" else "right", no_wrap=True)
    for name, row in result.sets.items():
        interval = "{:.1f} to {:.1f}".format(*row.interval) if row.interval else ""
        counts = (f"{row.pairs:,}", f"{row.grades:,}", f"{row.images:,}")
        table.add_row(name, *counts, f"{row.tau_c:.1f}", interval, f"{row.tau_b:.1f}")
    console.print(table)
    for name, row in result.sets.items():
        if row.own_captions:
            console.print(f"  {name}: {row.own_captions:,} pairs of an image and its own caption are left out.")
        if missing := row.missing_images:
            console.print(
                f"  {name}: images that are not in the split: {len(missing):,} (with {row.pairs_left_out:,} pairs, "
                f"which are left out): {format_names(missing)}"
            )
    console.print()

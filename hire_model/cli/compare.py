"""`hire compare`: two models on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import (
    EvaluationData,
    EvaluationSplit,
    JsonFile,
    Limit,
    Protocol,
    Set,
    collect_overrides,
)

if TYPE_CHECKING:
    from hire_model.workflows.compare import ModelComparison

_LABELS = {"i2t": "image to text", "t2i": "text to image"}


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Registry address or model folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Registry address or model folder.")],
    data: EvaluationData = "",
    split: EvaluationSplit = "test",
    protocol: Protocol = "",
    limit: Limit = 0,
    json: JsonFile = None,
    set_: Set = None,
) -> None:
    """Compare two models on a split: is the difference larger than chance?"""
    from hire_model.files import check_writable
    from hire_model.settings import resolve

    settings = resolve(None, collect_overrides(set_, data__path=data, evaluate__protocol=protocol)).settings
    if json:
        check_writable(json)
    from hire_model.workflows import compare as workflow

    print_comparison(workflow.compare(first, second, settings, split, json, limit, typer.echo), json)


def print_comparison(comparison: ModelComparison, figures: Path | None = None) -> None:
    """Print both models' figures, the differences with their intervals, and the conclusion."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{comparison.split}, protocol {comparison.protocol}: {comparison.images} images, "
        f"{comparison.captions} captions"
    )
    table = Table(title=title, box=SIMPLE)
    for heading in ("", "A", "B", "A - B", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, figure in comparison.figures.items():
        low, high = figure.interval
        values = (f"{figure.first:.1f}", f"{figure.second:.1f}", f"{figure.difference:+.1f}")
        table.add_row(_label(name), *values, f"{low:+.1f} to {high:+.1f}", end_section=name.endswith("r10"))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"A: {comparison.first}\nB: {comparison.second}\n")
    console.print(table)
    console.print(comparison.conclude())
    if figures:
        console.print(f"\n  figures     {figures}")


def _label(name: str) -> str:
    """Return 'image to text R@1' for 'i2t_r1'."""
    direction, _, recall = name.partition("_r")
    return f"{_LABELS[direction]} R@{recall}" if recall else "rSum"

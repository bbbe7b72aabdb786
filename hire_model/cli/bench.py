"""`hire bench`: speed of this machine, as ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hire_model.cli.options import OR_ADDRESS, Recipe, Set, collect_overrides


def bench(
    recipe: Recipe = "synthetic",
    data: Annotated[
        str,
        typer.Option(metavar="DATASET", help=f"Data set folder{OR_ADDRESS}. Default: scenes generated for this run."),
    ] = "",
    short: Annotated[bool, typer.Option("--short", help="Fewer items and runs: under three minutes.")] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figures to this JSON file, with a plot beside it.")
    ] = None,
    serving: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON of benchmarks/serving_load.py, for serving.share_of_ceiling."),
    ] = None,
    set_: Set = None,
) -> None:
    """Measure scoring, re-ranking, training and search on this machine, compared with plain versions."""
    import json as json_module

    from rich.console import Console

    from hire_model.files import check_writable, write_text
    from hire_model.settings import resolve

    settings = resolve(recipe, collect_overrides(set_)).settings
    if json:
        check_writable(json)
    from hire_model.bench import report, suite

    figures = suite.run_suite(
        settings, recipe, data, short, serving, lambda line: typer.echo(f"measure: {line}", err=True)
    )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(report.make_table(figures))
    if json:
        write_text(json_module.dumps(figures, indent=1) + "\n", json)
        report.save_plots(figures, json.with_suffix(".png"))
        console.print(f"  figures     {json}, {json.with_suffix('.png')}")

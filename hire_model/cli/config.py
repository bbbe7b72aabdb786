"""`hire config`: show the resolved settings and their origins."""

from __future__ import annotations

from typing import Annotated

import typer

from hire_model.cli.options import Recipe, Set, collect_overrides

app = typer.Typer(help="Show the settings.", no_args_is_help=True)


@app.command()
def show(
    recipe: Recipe = "",
    set_: Set = None,
    changed: Annotated[bool, typer.Option("--changed", help="Show only keys that were set; omit defaults.")] = False,
) -> None:
    """Print each key, its value and its origin: default, preset, recipe, environment or command line."""
    from rich.console import Console
    from rich.table import Table

    from hire_model.settings import flatten, resolve

    resolved = resolve(recipe or None, collect_overrides(set_))
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for key, value in flatten(resolved.settings.model_dump(mode="json")).items():
        origin = resolved.origins[key]
        if not changed or origin != "default":
            table.add_row(key, str(value), f"[dim]{origin}[/dim]" if origin == "default" else origin)
    console = Console(soft_wrap=True)
    console.print(table)
    for key, why in resolved.settings.model.inactive_stages.items():
        console.print(f"{key} is on, but has no effect, because {why}.", highlight=False)

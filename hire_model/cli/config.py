"""`hire config`: the settings as they come out, and where each came from."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look at the settings.", no_args_is_help=True)


@app.command()
def show(
    recipe: Annotated[str, typer.Option(help="A recipe by name, or the path of a TOML file.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As with 'hire train'.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not a default.")] = False,
) -> None:
    """Print each key, its value, and the layer that set it: default, preset, recipe, environment or command line."""
    from rich.console import Console
    from rich.table import Table

    from hire_model.cli.main import overrides  # it imports this module
    from hire_model.settings import flatten, resolve

    resolved = resolve(recipe or None, overrides(set_))
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for key, value in flatten(resolved.settings.model_dump(mode="json")).items():
        origin = resolved.origins[key]
        if not changed or origin != "default":
            table.add_row(key, str(value), f"[dim]{origin}[/dim]" if origin == "default" else origin)
    console = Console(soft_wrap=True)
    console.print(table)
    for key, why in resolved.settings.model.inactive_stages.items():
        console.print(f"{key} is on and does nothing, as {why}.", highlight=False)

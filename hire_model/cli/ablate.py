"""`hire ablate`: measure the effect of each stage, and of missing and wrong edges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import Data, Recipe, Set, collect_overrides
from hire_model.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hire_model.ablation.study import Study
    from hire_model.ablation.tables import Table
    from hire_model.training.damage import Damage

app = typer.Typer(help="Train variants of a recipe and compare them.", no_args_is_help=True)

Seeds = Annotated[str, typer.Option(help="Seeds, separated by commas. Each variant is trained once per seed.")]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of the results. Variants with results there are skipped.")
]


@app.command()
def stages(
    recipe: Recipe = "synthetic",
    data: Data = "",
    set_: Set = None,
    seeds: Seeds = "0,1,2",
    out: Out = Path("runs/ablation"),
    only: Annotated[str, typer.Option(help="Names of variants, separated by commas. Default: all.")] = "",
) -> None:
    """Train with no stage, each stage alone, all stages, and all but one. Run it again to continue."""
    study = _open_study(recipe, data, set_, seeds, out)
    from hire_model.ablation import stages as ablation

    table = ablation.run(study, _split_names(only))
    _print_tables(ablation.make_tables(table), out, ("stages.md", "stages.json"))


@app.command()
def edges(
    recipe: Recipe = "synthetic",
    data: Data = "",
    set_: Set = None,
    seeds: Seeds = "0,1,2",
    out: Out = Path("runs/ablation"),
    only: Annotated[str, typer.Option(help="Names of variants, separated by commas. Default: all.")] = "",
    damage: Annotated[str, typer.Option(help="How images are damaged, separated by commas. Default: all.")] = "",
    shares: Annotated[str, typer.Option(help="Shares of damage in %, separated by commas.")] = "50,100",
) -> None:
    """Measure recall when relations, boxes or objects are lost, with and without implicit relations."""
    study = _open_study(recipe, data, set_, seeds, out)
    from hire_model.ablation import edge_tables
    from hire_model.ablation import edges as ablation

    table = ablation.run(study, _split_names(only), _parse_damages(damage), _parse_shares(shares))
    _print_tables(edge_tables.make_tables(table), out, ("edges.md", "edges.json", "edges.svg", "edges-change.svg"))


def _parse_damages(text: str) -> Sequence[Damage]:
    """Parse 'relations dropped,boxes dropped'; all if empty. Raise SettingsError for an unknown damage."""
    from hire_model.training.damage import DAMAGES

    names = _split_names(text)
    for name in names:
        if name not in DAMAGES:
            raise SettingsError(f"--damage {name}: no such damage; there are {', '.join(DAMAGES)}.")
    return [damage for damage in DAMAGES if not names or damage in names]


def _parse_shares(text: str) -> list[float]:
    """Parse '50,100' to shares in 0-1. Raise SettingsError if it is invalid."""
    try:
        shares = sorted({float(part) / 100 for part in text.split(",")})
    except ValueError:
        shares = [-1.0]
    if not 0 <= shares[0] <= shares[-1] <= 1:
        raise SettingsError(f"--shares {text}: expected numbers from 0 to 100 separated by commas, such as 50,100.")
    return shares


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _open_study(recipe: str, data: str, set_: list[str] | None, seeds: str, out: Path) -> Study:
    from hire_model.settings import resolve

    overrides = collect_overrides(set_, data__path=data)
    settings = resolve(recipe, overrides).settings
    seed_list = _parse_seeds(seeds)
    from hire_model.ablation.study import Study  # imports torch, so import it after the settings are checked
    from hire_model.data.splits import open_dataset

    return Study(recipe, overrides, seed_list, out, open_dataset(settings.data))


def _parse_seeds(text: str) -> list[int]:
    """Parse '0,1,2' to a list without duplicates. Raise SettingsError if it is invalid."""
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise SettingsError(f"--seeds {text}: expected whole numbers separated by commas, such as 0,1,2.") from None
    if min(seeds) < 0:
        raise SettingsError(f"--seeds {text}: expected seeds of at least 0.")
    return seeds


def _print_tables(tables: Sequence[Table], out: Path, names: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        console.print(table.rich())
    for name in names:
        console.print(f"  {out / name}", soft_wrap=True)

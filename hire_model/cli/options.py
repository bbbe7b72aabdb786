"""Options that several commands share, and helpers for commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hire_model.errors import HireError

OR_ADDRESS = " or address such as s3://BUCKET/NAME"


def localize(text: str | Path) -> Path:
    """Return the path of the local copy of a folder at an address, or a local path unchanged."""
    from hire_model.storage import localize

    return Path(localize(text))


def refuse_address(text: str | Path) -> Path:
    """Return a local path. Raises HireError for an address: a command that changes a folder needs a copy of it."""
    from hire_model.storage import is_address

    if is_address(text):
        raise HireError(
            f"{text}: this command changes a folder. Make a local copy with 'hire pull ADDRESS FOLDER', change it, and "
            "publish it again with 'hire push FOLDER ADDRESS'."
        )
    return Path(text)


Recipe = Annotated[str, typer.Option(help="Name of a recipe (see hire_model/recipes), or path of a TOML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a settings key; repeatable. 'hire config show' lists the keys."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="DATASET",
        help=f"Data set folder{OR_ADDRESS}. Default: relational scenes, generated on first use.",
    ),
]
EvaluationData = Annotated[
    str,
    typer.Option(
        metavar="DATASET",
        help=f"Data set folder{OR_ADDRESS}. Default: the data that the model was trained on.",
    ),
]
DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", parser=localize, help=f"Data set folder{OR_ADDRESS}.")
]
VersionName = Annotated[str, typer.Option(help="Version number or alias: champion, challenger or previous.")]
Protocol = Annotated[str, typer.Option(help="Evaluation protocol: full, f30k-1k, coco-5k or coco-1k-5fold.")]
Limit = Annotated[int, typer.Option(min=0, help="Use only the first N images of the split; 0 uses all.")]
EvaluationSplit = Annotated[str, typer.Option(help="Split to evaluate.")]
JsonFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results to this JSON file.")]
ReportFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report to this HTML file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]
GalleryFolder = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        parser=localize,
        help=f"Gallery folder{OR_ADDRESS}, or a folder that contains one gallery.",
    ),
]
Ray = Annotated[
    str,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Do the work on a Ray cluster: auto, local, HOST:6379 or ray://HOST:10001."
    ),
]
HubCorrection = Annotated[
    bool,
    typer.Option("--hub-correction", help="Correct scores for items that match every query; see docs/evaluation.md."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# MLproject has only string parameters, no flags: it passes --resume-{resume}, where resume is "yes" or "no".
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--resume-no", "--resume-yes", help="Continue from the checkpoint in train.out.", show_default=False
    ),
]

GALLERIES = Path("galleries")
"""Default folder that contains galleries."""


def collect_overrides(items: list[str] | None, **options: str | int) -> list[str]:
    """Return KEY=VALUE for each option that is set, then the pairs of --set, which take precedence.

    One --set can hold several pairs, separated by spaces: `mlflow run -P set="train.lr=1e-3 train.seed=1"` passes them
    this way. `options`: settings keys with `__` for the dot, and their values.
    """
    pairs = [f"{key.replace('__', '.')}={value}" for key, value in options.items() if value]
    return pairs + [part for item in items or [] for part in re.split(r"\s+(?=[a-z_.]+=)", item.strip()) if part]


def make_ordered_group(*order: str) -> type[TyperGroup]:
    """Return a command group whose help lists the commands in `order`, then all other commands."""

    class OrderedGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            names = super().list_commands(ctx)
            return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    return OrderedGroup

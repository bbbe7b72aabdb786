"""The parameters that flows share, each with its description for Prefect's form, and how they become settings.

The descriptions are JSON schemas, as Prefect drops the description of a pydantic `Field` inside `Annotated`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, WithJsonSchema

from hire_model.settings import ResolvedSettings, resolve


def _describe(kind: str, description: str, example: str | list[str] = "", **more: object) -> WithJsonSchema:
    examples = {"examples": [example]} if example else {}
    return WithJsonSchema({"type": kind, "description": description, **examples, **more})


Recipe = Annotated[
    str,
    _describe(
        "string",
        "What is trained and how: a recipe by name (synthetic, flickr8k_mini, codraw, paper), or the path of a TOML "
        "file. Empty where only defaults and the settings below count.",
        "synthetic",
    ),
]
Data = Annotated[
    str,
    _describe(
        "string",
        "Folder of the data set on the worker's machine, as 'hire data import' makes it. Empty: the recipe's, or else "
        "relational scenes, which are drawn where they are not there yet.",
        "datasets/f30k",
    ),
]
Overrides = Annotated[
    Sequence[str],
    _describe(
        "array",
        "Single settings that differ from the recipe, one KEY=VALUE each. 'hire config show' lists them all.",
        ["train.epochs=5", "train.seed=1"],
        items={"type": "string"},
    ),
]
Version = Annotated[
    str,
    _describe(
        "string",
        "A version of the registered model: its number, or challenger, champion or previous.",
        "challenger",
    ),
]
Fresh = Annotated[
    bool,
    _describe(
        "boolean",
        "Train from the beginning, even where an interrupted or finished training with the same data, settings and "
        "code could be taken up.",
    ),
]
Hours = Annotated[
    float,
    Field(gt=0),
    _describe(
        "number",
        "The training is stopped after so many hours; the same run, started again, goes on from its checkpoint.",
        exclusiveMinimum=0,
    ),
]
Journal = Annotated[
    str,
    _describe(
        "string",
        "Folder on the worker's machine that the server writes its journal to ('hire serve --journal FOLDER').",
        "runs/journal",
    ),
]
Retrain = Annotated[
    bool,
    _describe(
        "boolean",
        "On drift, start the deployment hire/retrain with the recipe, data and settings given here; once for each "
        "model and data set.",
    ),
]


def resolve_settings(recipe: str = "", data: str = "", overrides: Sequence[str] = ()) -> ResolvedSettings:
    """Resolve a flow's parameters to settings; the environment counts below them, as on the command line."""
    return resolve(recipe or None, [*([f"data.path={data}"] if data else []), *overrides])

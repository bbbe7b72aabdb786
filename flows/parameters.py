"""The parameters that flows share, and how they become settings.

Prefect's form shows each parameter with its description. The descriptions are JSON schemas, because Prefect drops the
description of a pydantic `Field` inside `Annotated`.
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
        "Recipe: a name (synthetic, flickr8k_mini, codraw, paper) or the path of a TOML file. Empty: the default "
        "settings, changed only by the overrides.",
        "synthetic",
    ),
]
Data = Annotated[
    str,
    _describe(
        "string",
        "Folder of a data set on the worker's machine, as 'hire data import' writes it. Empty: the recipe's data set, "
        "or for a registered version its training data, or relational scenes, generated if they do not exist.",
        "datasets/f30k",
    ),
]
Overrides = Annotated[
    Sequence[str],
    _describe(
        "array",
        "Settings that differ from the recipe, one KEY=VALUE each. 'hire config show' lists all settings.",
        ["train.epochs=5", "train.seed=1"],
        items={"type": "string"},
    ),
]
Version = Annotated[
    str,
    _describe(
        "string",
        "Version of the registered model: a number, or the alias challenger, champion or previous.",
        "challenger",
    ),
]
Fresh = Annotated[
    bool,
    _describe(
        "boolean",
        "Train from the beginning, even if a training with the same data, settings and code was interrupted or has "
        "finished.",
    ),
]
Hours = Annotated[
    float,
    Field(gt=0),
    _describe(
        "number",
        "Stop the training after this many hours. The same run, started again, resumes from the checkpoint.",
        exclusiveMinimum=0,
    ),
]
Journal = Annotated[
    str,
    _describe(
        "string",
        "Folder on the worker's machine with the journal of a server ('hire serve --journal FOLDER').",
        "runs/journal",
    ),
]
Retrain = Annotated[
    bool,
    _describe(
        "boolean",
        "On drift, start the deployment hire/retrain with this recipe, data and overrides, once for each model and "
        "data set.",
    ),
]


def resolve_settings(recipe: str = "", data: str = "", overrides: Sequence[str] = ()) -> ResolvedSettings:
    """Return the settings of a flow: default < recipe < environment < `data` < `overrides`."""
    return resolve(recipe or None, [*([f"data.path={data}"] if data else []), *overrides])

"""The parameters that flows share, each with the words of Prefect's form, and the settings they stand for.

The words are JSON schemas, as Prefect drops the description of a pydantic `Field` inside `Annotated`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, WithJsonSchema

from hire_model.settings import Resolved, Settings, resolve


def _words(kind: str, description: str, example: str | list[str] = "", **more: object) -> WithJsonSchema:
    examples = {"examples": [example]} if example else {}
    return WithJsonSchema({"type": kind, "description": description, **examples, **more})


Recipe = Annotated[
    str,
    _words(
        "string",
        "What is trained and how: a recipe by name (synthetic, flickr8k_mini, codraw, paper), or the path of a TOML "
        "file. Empty where only defaults and the settings below count.",
        "synthetic",
    ),
]
Data = Annotated[
    str,
    _words(
        "string",
        "Folder of the data set on the worker's machine, as 'hire data import' makes it. Empty: the recipe's, or else "
        "relational scenes, which are drawn where they are not there yet.",
        "datasets/f30k",
    ),
]
Overrides = Annotated[
    Sequence[str],
    _words(
        "array",
        "Single settings that differ from the recipe, one KEY=VALUE each. 'hire config show' lists them all.",
        ["train.epochs=5", "train.seed=1"],
        items={"type": "string"},
    ),
]
Version = Annotated[
    str,
    _words(
        "string",
        "A version of the registered model: its number, or challenger, champion or previous.",
        "challenger",
    ),
]
Fresh = Annotated[
    bool,
    _words(
        "boolean",
        "Train from the beginning, even where an interrupted or finished training with the same data, settings and "
        "code could be taken up.",
    ),
]
Hours = Annotated[
    float,
    Field(gt=0),
    _words(
        "number",
        "The training is stopped after so many hours; the same run, started again, goes on from its checkpoint.",
        exclusiveMinimum=0,
    ),
]
Journal = Annotated[
    str,
    _words(
        "string",
        "Folder on the worker's machine that the server writes its journal to ('hire serve --journal FOLDER').",
        "runs/journal",
    ),
]
Retrain = Annotated[
    bool,
    _words(
        "boolean",
        "On drift, start the deployment hire/retrain with the recipe, data and settings given here; once for each "
        "model and data set.",
    ),
]


def settings_of(recipe: str = "", data: str = "", overrides: Sequence[str] = ()) -> Resolved:
    """The settings that a flow's parameters stand for; below them lies the environment, as on the command line."""
    return resolve(recipe or None, [*([f"data.path={data}"] if data else []), *overrides])


def judged_split(settings: Settings) -> tuple[str, int]:
    """Name and limit (0: none) of the split that a model is judged on: as `workflows.train` chooses it."""
    data = settings.data
    return (data.test, 0) if data.test and data.test != data.dev else (data.dev, data.dev_images)

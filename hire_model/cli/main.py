"""The command `hire`. Torch, MLflow and their like are imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import logging
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from hire_model.cli.ablate import app as ablate_app
from hire_model.cli.config import app as config_app
from hire_model.cli.data import app as data_app
from hire_model.cli.gallery import app as gallery_app
from hire_model.cli.gallery import search
from hire_model.cli.registry import app as registry_app
from hire_model.cli.registry import card, gate, promote, rollback
from hire_model.errors import HireError
from hire_model.stopping import end_on_signals

app = typer.Typer(
    help="Image-text matching over detected regions, boxes and scene graphs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(ablate_app, name="ablate")
app.add_typer(config_app, name="config")
app.add_typer(registry_app, name="registry")
for command in (gate, promote, rollback, card):
    app.command()(command)
app.add_typer(gallery_app, name="gallery")
app.command()(search)


def _add_commands_of_other_packages() -> None:
    """What expectations, flows and serving add (pyproject.toml, hire.commands): "data.validate" is a command of `data`.

    This way `hire` is one command, and hire_model still imports none of them.
    """
    groups = {"": app, "data": data_app}
    for point in sorted(entry_points(group="hire.commands"), key=lambda point: point.name):
        group, _, name = point.name.rpartition(".")
        found = point.load()
        if isinstance(found, typer.Typer):
            groups[group].add_typer(found, name=name)
        else:
            groups[group].command(name)(found)


_add_commands_of_other_packages()

Recipe = Annotated[str, typer.Option(help="A recipe by name (hire_model/recipes), or the path of a TOML file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key; repeatable. See 'config show'.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")]
Data = Annotated[str, typer.Option(metavar="DATASET", help="A data set folder; the relational scenes without one.")]

# MLproject has strings and no flags: it says --resume-{resume}, where resume is "yes" or "no".
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--resume-no", "--resume-yes", help="Go on from the checkpoint in train.out.", show_default=False
    ),
]


@app.callback()
def _main(debug: Debug = False) -> None:
    """Runs before each command; `run` looks for --debug itself, as it has to know after a failure too."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "urllib3", "git", "httpx", "fsspec", "lightning_fabric", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def train(
    recipe: Recipe = "synthetic",
    data: Data = "",
    epochs: Annotated[int, typer.Option(min=0, help="Short for --set train.epochs=N; 0 takes the recipe's.")] = 0,
    set_: Set = None,
    resume: Resume = False,
) -> None:
    """Train a model, evaluate it on the test split, and register it with MLflow."""
    from hire_model.settings import resolve

    resolved = resolve(recipe, overrides(set_, data__path=data, train__epochs=epochs))
    from hire_model.cli import show
    from hire_model.workflows import train as workflow  # imports torch: only after the settings are checked

    show.trained(workflow.train(resolved, name=Path(recipe).stem, resume=resume))


@app.command()
def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(help="models:/hire@challenger, or a model folder; twice or more averages an ensemble."),
    ] = None,
    data: Data = "",
    split: Annotated[str, typer.Option(help="The split to evaluate.")] = "test",
    protocol: Annotated[str, typer.Option(help="full, f30k-1k, coco-5k or coco-1k-5fold.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Only the split's first images; 0 takes all.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report, one HTML file.")] = None,
    set_: Set = None,
) -> None:
    """Evaluate a model, or an ensemble of several, on a split."""
    from hire_model.files import check_writable
    from hire_model.settings import resolve

    settings = resolve(None, overrides(set_, data__path=data, evaluate__protocol=protocol)).settings
    for path in filter(None, (json, report)):
        check_writable(path)
    from hire_model.cli import show
    from hire_model.workflows import evaluate as workflow

    models = model or [f"models:/{settings.tracking.model_name}@challenger"]
    show.evaluated(workflow.evaluate(models, settings, split, json, report, limit))


def overrides(items: list[str] | None, **options: str | int) -> list[str]:
    """KEY=VALUE for each option that was given, then those of --set, which therefore win.

    One --set may hold several, separated by spaces: that is how `mlflow run -P set="train.lr=1e-3 train.seed=1"` comes.
    """
    named = [f"{key.replace('__', '.')}={value}" for key, value in options.items() if value]
    return named + [part for item in items or [] for part in re.split(r"\s+(?=[a-z_.]+=)", item.strip()) if part]


def run() -> None:
    """Entry point: a user's mistake is one message on stderr and exit status 2, without a traceback unless --debug."""
    end_on_signals()
    try:
        app()
    except HireError as error:
        if "--debug" in sys.argv:
            raise
        print(f"hire: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder without permission: what no message of ours has foreseen
        if "--debug" in sys.argv:
            raise
        print(f"hire: {error}. ('hire --debug ...' shows where that arose.)", file=sys.stderr)
        sys.exit(2)

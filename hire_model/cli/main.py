"""The command `hire`. Commands import torch, MLflow and other large packages when they run, so that --help is fast."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from hire_model import __version__
from hire_model.cli import (
    ablate,
    bench,
    compare,
    config,
    contrasts,
    data,
    gallery,
    imports,
    registry,
    relations,
    score,
    storage,
    train,
)
from hire_model.cli.options import Debug, make_ordered_group
from hire_model.errors import HireError
from hire_model.stopping import install_signal_handlers

_ORDER = (
    "data", "config", "train", "evaluate", "compare", "gate", "promote", "rollback", "registry", "card", "package",
    "serve", "monitor", "gallery", "search", "score", "demo", "flow", "push", "pull", "ablate", "bench",
)  # fmt: skip

app = typer.Typer(
    cls=make_ordered_group(*_ORDER),
    help="Image-text matching over detected regions, boxes and scene graphs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data.app.add_typer(imports.app, name="import")
data.app.command()(contrasts.contrasts)
data.app.command()(relations.relations)
for group in (data, config, registry, gallery, ablate):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
for command in (
    train.train, train.evaluate, compare.compare, registry.gate, registry.promote, registry.rollback, registry.card,
    gallery.search, score.score, storage.push, storage.pull, bench.bench,
):  # fmt: skip
    app.command()(command)


def _add_commands_of_other_packages() -> None:
    """Add the commands of expectations, flows and serving (entry points `hire.commands` in pyproject.toml).

    "data.validate" is the command `validate` of the group `data`. Entry points are used because hire_model must not
    import these packages.
    """
    groups = {"": app, "data": data.app}
    for point in sorted(entry_points(group="hire.commands"), key=lambda point: point.name):
        group, _, name = point.name.rpartition(".")
        command = point.load()
        if isinstance(command, typer.Typer):
            groups[group].add_typer(command, name=name)
        else:
            groups[group].command(name)(command)


_add_commands_of_other_packages()


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"hire {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _configure_logging(debug: Debug = False, version: Version = False) -> None:
    """Configure logging before each command. `run` reads --debug from sys.argv, because it needs it after an error."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in (
        "matplotlib",
        "PIL",
        "urllib3",
        "git",
        "httpx",
        "fsspec",
        "botocore",
        "aiobotocore",
        "lightning_fabric",
        "faiss",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def run() -> None:
    """Run the command line. An error that the user can fix prints one message to stderr and exits with status 2.

    With --debug, the traceback is shown.
    """
    install_signal_handlers()
    try:
        app()
    except HireError as error:
        if "--debug" in sys.argv:
            raise
        print(f"hire: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # such as a full disk or a missing permission
        if "--debug" in sys.argv:
            raise
        print(f"hire: {error}. ('hire --debug ...' shows the traceback.)", file=sys.stderr)
        sys.exit(2)

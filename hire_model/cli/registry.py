"""`hire gate`, `promote`, `rollback`, `registry show`, `card`: evaluate, promote and describe registered versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.hints import print_next
from hire_model.cli.options import (
    GALLERIES,
    EvaluationData,
    Limit,
    Protocol,
    Recipe,
    Set,
    VersionName,
    collect_overrides,
)

if TYPE_CHECKING:
    from rich.table import Table

    from hire_model.gate import Decision
    from hire_model.settings import TrackingSettings
    from hire_model.tracking.promotion import Promotion
    from hire_model.tracking.versions import Version

app = typer.Typer(help="Show the registered model.", no_args_is_help=True)
NOT_PASSED = 1  # exit status; errors exit with 2


def _check_reason(reason: str) -> str:
    """Return `reason`. Raise BadParameter if it is the next option: `--force --help` must not promote."""
    if reason.startswith("-"):
        raise typer.BadParameter(f"'{reason}' looks like an option. Expected a reason in words.")
    return reason


def gate(
    version: VersionName = "challenger",
    data: EvaluationData = "",
    split: Annotated[
        str, typer.Option(help="Split to evaluate. Default: data.test of the recipe, else data.dev.")
    ] = "",
    protocol: Protocol = "",
    limit: Limit = 0,
    recipe: Recipe = "synthetic",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the decision to this JSON file.")] = None,
    set_: Set = None,
) -> None:
    """Evaluate a version, and check it against the rules and the champion. Exit with status 1 if it fails."""
    from hire_model.settings import resolve

    settings = resolve(recipe, collect_overrides(set_, data__path=data, evaluate__protocol=protocol)).settings
    from hire_model.files import write_text
    from hire_model.workflows import gate as workflow  # imports torch, so import it after the settings are checked

    outcome = workflow.gate(settings, version, split, limit, typer.echo)
    decision = outcome.decision
    if decision is None:
        print(outcome.summary())
        return
    if json:
        write_text(decision.model_dump_json(indent=1) + "\n", json)
    _print_decision(decision, settings.tracking)
    if not decision.passed:
        raise typer.Exit(NOT_PASSED)


def promote(
    version: VersionName = "challenger",
    force: Annotated[
        str,
        typer.Option(
            metavar="REASON", help="Promote without a passed gate. The reason is recorded.", callback=_check_reason
        ),
    ] = "",
    set_: Set = None,
) -> None:
    """Make a version that passed the gate the champion."""
    settings = _resolve_tracking(set_)
    from hire_model.tracking import promotion

    result = promotion.promote(settings, version, force)
    print(result.summary())
    _print_serving_steps(result, settings)


def rollback(
    reason: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Reason, recorded on the version that is no longer the champion.",
            callback=_check_reason,
        ),
    ] = "",
    set_: Set = None,
) -> None:
    """Make the previous champion the champion again. Servers use it after the next 'hire serve'."""
    settings = _resolve_tracking(set_)
    from hire_model.tracking import promotion

    result = promotion.roll_back(settings, reason)
    print(result.summary())
    print(f"Version {result.previous} must pass 'hire gate' again before it can be promoted.")
    _print_serving_steps(result, settings)


@app.command()
def show(set_: Set = None) -> None:
    """Print the versions, newest first, with aliases, recall and gate decision."""
    settings = _resolve_tracking(set_)
    from rich.console import Console

    from hire_model.tracking import promotion, versions

    listed = versions.list_versions(settings)
    console = Console(highlight=False)
    if not listed:
        console.print(f"'{settings.model_name}' has no versions. 'hire train' registers one.")
        return
    console.print(_make_table(settings.model_name, listed))
    for line in promotion.list_promotions(settings):
        console.print(f"  {line}", soft_wrap=True, style="dim")


def card(
    model: Annotated[str, typer.Option(help="Version number, alias, or model folder.")] = "champion",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the card to this file instead of printing it.")
    ] = None,
    ablation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Include results of 'hire ablate stages' on the same data: stages.json."),
    ] = None,
    set_: Set = None,
) -> None:
    """Print or write the model card. It includes the gate decision, if there is one."""
    settings = _resolve_tracking(set_)
    from hire_model.files import write_text
    from hire_model.model_card.card import make_card

    text = make_card(model, settings, ablation)
    if out is None:
        print(text)
    else:
        print(f"  card  {write_text(text, out)}")


def _resolve_tracking(set_: list[str] | None) -> TrackingSettings:
    from hire_model.settings import resolve

    return resolve(None, collect_overrides(set_)).settings.tracking


def _print_serving_steps(result: Promotion, settings: TrackingSettings) -> None:
    """Print the commands that make a server use the new champion: package it if it has no archive, and serve it."""
    from hire_model.tracking import versions

    if not result.changed:
        return
    if result.previous:
        print("\nA running server keeps its version.")
    champion = versions.find(settings, result.champion)
    commands = [["hire", "serve"]]
    if versions.ARCHIVE_PATH not in champion.tags:
        commands.insert(0, ["hire", "package", "--version", result.champion])
    data = versions.read_data_folder(settings, champion)
    if data and data.is_dir() and not (GALLERIES / data.name).exists():
        inside = data.is_relative_to(Path.cwd())
        commands.append(["hire", "gallery", "build", str(data.relative_to(Path.cwd()) if inside else data)])
    print_next(*commands)


def _print_decision(decision: Decision, settings: TrackingSettings) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    rows = decision.rows()
    table = Table(*rows[0], box=SIMPLE)
    for row in rows:
        table.add_row(*row.values(), style="red" if row["verdict"] == "failed" else "")
    console.print(table)
    for reason in decision.reasons():
        console.print(f"  {reason}", soft_wrap=True)
    console.print(decision.summary(), soft_wrap=True)
    if decision.passed:
        print_next(["hire", "promote", "--version", str(decision.version)])


def _make_table(name: str, listed: list[Version]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    from hire_model.tracking.versions import COMPARED_WITH, DECISION, RSUM, TRAINED_RSUM

    table = Table(title=name, box=SIMPLE)
    for heading in ("version", "aliases", "rSum", "gate", "against", "data", "run"):
        # A narrow terminal wraps only the data column, so that aliases are never truncated.
        table.add_column(heading, no_wrap=heading != "data")
    for version in listed:
        tags = version.tags
        # Earlier releases stored the recalls of the training as tags, one of them PROTOCOL.rsum.
        older = next((value for key, value in tags.items() if key.endswith(".rsum") and key != RSUM), "")
        trained = tags.get(TRAINED_RSUM, older)
        split = tags.get("gate.split", tags.get("split", ""))
        table.add_row(
            version.number,
            "\n".join(version.aliases),
            tags.get(RSUM, trained),
            tags.get(DECISION, "none"),
            tags.get(COMPARED_WITH, ""),
            f"{split}, {tags.get('gate.data.digest', tags.get('data.digest', ''))[:8]}",
            version.run_id[:8],
        )
    return table

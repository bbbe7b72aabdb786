"""`hire gate`, `promote`, `rollback`, `registry show`, `card`: from a trained version to the one in force, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.options import Data, Limit, Protocol, Recipe, Set, VersionName, collect_overrides

if TYPE_CHECKING:
    from rich.table import Table

    from hire_model.gate import Decision
    from hire_model.settings import TrackingSettings
    from hire_model.tracking.promotion import Promotion
    from hire_model.tracking.versions import Version

app = typer.Typer(help="Look at the registered model.", no_args_is_help=True)
NOT_PASSED = 1  # exit status; 2 is an error, as everywhere


def _check_reason(reason: str) -> str:
    """A reason, kept from being the option that follows: `--force --help` would promote. Raises BadParameter."""
    if reason.startswith("-"):
        raise typer.BadParameter(f"'{reason}' looks like an option; expected the reason, in words.")
    return reason


def gate(
    version: VersionName = "challenger",
    data: Data = "",
    split: Annotated[
        str, typer.Option(help="Split to evaluate; by default data.test of the recipe, else data.dev.")
    ] = "",
    protocol: Protocol = "",
    limit: Limit = 0,
    recipe: Recipe = "synthetic",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the decision as JSON.")] = None,
    set_: Set = None,
) -> None:
    """Judge a version by the rules of the settings, and against the champion. Exit status 1: it did not pass."""
    from hire_model.settings import resolve

    settings = resolve(recipe, collect_overrides(set_, data__path=data, evaluate__protocol=protocol)).settings
    from hire_model.files import write_text
    from hire_model.workflows import gate as workflow  # imports torch: only after the settings are checked

    decision = workflow.gate(settings, version, split, limit).decision
    if json:
        write_text(decision.model_dump_json(indent=1) + "\n", json)
    _print_decision(decision, settings.tracking)
    if not decision.passed:
        raise typer.Exit(NOT_PASSED)


def promote(
    version: VersionName = "challenger",
    force: Annotated[
        str, typer.Option(metavar="REASON", help="Promote without a passed gate; recorded.", callback=_check_reason)
    ] = "",
    set_: Set = None,
) -> None:
    """Make a version that passed the gate the champion."""
    settings = _resolve_tracking(set_)
    from hire_model.tracking import promotion

    done = promotion.promote(settings, version, force)
    print(done.summary())
    _print_serving_steps(done, settings)


def rollback(
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Noted on the version that goes out of force.", callback=_check_reason)
    ] = "",
    set_: Set = None,
) -> None:
    """Make the version that the champion replaced the champion again; what is served changes with 'hire serve'."""
    settings = _resolve_tracking(set_)
    from hire_model.tracking import promotion

    done = promotion.roll_back(settings, reason)
    print(done.summary())
    print(f"Version {done.previous} is not promoted again before it passes another 'hire gate'.")
    _print_serving_steps(done, settings)


@app.command()
def show(set_: Set = None) -> None:
    """Print the versions, the newest first, with aliases, recall and decision."""
    settings = _resolve_tracking(set_)
    from rich.console import Console

    from hire_model.tracking import promotion, versions

    found = versions.list_versions(settings)
    console = Console(highlight=False)
    if not found:
        console.print(f"'{settings.model_name}' has no version yet; 'hire train' registers one.")
        return
    console.print(_make_table(settings.model_name, found))
    for line in promotion.list_promotions(settings):
        console.print(f"  {line}", soft_wrap=True, style="dim")


def card(
    model: Annotated[str, typer.Option(help="A version's number, an alias, or a model folder.")] = "champion",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")] = None,
    ablation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="stages.json of 'hire ablate stages' on the same data.")
    ] = None,
    set_: Set = None,
) -> None:
    """Print or write the model card, with the decision of the gate if there is one."""
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


def _print_serving_steps(done: Promotion, settings: TrackingSettings) -> None:
    """What makes a server answer by the new champion, where one of the two was packaged and hence may be served."""
    from hire_model.tracking import versions

    numbers = [number for number in (done.champion, done.previous) if number]
    archived = [number for number in numbers if versions.ARCHIVE_PATH in versions.find(settings, number).tags]
    if not done.changed or not archived:
        return
    print("\nA server goes on with the version that it has. Next:")
    if done.champion not in archived:
        print(f"  hire package --version {done.champion}")
    print("  hire serve")


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
        console.print(f"\nNext:\n  hire promote --version {decision.version}", soft_wrap=True)


def _make_table(name: str, found: list[Version]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    from hire_model.tracking.versions import COMPARED_WITH, DECISION, RSUM

    table = Table(title=name, box=SIMPLE)
    for heading in ("version", "aliases", "rSum", "gate", "against", "judged on", "run"):
        # A narrow terminal may wrap what the version was judged on, never cut an alias off.
        table.add_column(heading, no_wrap=heading != "judged on")
    for one in found:
        tags = one.tags
        trained = next((value for key, value in tags.items() if key.endswith(".rsum") and key != RSUM), "")
        ground = tags.get("gate.split", tags.get("split", ""))
        table.add_row(
            one.number,
            "\n".join(one.aliases),
            tags.get(RSUM, trained),
            tags.get(DECISION, "not judged"),
            tags.get(COMPARED_WITH, ""),
            f"{ground}, {tags.get('gate.data.digest', tags.get('data.digest', ''))[:8]}",
            one.run_id[:8],
        )
    return table

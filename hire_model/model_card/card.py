"""The model card: what a person must know before using a model, from the facts of its training.

The sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. The facts travel in the model
folder's config.json, so every copy of the model has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.data.schema import Manifest, SplitCounts
from hire_model.errors import HireError
from hire_model.evaluation.result import Result
from hire_model.evaluation.slices import SliceTable
from hire_model.gate import CONTRAST_TEXTS, Decision
from hire_model.model import artifact
from hire_model.settings import Settings, TrackingSettings
from hire_model.tracking import registry, versions

CARD = "model_card.md"
FACT = "card"  # the key of a model folder's facts below which these facts are
NO_ABLATION = (
    "None is at hand. `hire ablate stages --out FOLDER` on the same data shows what each part of the model gives, and "
    "`hire card --ablation FOLDER/stages.json` adds its table here."
)
_NOT_OF_THE_MODEL = {"out", "device", "threads", "checkpoint_minutes"}  # where and how fast, not what


class DataFacts(BaseModel):
    """The data set that a model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    source: str
    licence: str
    extractor: str
    splits: dict[str, SplitCounts]


class CardFacts(BaseModel):
    """What a training knows of its model, beyond what config.json has anyway; epochs count from 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: Result
    data: DataFacts
    training: dict[str, Any]
    parameters: int
    epochs: int
    best_epoch: int
    slices: list[SliceTable]


def collect_card_facts(
    result: Result,
    manifest: Manifest,
    settings: Settings,
    slices: list[SliceTable],
    parameters: int,
    epochs: int,
    best_epoch: int,
) -> CardFacts:
    """The facts of a training; `result` is of the split that was judged in the end."""
    data = DataFacts(
        name=manifest.name,
        digest=manifest.digest,
        source=manifest.source,
        licence=manifest.licence,
        extractor=manifest.feature_extractor,
        splits=manifest.splits,
    )
    training = settings.train.model_dump(mode="json", exclude=_NOT_OF_THE_MODEL)
    return CardFacts(
        result=result,
        data=data,
        training=training,
        parameters=parameters,
        epochs=epochs,
        best_epoch=best_epoch,
        slices=slices,
    )


def read_card_facts(folder: Path) -> CardFacts | None:
    """The facts in a model folder; None for a model that was not made by `hire train`, or before there were cards."""
    found = artifact.read_config(folder)["facts"].get(FACT)
    try:
        return None if found is None else CardFacts.model_validate(found)
    except ValidationError as error:
        raise HireError(
            f"{folder / artifact.CONFIG}: facts.{FACT} is not as this version writes it: {error}"
        ) from error


def render_card(folder: Path, name: str, uri: str, decision: Decision | None = None, ablation: str = "") -> str:
    """The card of the model in `folder` as Markdown.

    name: of the registered model; uri: what loads this one; decision: of its gate; ablation: a Markdown table, without
    which the card says how to get one.
    Raises HireError where the folder has no facts for a card.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = read_card_facts(folder)
    if facts is None:
        raise HireError(f"{folder}: no facts for a model card in {artifact.CONFIG}. Train it with 'hire train'.")
    environment = Environment(
        loader=PackageLoader("hire_model.model_card"),
        autoescape=False,  # Markdown; what comes from data goes through `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    text = environment.get_template("model_card.md.j2").render(
        name=name,
        uri=uri,
        card=facts,
        config=artifact.read_config(folder),
        decision=decision,
        changes=CONTRAST_TEXTS,
        ablation=ablation or NO_ABLATION,
    )
    return text


def make_card(model: str, settings: TrackingSettings, ablation: Path | None = None) -> str:
    """The card of a version (number or alias), with the decision of its gate, or of the model in a folder.

    ablation: stages.json of `hire ablate stages`. Raises HireError where there is no such model or no facts in it.
    """
    path, decision = Path(model).expanduser(), None
    if path.is_dir():
        folder, name, uri = registry.fetch(path, settings), settings.model_name, str(path)
    else:
        version = versions.find(settings, model)
        folder, name, uri = registry.fetch(version.uri, settings), version.name, version.uri
        text = versions.read_artifact(settings, version, f"{versions.gate_folder(version)}/{versions.DECISION_FILE}")
        decision = Decision.model_validate_json(text) if text else None
    facts = read_card_facts(folder)
    table = format_ablation_table(ablation, facts.data.digest) if ablation and facts else ""
    return render_card(folder, name, uri, decision, table)


def format_ablation_table(path: Path, digest: str) -> str:
    """The table of `hire ablate stages` (its stages.json) as Markdown, if it was made on the data with `digest`.

    Raises HireError for another data set or another file.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        origin, rows = found["origin"], found["rows"]
        lines = [_ablation_row(row) for row in rows]
        seeds, made_on = ", ".join(map(str, origin["seeds"])), origin["data_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HireError(f"{path}: not a table of 'hire ablate stages': {error}") from error
    if made_on != digest:
        raise HireError(f"{path}: made on data {made_on[:16]}, but the model was trained on {digest[:16]}.")
    head = ["| variant | rSum | change |", "|---|---:|---:|"]
    return "\n".join([f"Seeds {seeds}, split {_plain(origin['split'])}; mean (lowest to highest).", "", *head, *lines])


def _ablation_row(row: Mapping[str, Any]) -> str:
    change = row["change"]
    return f"| {_plain(row['variant'])} | {_spread(row['rsum'])} | {_spread(change, '+') if change else ''} |"


def _spread(value: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (format(value[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


def _plain(value: object) -> str:
    """One line that neither ends a table's cell nor is markup."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")

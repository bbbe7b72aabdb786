"""Collect the facts for a model card during training, and render the card.

The sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. The facts are in the model folder's
config.json, so every copy of the model has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.data.schema import Manifest, SplitCounts
from hire_model.errors import HireError
from hire_model.evaluation.dataset_figures import describe_maker
from hire_model.evaluation.result import Result
from hire_model.evaluation.slices import SliceTable
from hire_model.gate import CONTRAST_TEXTS, Decision
from hire_model.model import artifact
from hire_model.settings import Settings, TrackingSettings
from hire_model.tracking import registry, versions

CARD = "model_card.md"
FACT = "card"  # key of these facts in the facts of a model folder
NO_ABLATION = (
    "Not available. `hire ablate stages --out FOLDER` on the same data measures what each part of the model adds, and "
    "`hire card --ablation FOLDER/stages.json` adds its table here."
)
_OMITTED = {"out", "device", "threads", "checkpoint_minutes"}  # settings that do not change the model


class DataFacts(BaseModel):
    """The data set that a model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    source: str
    licence: str
    extractor: str
    relations: str = ""  # what made them, if that is recorded
    splits: dict[str, SplitCounts]


class CardFacts(BaseModel):
    """The facts of a training that config.json does not have otherwise. `best_epoch` counts from 0."""

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
    """Collect the facts of a training; `result` is the final evaluation of the model."""
    data = DataFacts(
        name=manifest.name,
        digest=manifest.digest,
        source=manifest.source,
        licence=manifest.licence,
        extractor=manifest.feature_extractor,
        relations=describe_maker(manifest.relation_maker),
        splits=manifest.splits,
    )
    training = settings.train.model_dump(mode="json", exclude=_OMITTED)
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
    """Read the facts in a model folder. Return None if there are none, as in a model not made by `hire train`."""
    facts = artifact.read_config(folder)["facts"].get(FACT)
    try:
        return None if facts is None else CardFacts.model_validate(facts)
    except ValidationError as error:
        raise HireError(
            f"{folder / artifact.CONFIG}: facts.{FACT} does not have the format of this version: {error}"
        ) from error


def render_card(folder: Path, name: str, uri: str, decision: Decision | None = None, ablation: str = "") -> str:
    """Render the card of the model in `folder` as Markdown.

    Args:
        folder: the model folder.
        name: the name of the registered model.
        uri: the address that loads this model.
        decision: the decision of the gate about this model.
        ablation: a Markdown table; without it the card explains how to make one.

    Raises:
        HireError: if the folder has no facts for a card.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = read_card_facts(folder)
    if facts is None:
        raise HireError(
            f"{folder}: {artifact.CONFIG} has no facts for a model card. Train the model with 'hire train'."
        )
    environment = Environment(
        loader=PackageLoader("hire_model.model_card"),
        autoescape=False,  # the card is Markdown; text from data goes through the filter `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _escape_markdown
    return environment.get_template("model_card.md.j2").render(
        name=name,
        uri=uri,
        card=facts,
        config=artifact.read_config(folder),
        decision=decision,
        changes=CONTRAST_TEXTS,
        ablation=ablation or NO_ABLATION,
    )


def make_card(model: str, settings: TrackingSettings, ablation: Path | None = None) -> str:
    """Make the card of a registered version, with the decision of the gate, or of the model in a folder.

    Args:
        model: the version's number or alias, or a model folder.
        settings: where the registry is.
        ablation: stages.json of `hire ablate stages`.

    Raises:
        HireError: if there is no such model, or it has no facts for a card.
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
    """Format the stages.json of `hire ablate stages` as a Markdown table.

    Raises HireError if the file is not such a table, or its data set does not have the digest `digest`.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        origin, rows = content["origin"], content["rows"]
        lines = [_format_row(row) for row in rows]
        seeds, data_digest = ", ".join(map(str, origin["seeds"])), origin["data_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HireError(f"{path}: not a table of 'hire ablate stages': {error}") from error
    if data_digest != digest:
        raise HireError(
            f"{path}: from the data set with digest {data_digest[:16]}, but the model was trained on {digest[:16]}."
        )
    head = ["| variant | rSum | change |", "|---|---:|---:|"]
    return "\n".join(
        [f"Seeds {seeds}, split {_escape_markdown(origin['split'])}; mean (lowest to highest).", "", *head, *lines]
    )


def _format_row(row: Mapping[str, Any]) -> str:
    change = _format_spread(row["change"], "+") if row["change"] else ""
    return f"| {_escape_markdown(row['variant'])} | {_format_spread(row['rsum'])} | {change} |"


def _format_spread(value: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (format(value[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


def _escape_markdown(value: object) -> str:
    """Return the value as one line that does not end a table cell and contains no markup."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")

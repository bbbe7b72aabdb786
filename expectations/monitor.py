"""The monitor: the journal of a server against the data of the version that it serves, judged and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expectations.drift import FIGURES, Drift, compare, newest
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.monitoring.page import render
from hire_model.settings import Settings


@dataclass(frozen=True)
class Monitored:
    """What was found, the report as HTML, and what it is about: SHA-256 of the model's weights, the data's digest."""

    drift: Drift
    page: str
    weights: str
    digest: str


def monitor(journal: Path, model: str, settings: Settings) -> Monitored:
    """Compare the newest pairs that `model` has scored with the data set of the settings.

    model: an address such as models:/hire@champion, or a folder. Sentences, pictures and classes are compared with the
    training split, scores with the split that the model is judged on. Raises HireError: no journal, model or data, or
    data that are not those that the model has learned from.
    """
    from hire_model.data.chosen import open_dataset, open_splits
    from hire_model.model import artifact
    from hire_model.monitoring.reference import reference
    from hire_model.scoring.scorer import Scorer
    from hire_model.tracking import registry

    folder = registry.fetch(model, settings.tracking)
    config, data = artifact.read_config(folder), open_dataset(settings.data)
    _check_learned(config["facts"], model, data)
    weights = config["sha256"][artifact.WEIGHTS]
    lines, manifest, splits = newest(journal, weights), data.manifest, open_splits(data, settings.data)
    scorer = Scorer.load(folder, predicates=manifest.predicates)
    drift = compare(lines, reference(scorer, splits.train, splits.test), manifest.classes)
    facts = {
        "journal": str(journal),
        "pairs": f"{drift.pairs:,}" + (f", {lines[0].time} to {lines[-1].time}" if lines else ""),
        "seem to match": "" if drift.matching is None else f"{drift.matching:.0%} of the pairs",
        "model": f"{model}, weights {weights[:12]}",
        "data": f"{manifest.name}, digest {manifest.digest[:12]}",
        "splits": f"{splits.train.name}; scores: {splits.test.name}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    samples = {FIGURES[one.figure.name]: (one.figure.reference, one.figure.journal) for one in drift.compared}
    page = render(drift.verdict, drift.findings(), drift.rows(), facts, samples)
    return Monitored(drift, page, weights, manifest.digest)


def _check_learned(facts: Mapping[str, Any], model: str, data: Dataset) -> None:
    """Raise HireError where the model says that it has learned from other data than `data`."""
    learned, manifest = facts.get("data digest"), data.manifest
    if learned and learned != manifest.digest:
        raise HireError(
            f"{data.folder}: data set '{manifest.name}', digest {manifest.digest[:16]}, but {model} has learned from "
            f"'{facts.get('data', '')}', digest {str(learned)[:16]}. What is asked is compared with what was learned: "
            "name the data set of that digest (--data), or a model that was trained on this one."
        )

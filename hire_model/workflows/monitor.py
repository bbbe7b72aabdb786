"""Compare the journal of a server with the data set its model was trained on, and report drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hire_model.data.splits import open_dataset, open_splits
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.monitoring.drift import Drift, RunSuite, measure_drift, read_newest_lines
from hire_model.monitoring.page import render
from hire_model.monitoring.reference import build_reference
from hire_model.scoring.scorer import Scorer
from hire_model.settings import Settings
from hire_model.tracking import registry


@dataclass(frozen=True)
class MonitorResult:
    """The drift, the report as HTML, the SHA-256 of the model's weights, and the digest of the data set."""

    drift: Drift
    page: str
    weights: str
    digest: str


def monitor(journal: Path, model: str, settings: Settings, run_suite: RunSuite) -> MonitorResult:
    """Compare the newest pairs that `model` has scored with the data set of the settings.

    Texts, images and classes are compared with the training split, scores with the split that evaluates the model.

    Args:
        journal: Folder of the journal.
        model: Address such as models:/hire@champion, or a folder.
        settings: Data set, splits and tracking.
        run_suite: `expectations.check.run_suite`.

    Raises:
        HireError: There is no such journal, model or data set, or the model was trained on another data set.
    """
    folder = registry.fetch(model, settings.tracking)
    config, data = artifact.read_config(folder), open_dataset(settings.data)
    _check_trained_on(config["facts"], model, data)
    weights = config["sha256"][artifact.WEIGHTS]
    lines, manifest, splits = read_newest_lines(journal, weights), data.manifest, open_splits(data, settings.data)
    scorer = Scorer.load(folder, predicates=manifest.predicates)
    drift = measure_drift(lines, build_reference(scorer, splits.train, splits.test), manifest.classes, run_suite)
    facts = {
        "journal": str(journal),
        "pairs": f"{drift.pairs:,}" + (f", {lines[0].time} to {lines[-1].time}" if lines else ""),
        "matching pairs (estimate)": "" if drift.matching is None else f"{drift.matching:.0%}",
        "model": f"{model}, weights {weights[:12]}",
        "data": f"{manifest.name}, digest {manifest.digest[:12]}",
        "splits": f"{splits.train.name}; scores: {splits.test.name}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return MonitorResult(drift, render(drift, facts), weights, manifest.digest)


def _check_trained_on(facts: Mapping[str, Any], model: str, data: Dataset) -> None:
    """Raise HireError if the model's facts name another data set than `data`."""
    digest, manifest = facts.get("data digest"), data.manifest
    if digest and digest != manifest.digest:
        raise HireError(
            f"{data.folder}: data set '{manifest.name}', digest {manifest.digest[:16]}, but {model} was trained on "
            f"'{facts.get('data', '')}', digest {str(digest)[:16]}. The journal is compared with the training data: "
            "name the data set with that digest (--data), or a model that was trained on this one."
        )

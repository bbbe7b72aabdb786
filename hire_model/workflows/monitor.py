"""Compare the journal of a server with the data set its model was trained on, and report drift."""

from __future__ import annotations

import shlex
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
from hire_model.tracking import registry, versions
from hire_model.workflows.evaluation_data import use_training_data


@dataclass(frozen=True)
class MonitorResult:
    """The drift, the report as HTML, the SHA-256 of the model's weights, and the digest of the data set.

    others: a sentence about the pairs of other versions in the journal; "" if there are none.
    """

    drift: Drift
    page: str
    weights: str
    digest: str
    others: str = ""

    def summary(self) -> str:
        """Return the verdict, the findings, and which other versions have pairs in the journal."""
        return "\n".join(filter(None, (self.drift.summary(), self.others)))


def monitor(journal: Path, model: str, settings: Settings, run_suite: RunSuite) -> MonitorResult:
    """Compare the newest pairs that `model` has scored with the data set of the settings.

    Texts, images and classes are compared with the training split, scores with the split that evaluates the model.

    Args:
        journal: Folder of the journal.
        model: Address such as models:/hire@champion, or a folder.
        settings: Data set, splits and tracking. Without data.path, the data set is the training data of the version.
        run_suite: `expectations.check.run_suite`.

    Raises:
        HireError: There is no such journal, model or data set, or the model was trained on another data set.
    """
    settings = use_training_data(settings, versions.find_by_address(settings.tracking, model))
    folder = registry.fetch(model, settings.tracking)
    config, data = artifact.read_config(folder), open_dataset(settings.data)
    _check_trained_on(config["facts"], model, data)
    weights = config["sha256"][artifact.WEIGHTS]
    (lines, others), manifest, splits = (
        read_newest_lines(journal, weights), data.manifest, open_splits(data, settings.data),
    )  # fmt: skip
    scorer = Scorer.load(folder, predicates=manifest.predicates, classes=manifest.classes)
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
    return MonitorResult(drift, render(drift, facts), weights, manifest.digest, _describe_others(journal, others))


def _describe_others(journal: Path, others: Mapping[str, int]) -> str:
    """Return which other versions have pairs in the journal, and the command that compares one of them."""
    if not others:
        return ""
    numbers = sorted(others, key=lambda number: (len(number), number), reverse=True)
    counts = ", ".join(f"{_name_version(number)} ({others[number]:,})" for number in numbers)
    option = f"--version {numbers[0]}" if numbers[0] else "--model FOLDER"
    return (
        f"The journal also has pairs of {counts}. To compare them: "
        f"hire monitor --journal {shlex.quote(str(journal))} {option}"
    )


def _name_version(number: str) -> str:
    return f"version {number}" if number else "models that are not registered"


def _check_trained_on(facts: Mapping[str, Any], model: str, data: Dataset) -> None:
    """Raise HireError if the model's facts name another data set than `data`."""
    digest, manifest = facts.get("data digest"), data.manifest
    if digest and digest != manifest.digest:
        raise HireError(
            f"{data.folder}: data set '{manifest.name}', digest {manifest.digest[:16]}, but {model} was trained on "
            f"'{facts.get('data', '')}', digest {str(digest)[:16]}. The journal is compared with the training data: "
            "name the data set with that digest (--data), or a model that was trained on this one."
        )

"""Evaluate, compare, gate and gallery build with a data set of another extractor than that of the training data."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gallery_examples import make_model, open_split

from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.scoring.kept_scores import KeptScores
from hire_model.settings import Settings, resolve
from hire_model.workflows import gate
from hire_model.workflows.compare import compare
from hire_model.workflows.evaluate import evaluate

GRID, OBJECTS = "grid regions, sha256 0123456789abcdef", "objects, sha256 fedcba9876543210"


def _copy(dataset: Path, out: Path, feature_extractor: str) -> Path:
    """Copy a data set, with another name of its extractor."""
    shutil.copytree(dataset, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"feature_extractor": feature_extractor}))
    return out


def _save_model(dataset: Path, out: Path) -> str:
    split = open_split(dataset)
    return str(artifact.save(make_model(split), out, {}, split.dataset))


def _make_settings(data: Path) -> Settings:
    overrides = {"data.path": str(data), "evaluate.bootstrap": "0", "tracking.enabled": "false"}
    return resolve(None, overrides, environ={}).settings


def test_features_of_another_recorded_extractor_are_refused_although_they_have_the_same_size(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    trained, other = _copy(tiny_dataset, tmp_path / "a", GRID), _copy(tiny_dataset, tmp_path / "b", OBJECTS)
    model, settings = _save_model(trained, tmp_path / "model"), _make_settings(other)
    message = f"another extractor \\({OBJECTS}\\) than .* trained on \\({GRID}\\). Extract the regions as for the"
    with pytest.raises(DataError, match=message):
        evaluate([model], settings, "dev")
    with pytest.raises(DataError, match=message):
        compare(model, model, settings, "dev")
    with pytest.raises(DataError, match=message):
        build(artifact.load(model), open_split(other), tmp_path / "gallery")
    assert not [path.name for path in tmp_path.iterdir() if "gallery" in path.name]
    assert evaluate([model], _make_settings(trained), "dev").result.metrics()


@pytest.mark.parametrize(
    ("trained", "evaluated", "warned"),
    [
        ("bottom-up attention", "BUTD, 36 boxes", True),
        (GRID, "BUTD, 36 boxes", True),
        ("bottom-up attention", "unknown", False),
        ("unknown", GRID, False),
        ("bottom-up attention", "bottom-up attention", False),
        (GRID, GRID.replace("grid", "the same grid"), False),
    ],
)
def test_another_free_text_is_a_warning_once_and_an_unknown_extractor_is_none(
    tiny_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    trained: str,
    evaluated: str,
    warned: bool,
) -> None:
    model = _save_model(_copy(tiny_dataset, tmp_path / "a", trained), tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        compare(model, model, _make_settings(_copy(tiny_dataset, tmp_path / "b", evaluated)), "dev")
    found = [record.message for record in caplog.records if "figures mean something only if" in record.message]
    assert len(found) == warned
    assert not warned or (f"'{trained}'" in found[0] and f"'{evaluated}'" in found[0])


def test_a_model_keeps_the_extractor_of_its_training_data_also_one_of_an_earlier_release(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    folder = _save_model(_copy(tiny_dataset, tmp_path / "a", GRID), tmp_path / "model")
    assert artifact.load(folder).feature_extractor == GRID
    config = artifact.read_config(folder)
    del config["feature_extractor"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert artifact.load(folder).feature_extractor == ""
    config["extractor"] = {"kind": "grid", "name": "grid regions", "digest": "0123456789abcdef" * 4}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert artifact.load(folder).feature_extractor == GRID


def test_the_gate_says_how_to_replace_a_champion_of_another_extractor(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, other = _copy(tiny_dataset, tmp_path / "a", GRID), _copy(tiny_dataset, tmp_path / "b", OBJECTS)
    model = _save_model(trained, tmp_path / "model")
    monkeypatch.setattr(gate, "_load_ranks", lambda *_: None)
    monkeypatch.setattr(gate.registry, "fetch", lambda *_: model)
    evidence: Any = SimpleNamespace(ground=None, version="7")
    ranks: Any = SimpleNamespace(fold=np.zeros(1))
    champion: Any = SimpleNamespace(number="3", uri="")
    with pytest.raises(DataError, match=r"champion, version 3, cannot .* another extractor .* --version 7 --force"):
        gate._compare(
            evidence, ranks, champion, Dataset.open(other).split("dev"), _make_settings(other), KeptScores(tmp_path)
        )

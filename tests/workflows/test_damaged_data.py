"""Train, evaluate, gate and gallery build refuse a data set whose features have a flipped byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damage import flip_byte
from registered import RegisteredModel
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.schema import FEATURES
from hire_model.errors import DataError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_byte_in_the_features_is_refused_by_every_command(
    registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered_model.settings.tracking.uri)
    data, model = tmp_path / "data", str(registered_model.folder)
    shutil.copytree(registered_model.dataset, data)
    tiny = ["--set", "model.preset=tiny", "--set", "tracking.enabled=false", "--set", f"data.workers={workers}"]
    commands = [["train", "--data", str(data), "--set", "train.out=run", *tiny]]
    if not workers:
        commands += [
            ["evaluate", "--data", str(data), "--model", model],
            ["gate", "--data", str(data), "--version", "1"],
            ["gallery", "build", str(data), "--model", model, "--out", "gallery"],
        ]
    with flip_byte(data / FEATURES, (data / FEATURES).stat().st_size // 2):
        for command in commands:
            with pytest.raises(DataError, match=r"features\.npy: block 0 \(bytes 0 to [0-9,]+\) differs") as caught:
                CliRunner().invoke(app, command, catch_exceptions=False)
            assert "Traceback" not in str(caught.value)

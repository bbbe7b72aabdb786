"""Output of `hire registry show`, `hire promote` and `hire rollback`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hire_model.cli.gallery import name_version
from hire_model.cli.main import app
from hire_model.cli.registry import _make_table, promote, rollback
from hire_model.settings import TrackingSettings
from hire_model.tracking import versions
from hire_model.tracking.connection import connect
from hire_model.tracking.versions import Version

pytestmark = pytest.mark.slow


def test_a_narrow_terminal_truncates_no_alias() -> None:
    tags = {"gate.decision": "passed", "gate.split": "test, 200 images", "gate.data.digest": "681267ab61f38513"}
    version = Version(
        "hire", number="12", aliases=("challenger", "champion", "previous"), run_id="ca810b90aabb", tags=tags
    )
    out = StringIO()
    Console(file=out, width=72).print(_make_table("hire", [version]))
    cells = out.getvalue().split()
    assert {"challenger", "champion", "previous", "12", "681267ab", "ca810b90"} <= set(cells)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a database with versions 1 and 2 of 'hire'. MLflow needs seconds for a new one, so tests copy it."""
    import mlflow

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        client = mlflow.MlflowClient(uri, uri)
        client.create_registered_model("hire")
        for _ in range(2):
            client.create_model_version("hire", str(folder))
    return folder / "mlflow.db"


@pytest.fixture
def two_versions(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingSettings]:
    """Select a store with versions 1 and 2 of 'hire' and without a champion."""
    import mlflow

    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings, before = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"), mlflow.get_tracking_uri()
    connect(settings)
    yield settings
    mlflow.set_tracking_uri(before)


def test_promotion_and_rollback_print_what_a_server_needs(
    two_versions: TrackingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_output() -> str:
        return capsys.readouterr().out

    promote("1", "first")
    assert read_output().endswith("Next:\n  hire package --version 1\n  hire serve\n")
    promote("2", "second")
    read_output()
    versions.record_archive(versions.find(two_versions, "2"), two_versions, "hire.mar", "0" * 64)
    rollback("it is slow")
    output = read_output()
    assert "Version 1 of 'hire' is the champion now" in output and "Version 2 must pass 'hire gate' again" in output
    assert output.endswith("A running server keeps its version.\n\nNext:\n  hire package --version 1\n  hire serve\n")
    versions.record_archive(versions.find(two_versions, "1"), two_versions, "hire.mar", "0" * 64)
    promote("1", "again")
    assert "Next" not in read_output(), "nothing was changed"
    promote("2", "third")
    assert read_output().endswith("Next:\n  hire serve\n")
    rollback()
    assert read_output().endswith("Next:\n  hire serve\n")


def test_a_gallery_names_its_model_by_number_and_not_by_an_alias(
    two_versions: TrackingSettings,
) -> None:
    promote("2", "first")
    assert name_version("models:/hire@champion") == "models:/hire/2" == name_version("models:/hire/2")
    assert name_version("runs:/1/model") == "runs:/1/model"


@pytest.mark.parametrize("arguments", [["promote", "--version", "1", "--force"], ["rollback", "--reason"]])
def test_an_option_is_refused_as_a_reason(two_versions: TrackingSettings, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 2 and "looks like an option" in done.output
    assert versions.find_champion(two_versions) is None

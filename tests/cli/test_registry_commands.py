"""What `hire registry show` prints, and what a promotion and a rollback say of the server."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.cli.registry import _make_table, promote, rollback
from hire_model.settings import TrackingSettings
from hire_model.tracking import versions
from hire_model.tracking.connection import connect
from hire_model.tracking.versions import Version


def test_a_narrow_terminal_cuts_no_alias_off() -> None:
    tags = {"gate.decision": "passed", "gate.split": "test, 200 images", "gate.data.digest": "681267ab61f38513"}
    version = Version(
        "hire", number="12", aliases=("challenger", "champion", "previous"), run_id="ca810b90aabb", tags=tags
    )
    out = StringIO()
    Console(file=out, width=72).print(_make_table("hire", [version]))
    words = out.getvalue().split()
    assert {"challenger", "champion", "previous", "12", "681267ab", "ca810b90"} <= set(words)


@pytest.fixture
def two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingSettings]:
    """Versions 1 and 2 of 'hire' in a store of their own, which the environment names; nobody is in force."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings, before = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"), mlflow.get_tracking_uri()
    client = mlflow.MlflowClient(connect(settings))
    client.create_registered_model("hire")
    for _ in range(2):
        client.create_model_version("hire", str(tmp_path))
    yield settings
    mlflow.set_tracking_uri(before)


def test_a_rollback_says_what_a_server_needs(
    two_versions: TrackingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return capsys.readouterr().out

    promote("1", "first")
    promote("2", "second")
    assert "hire serve" not in said(), "nothing was packaged, hence nothing is served"
    versions.record_archive(versions.find(two_versions, "2"), two_versions, Path("hire.mar"), "0" * 64)
    rollback("it is slow")
    told = said()
    assert "Version 1 of 'hire' is the champion now" in told and "Version 2 is not promoted again before" in told
    assert told.endswith("the version that it has. Next:\n  hire package --version 1\n  hire serve\n")
    versions.record_archive(versions.find(two_versions, "1"), two_versions, Path("hire.mar"), "0" * 64)
    promote("1", "again")
    assert "Next" not in said(), "nothing was changed"
    promote("2", "third")
    assert said().endswith("Next:\n  hire serve\n")
    rollback()
    assert said().endswith("Next:\n  hire serve\n")


@pytest.mark.parametrize("words", [["promote", "--version", "1", "--force"], ["rollback", "--reason"]])
def test_an_option_is_no_reason(two_versions: TrackingSettings, words: list[str]) -> None:
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 2 and "looks like an option" in done.output
    assert versions.find_champion(two_versions) is None

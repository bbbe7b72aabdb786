"""`hire package` and `hire serve` as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from registered import RegisteredModel
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.schema import hash_file
from hire_model.errors import HireError
from serving.cli import curl_line


@pytest.fixture
def at_store(registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered_model.settings.tracking.uri)
    return tmp_path


def test_package_says_where_the_archive_lies(at_store: Path) -> None:
    done = CliRunner().invoke(app, ["package", "--version", "challenger"], catch_exceptions=False)
    assert done.exit_code == 0 and hash_file(at_store / "runs/archives/1/hire.mar").sha256 in done.stdout
    assert "hire serve --version 1" in done.stdout


def test_a_version_that_is_not_there(at_store: Path) -> None:
    for command in (["package"], ["serve"]):
        with pytest.raises(HireError, match="no version or alias 'champion'"):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_a_folder_of_galleries_that_is_not_there(at_store: Path) -> None:
    with pytest.raises(HireError, match="--galleries nowhere: no such folder"):
        CliRunner().invoke(app, ["serve", "--galleries", "nowhere"], catch_exceptions=False)


def test_nothing_to_stop_and_no_status(at_store: Path) -> None:
    assert "No server was running" in CliRunner().invoke(app, ["serve", "--stop"]).stdout
    status = CliRunner().invoke(app, ["serve", "--status"])
    assert status.exit_code == 1 and "hire serve" in status.stdout


def test_a_folder_that_is_a_file(at_store: Path) -> None:
    (at_store / "taken").touch()
    for more in ([], ["--stop"], ["--status"]):
        done = CliRunner().invoke(app, ["serve", "--folder", "taken", *more])
        assert done.exit_code == 2 and "is a file" in done.output


def test_the_curl_line_names_the_files_of_the_server(tmp_path: Path) -> None:
    line = curl_line("http://127.0.0.1:1/predictions/hire", tmp_path)
    assert f"{tmp_path}/current/key_file.json" in line and f"@{tmp_path}/current/example.json" in line

"""The commands `hire package` and `hire serve`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from registered import RegisteredModel
from scripted import answer, run_scripted_server
from signing_keys import make_keys
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.schema import hash_file
from hire_model.errors import HireError
from hire_model.tracking import versions
from serving import cli, server
from serving.cli import format_curl_command
from serving.contract import PREDICTIONS
from serving.server import CURRENT, EXAMPLE
from serving.tokens import write_header


@pytest.fixture
def folder_with_store(registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered_model.settings.tracking.uri)
    return tmp_path


def test_package_prints_path_and_digest_of_the_archive(folder_with_store: Path) -> None:
    done = CliRunner().invoke(app, ["package", "--version", "challenger"], catch_exceptions=False)
    assert done.exit_code == 0 and hash_file(folder_with_store / "runs/archives/1/hire.mar").sha256 in done.stdout
    assert "hire serve --version 1" in done.stdout


def test_a_missing_version_is_refused(folder_with_store: Path) -> None:
    for command in (["package"], ["serve"]):
        with pytest.raises(HireError, match="no version or alias 'champion'"):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_serve_packages_a_version_that_has_no_archive(
    folder_with_store: Path, registered_model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, served = registered_model.settings.tracking, []
    serve = ["serve", "--version", "challenger"]
    monkeypatch.setattr(server, "serve", lambda archive, *arguments, **options: served.append(archive))
    monkeypatch.setattr(cli, "_print_access", lambda *arguments: None)
    before = versions.find(tracking, "1")
    versions.set_tags(tracking, before, {versions.ARCHIVE_PATH: str(folder_with_store / "gone/1/hire.mar")})
    done = CliRunner().invoke(app, serve, catch_exceptions=False)
    assert "Version 1 has no archive at " in done.stdout and "packaging it" in done.stdout
    assert served[0].path == folder_with_store / "runs/archives/1/hire.mar"
    assert hash_file(served[0].path).sha256 == served[0].sha256
    assert "packaging" not in CliRunner().invoke(app, serve, catch_exceptions=False).stdout and served[1] == served[0]


def test_serve_refuses_an_archive_that_is_not_signed_where_a_public_key_is_set(
    folder_with_store: Path, registered_model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[object] = []
    monkeypatch.setattr(server, "serve", lambda archive, *arguments, **options: served.append(archive))
    monkeypatch.setattr(cli, "_print_access", lambda *arguments: None)
    keys = make_keys(folder_with_store)
    monkeypatch.setenv("HIRE_SIGNING__PUBLIC_KEY", str(keys.public_key))
    assert CliRunner().invoke(app, ["package", "--version", "1"], catch_exceptions=False).exit_code == 0
    with pytest.raises(HireError, match=r"hire\.mar: not signed, but .*team\.pub asks for a signature"):
        CliRunner().invoke(app, ["serve", "--version", "1"], catch_exceptions=False)
    monkeypatch.setenv("HIRE_SIGNING__PRIVATE_KEY", str(keys.private_key))
    for command in ("package", "serve"):
        assert CliRunner().invoke(app, [command, "--version", "1"], catch_exceptions=False).exit_code == 0
    assert len(served) == 1


def test_a_missing_gallery_folder_is_refused(folder_with_store: Path) -> None:
    with pytest.raises(HireError, match="--galleries nowhere: no such folder"):
        CliRunner().invoke(app, ["serve", "--galleries", "nowhere"], catch_exceptions=False)


def test_stop_and_status_work_without_a_server(folder_with_store: Path) -> None:
    assert "No server was running" in CliRunner().invoke(app, ["serve", "--stop"]).stdout
    status = CliRunner().invoke(app, ["serve", "--status"])
    assert status.exit_code == 1 and "hire serve" in status.stdout


def test_a_file_in_place_of_the_folder_is_refused(folder_with_store: Path) -> None:
    (folder_with_store / "file").touch()
    for more in ([], ["--stop"], ["--status"]):
        done = CliRunner().invoke(app, ["serve", "--folder", "file", *more])
        assert done.exit_code == 2 and "is a file" in done.output


def test_the_curl_command_sends_token_and_request_from_files(tmp_path: Path) -> None:
    current = tmp_path / "a folder" / CURRENT
    current.mkdir(parents=True)
    write_header(current.parent, "a-secret")
    (current / EXAMPLE).write_text('{"pairs": []}')
    with run_scripted_server(answer(200, b"answered")) as server:
        command = format_curl_command(server.address + PREDICTIONS, current.parent)
        output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output == "answered\n"
    assert "a-secret" not in command, "a token in the command line is in the process list"
    assert (server.paths, server.bodies) == ([PREDICTIONS], [b'{"pairs": []}'])
    headers = server.headers[0]
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer a-secret", "application/json")

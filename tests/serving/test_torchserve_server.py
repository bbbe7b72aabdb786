"""Start and stop of servers without TorchServe: Java, ports, tokens, records and the lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any

import psutil
import pytest
from scripted import answer, run_scripted_server

from hire_model.tracking.versions import Archive, Version
from serving import process as process_module
from serving import server, torchserve
from serving.process import ServeError, Server
from serving.tokens import HEADER, KEYS


def _write_java(folder: Path, version: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{version}' >&2\n")
    path.chmod(0o755)
    return path


def test_missing_java_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="apt-get install -y openjdk-17"):
        torchserve.find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ServeError, match="JAVA_HOME="):
        torchserve.find_java()


@pytest.mark.parametrize(
    ("version", "good"),
    [('openjdk version "17.0.15" 2025-04-15', True), ('openjdk version "21" 2023', True),
     ('java version "1.8.0_402"', False), ("gibberish", False)],
)  # fmt: skip
def test_java_is_accepted_from_version_11_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, good: bool
) -> None:
    java = _write_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if good:
        assert torchserve.find_java() == str(java)
    else:
        with pytest.raises(ServeError, match="needs Java 17"):
            torchserve.find_java()


def _make_record(folder: Path, process: psutil.Process, started: float | None = None) -> Server:
    return Server(
        folder=folder, scratch=folder / "scratch", pid=process.pid, started=started or process.create_time(),
        version="1", sha256="", inference_port=1, management_port=2, metrics_port=3,
    )  # fmt: skip


def test_another_process_with_the_same_pid_is_not_stopped(tmp_path: Path) -> None:
    me = psutil.Process(os.getpid())
    record = _make_record(tmp_path, me, started=me.create_time() - 1000)
    assert record.find_process() is None
    record.stop()


def test_stop_kills_processes_that_ignore_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_STOP_S", 0.3)
    stubborn = subprocess.Popen(["bash", "-c", "trap '' TERM; (trap '' TERM; sleep 60) & sleep 60; wait"])
    time.sleep(0.5)
    process = psutil.Process(stubborn.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) >= 2
    _make_record(tmp_path, process).stop()
    stubborn.wait(timeout=10)
    assert not any(process_module.is_alive(each) for each in family)


def _format_keys(token: str, expires: datetime) -> str:
    key = {"key": token, "expiration time": expires.isoformat()}
    return json.dumps({"inference": key, "management": key, "API": {"key": "api"}})


def test_header_file_follows_the_token(tmp_path: Path) -> None:
    """An expiring token is renewed. A token that someone else renewed is written too."""
    soon, later = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (1, 60))
    keys, header = tmp_path / KEYS, tmp_path / HEADER
    keys.write_text(_format_keys("old", soon))

    def renew(request: Any) -> None:
        keys.write_text(_format_keys("new", later))
        answer(200)(request)

    with run_scripted_server(renew) as management:
        port = int(management.address.rpartition(":")[2])
        record = _make_record(tmp_path, psutil.Process()).model_copy(update={"management_port": port})
        assert record.get_token() == record.get_token() == "new"
    assert management.paths == ["/token?type=inference"]
    assert management.headers[0]["Authorization"] == "Bearer api"
    assert header.read_text() == "Authorization: Bearer new\n" and header.stat().st_mode & 0o777 == 0o600
    keys.write_text(_format_keys("newer", later))
    assert record.get_token("management") == "newer" and "newer" not in header.read_text()
    assert record.get_token() == "newer" and "newer" in header.read_text()


def test_a_port_of_another_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "verify", lambda *_: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not process_module.is_free(port)
        archive = Archive(Version("hire", "1", "", (), {}), tmp_path / "hire.mar", "")
        with pytest.raises(ServeError, match=f"Port {port} is used by another program"):
            server.serve(archive, tmp_path / "run", port=port)


def test_a_second_command_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with server._lock(tmp_path), pytest.raises(ServeError, match="Another 'hire serve' is running"):
        server.stop(tmp_path)


def test_stop_also_stops_a_server_that_never_became_current(tmp_path: Path) -> None:
    """`hire serve` was killed after it had started the server."""
    sleeper = subprocess.Popen(["sleep", "600"])
    folders = [tmp_path / f"v{i}-abc" for i in range(3)]
    for folder in folders:
        folder.mkdir()
    record = _make_record(folders[1], psutil.Process(sleeper.pid))
    (folders[1] / "server.json").write_text(record.model_dump_json())
    assert [stopped.pid for stopped in server.stop(tmp_path)] == [sleeper.pid]
    assert sleeper.wait(timeout=10) != 0 and len(list(tmp_path.glob("v*"))) == 1, "the logs of the last server are kept"


def test_a_folder_without_a_server_has_no_status(tmp_path: Path) -> None:
    assert server.find_current(tmp_path) is None and server.get_status(tmp_path) is None and server.stop(tmp_path) == []


def test_the_configuration_is_a_valid_template() -> None:
    template = Template((torchserve.CONFIG / torchserve.PROPERTIES).read_text("utf-8"))
    assert template.is_valid() and "inference_port" in template.get_identifiers()


def test_the_configuration_is_hardened_and_listens_on_127_0_0_1() -> None:
    lines = (torchserve.CONFIG / torchserve.PROPERTIES).read_text("utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert all("127.0.0.1" in value for key, value in settings.items() if key.endswith("_address"))
    expected = {
        "disable_token_authorization": "false", "enable_model_api": "false", "use_env_allowed_urls": "false",
        "enable_envvars_config": "false", "install_py_dep_per_model": "false", "load_models": "hire=hire.mar",
        "default_response_timeout": "15", "metrics_mode": "prometheus", "decode_input_request": "false",
    }  # fmt: skip
    assert expected.items() <= settings.items()

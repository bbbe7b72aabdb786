"""What is needed to start a server is checked, and said with the line that mends it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from serving import instance, server
from serving.instance import Instance, ServeError


def _java(folder: Path, says: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    path.chmod(0o755)
    return path


def test_no_java_is_told_with_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="apt-get install -y openjdk-17"):
        instance.find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ServeError, match="JAVA_HOME="):
        instance.find_java()


@pytest.mark.parametrize(
    ("says", "good"),
    [('openjdk version "17.0.15" 2025-04-15', True), ('openjdk version "21" 2023', True),
     ('java version "1.8.0_402"', False), ("gibberish", False)],
)  # fmt: skip
def test_which_java_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, good: bool) -> None:
    java = _java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if good:
        assert instance.find_java() == str(java)
    else:
        with pytest.raises(ServeError, match="needs Java 17"):
            instance.find_java()


def _record(folder: Path, process: psutil.Process, started: float | None = None) -> Instance:
    return Instance(
        folder=folder, scratch=folder / "scratch", pid=process.pid, started=started or process.create_time(),
        version="1", sha256="", inference_port=1, management_port=2, metrics_port=3,
    )  # fmt: skip


def test_a_pid_that_another_process_has_got_is_left_alone(tmp_path: Path) -> None:
    me = psutil.Process(os.getpid())
    record = _record(tmp_path, me, started=me.create_time() - 1000)
    assert record.process() is None
    record.stop()


def test_stop_returns_when_all_have_ended_even_the_stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_STOP_S", 1)
    stubborn = subprocess.Popen(["bash", "-c", "trap '' TERM; (trap '' TERM; sleep 60) & sleep 60; wait"])
    time.sleep(0.5)
    process = psutil.Process(stubborn.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) >= 2
    _record(tmp_path, process).stop()
    stubborn.wait(timeout=10)
    assert not any(instance.is_alive(one) for one in family)


def test_a_port_that_somebody_else_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(server, "verify", lambda *_: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not instance.is_free(port)
        from hire_model.tracking.versions import Archive, Version

        archive = Archive(Version("hire", "1", "", (), {}), tmp_path / "hire.mar", "")
        with pytest.raises(ServeError, match=f"Port {port} is taken"):
            server.serve(archive, tmp_path / "run", port=port)


def test_one_at_a_time(tmp_path: Path) -> None:
    with server._alone(tmp_path), pytest.raises(ServeError, match="Another 'hire serve' is at work"):
        server.stop(tmp_path)


def test_stop_ends_what_a_killed_command_left_behind(tmp_path: Path) -> None:
    """A server that was started, but never came into force."""
    left = subprocess.Popen(["sleep", "600"])
    places = [tmp_path / f"v{i}-abc" for i in range(3)]
    for place in places:
        place.mkdir()
    record = _record(places[1], psutil.Process(left.pid))
    (places[1] / "server.json").write_text(record.model_dump_json())
    assert [one.pid for one in server.stop(tmp_path)] == [left.pid]
    assert left.wait(timeout=10) != 0 and len(list(tmp_path.glob("v*"))) == 1, "the last one's logs are kept"


def test_no_server_no_status(tmp_path: Path) -> None:
    assert server.current(tmp_path) is None and server.status(tmp_path) is None and server.stop(tmp_path) == []


def test_the_configuration_listens_here_only_and_keeps_what_the_design_says() -> None:
    lines = (instance.CONFIG / instance.PROPERTIES).read_text("utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert all("127.0.0.1" in value for key, value in settings.items() if key.endswith("_address"))
    expected = {
        "disable_token_authorization": "false", "enable_model_api": "false", "use_env_allowed_urls": "false",
        "enable_envvars_config": "false", "install_py_dep_per_model": "false", "load_models": "hire=hire.mar",
        "default_response_timeout": "15", "metrics_mode": "prometheus", "decode_input_request": "false",
    }  # fmt: skip
    assert expected.items() <= settings.items()

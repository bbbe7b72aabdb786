"""docs/client.md: every block of it is run, against the servers that it names by their ports."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlflow
import pytest
from processes import Server
from registered import RegisteredModel

from hire_model.service.galleries import GALLERIES_VARIABLE
from serving import HANDLER
from serving.instance import Instance

pytestmark = pytest.mark.live
PAGE = HANDLER.parent.parent / "docs" / "client.md"


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def _bash(script: str) -> str:
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _documents(text: str) -> list[dict[str, object]]:
    """JSON documents one after the other, as curl prints them."""
    found, decoder = [], json.JSONDecoder()
    text = text.strip()
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:].strip()
    return found


def test_the_python_lines(torchserve: Instance, registered_model: RegisteredModel) -> None:
    code = _blocks("python")[0]
    for written, real in (("runs/serve", torchserve.folder.parent), ("datasets/scenes", registered_model.dataset)):
        assert written in code
        code = code.replace(written, str(real))
    exec(compile(code, str(PAGE), "exec"), {})


def test_the_curl_lines(torchserve: Instance) -> None:
    script = _blocks("sh")[0]
    assert script.count("curl -s") == 4 and "runs/serve/" in script
    script = script.replace("runs/serve/", f"{torchserve.folder.parent}/")
    script = script.replace(":8080", f":{torchserve.inference_port}")
    health, scores, explained, found = _documents(_bash(script))
    assert health == {"status": "Healthy"}
    assert "scores" in scores and "explanations" in explained and found["gallery"] == "scenes"


def test_the_lines_for_litserve(litserve: Server) -> None:
    assert litserve.keys is not None
    port, script = litserve.address.rpartition(":")[2], _blocks("sh")[0]
    script = script.replace("runs/serve/current/key_file.json", str(litserve.keys)).replace(":8080", f":{port}")
    token, search = script.split("\n\n")[0], script[script.rindex("curl -s") :]
    [found] = _documents(_bash(f"{token}\n{search}"))
    assert found["gallery"] == "scenes"


def test_the_lines_for_mlflow(
    mlflow_serve: Server, registered_model: RegisteredModel, galleries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [answer] = _documents(_bash(_blocks("sh")[1].replace("http://127.0.0.1:5001", mlflow_serve.address)))
    [row] = answer["predictions"]  # type: ignore[misc]
    assert row["status"] == 200 and json.loads(row["body"])["gallery"] == "scenes"
    monkeypatch.setenv(GALLERIES_VARIABLE, str(galleries))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered_model.settings.tracking.uri)
    try:
        names: dict[str, object] = {}
        exec(compile(_blocks("python")[1].replace("@champion", "@challenger"), str(PAGE), "exec"), names)
    finally:
        mlflow.set_tracking_uri(before)
    assert names["answer"]["status"].tolist() == [200]  # type: ignore[index]

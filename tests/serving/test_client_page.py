"""Run every code block of docs/client.md. The ports and folders are replaced by those of the test servers."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlflow
import pytest
from processes import Endpoint
from registered import RegisteredModel

from hire_model.service.galleries import GALLERIES_VARIABLE
from serving import HANDLER
from serving.address import find_front
from serving.process import Server

pytestmark = pytest.mark.live
PAGE = HANDLER.parent.parent / "docs" / "client.md"


def _find_blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def _run_bash(script: str) -> str:
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _parse_documents(text: str) -> list[dict[str, object]]:
    """Parse the concatenated JSON documents that several curl commands print."""
    documents, decoder = [], json.JSONDecoder()
    text = text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:].strip()
    return documents


def test_the_python_example_runs(torchserve: Server, registered_model: RegisteredModel) -> None:
    code = _find_blocks("python")[0]
    for documented, actual in (("runs/serve", torchserve.folder.parent), ("datasets/scenes", registered_model.dataset)):
        assert documented in code
        code = code.replace(documented, str(actual))
    exec(compile(code, str(PAGE), "exec"), {})


def test_the_curl_commands_work_with_torchserve(torchserve: Server) -> None:
    script = _find_blocks("sh")[0]
    assert script.count("curl -s") == 4 and "runs/serve/" in script
    script = script.replace("runs/serve/", f"{torchserve.folder.parent}/")
    front = find_front(torchserve.folder.parent)
    assert front is not None
    script = script.replace(":8080", f":{front.port}")
    health, scores, explained, results = _parse_documents(_run_bash(script))
    assert health == {"status": "Healthy"}
    assert "scores" in scores and "explanations" in explained and results["gallery"] == "scenes"


def test_the_curl_commands_work_with_litserve(litserve: Endpoint) -> None:
    assert litserve.keys is not None
    port, script = litserve.address.rpartition(":")[2], _find_blocks("sh")[0]
    script = script.replace("runs/serve/", f"{litserve.keys.parent}/").replace(":8080", f":{port}")
    variables = [line for line in script.splitlines() if re.match(r"[A-Z]+=", line)]
    search = script[script.rindex("curl -s") :]
    [answer] = _parse_documents(_run_bash("\n".join([*variables, search])))
    assert answer["gallery"] == "scenes"


def test_the_mlflow_examples_run(
    mlflow_serve: Endpoint, registered_model: RegisteredModel, galleries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [answer] = _parse_documents(_run_bash(_find_blocks("sh")[1].replace("http://127.0.0.1:5001", mlflow_serve.address)))
    [row] = answer["predictions"]  # type: ignore[misc]
    assert row["status"] == 200 and json.loads(row["body"])["gallery"] == "scenes"
    monkeypatch.setenv(GALLERIES_VARIABLE, str(galleries))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered_model.settings.tracking.uri)
    try:
        names: dict[str, object] = {}
        exec(compile(_find_blocks("python")[1].replace("@champion", "@challenger"), str(PAGE), "exec"), names)
    finally:
        mlflow.set_tracking_uri(before)
    assert names["answer"]["status"].tolist() == [200]  # type: ignore[index]

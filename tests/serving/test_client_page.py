"""Run every code block of docs/client.md. The ports and folders are replaced by those of the test servers."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlflow
import pytest
from processes import Endpoint, find_endpoint
from registered import RegisteredModel

from hire_model.data.store import Split
from hire_model.service.galleries import GALLERIES_VARIABLE
from serving import HANDLER
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


@pytest.mark.parametrize("name", ["torchserve", "gunicorn"])
def test_the_curl_commands_work(request: pytest.FixtureRequest, scenes: Split, name: str) -> None:
    running: Server = request.getfixturevalue(name)
    script, endpoint = _find_blocks("sh")[0], find_endpoint(running)
    assert script.count("curl -s") == 5 and "runs/serve/" in script
    for documented, actual in (
        ("runs/serve/", f"{running.folder.parent}/"), (":8080", ":" + endpoint.address.rpartition(":")[2]),
        ("scenes/1007", "scenes/" + scenes.image_id(0)), ("scenes/1008", "scenes/" + scenes.image_id(1)),
    ):  # fmt: skip
        assert documented in script
        script = script.replace(documented, actual)
    health, scores, explained, found, reranked = _parse_documents(_run_bash(script))
    assert health == {"status": "Healthy"}
    assert "scores" in scores and "explanations" in explained and found["gallery"] == "scenes"
    assert [sorted(result) for result in reranked["results"]] == [["index", "relevance_score"]]  # type: ignore[attr-defined]


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

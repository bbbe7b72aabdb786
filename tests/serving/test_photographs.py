"""Real features of 36 regions x 2,048 values: every server returns the scores of `Scorer`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from processes import Endpoint, find_endpoint, run_server
from registered import RegisteredModel, train_and_register

from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.store import Dataset, Split
from hire_model.packaging.archive import package
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import serialize_image
from hire_model.tracking.versions import Archive, find_archive
from serving import HANDLER, server
from serving.contract import PREDICTIONS
from serving.process import find_free_ports

PAIRS, SIDE = 40, 10  # pairs, and rows and columns of the matrix
Ask = Callable[[dict[str, Any]], dict[str, Any]]
SERVERS = [
    *(pytest.param(name, marks=pytest.mark.live) for name in ("torchserve", "gunicorn", "mlflow serve")),
    "pyfunc",
]


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The dev split of flickr8k_mini."""
    folder = tmp_path_factory.mktemp("photographs")
    options = ["--src", shared_data / "flickr8k_mini", "--split", "dev", "--out", folder / "in"]
    subprocess.run([sys.executable, shared_data / "unpack_features.py", *options], check=True, capture_output=True)
    write_dataset(open_scan(folder / "in"), Target(folder / "out"))
    return Dataset.open(folder / "out").split("dev")


@pytest.fixture(scope="module")
def trained(photographs: Split, tmp_path_factory: pytest.TempPathFactory) -> RegisteredModel:
    store = tmp_path_factory.mktemp("registered-photographs")
    return train_and_register(photographs.dataset.folder, store, {"data.train": "dev", "data.test": "dev"})


@pytest.fixture(scope="module")
def archive(trained: RegisteredModel, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    package("1", trained.settings, HANDLER, tmp_path_factory.mktemp("archived-photographs"))
    return find_archive("1", trained.settings.tracking)


def _ask_over_http(address: str, headers: dict[str, str]) -> Ask:
    def ask(request: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(address + PREDICTIONS, json=request, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def _ask_mlflow_serve(address: str) -> Ask:
    def ask(request: dict[str, Any]) -> dict[str, Any]:
        table = {"dataframe_split": {"columns": ["request"], "data": [[json.dumps(request)]]}}
        [row] = httpx.post(f"{address}/invocations", json=table, timeout=60).json()["predictions"]
        assert row["status"] == 200, row
        return json.loads(row["body"])

    return ask


def _ask_pyfunc(uri: str, name: str) -> Ask:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    mlflow.set_tracking_uri(before)
    return lambda request: json.loads(model.predict(pd.DataFrame({"request": [json.dumps(request)]}))["body"][0])


@pytest.fixture(params=SERVERS)
def ask(request: pytest.FixtureRequest, trained: RegisteredModel, archive: Archive, tmp_path: Path) -> Iterator[Ask]:
    [port], tracking = find_free_ports(1), trained.settings.tracking
    address = f"http://127.0.0.1:{port}"
    if request.param in ("torchserve", "gunicorn"):
        try:
            running = server.serve(archive, tmp_path, kind=request.param, port=port)
            yield _ask_over_http(address, find_endpoint(running).make_headers())
        finally:
            server.stop(tmp_path)
    elif request.param == "mlflow serve":
        options = ["models", "serve", "-m", f"models:/{tracking.model_name}/1", "--port", str(port)]
        environment = {"MLFLOW_TRACKING_URI": tracking.uri, "DO_NOT_TRACK": "true"}
        with run_server("mlflow", [*options, "--env-manager=local"], tmp_path, Endpoint(address), environment):
            yield _ask_mlflow_serve(address)
    else:
        yield _ask_pyfunc(tracking.uri, tracking.model_name)


def test_served_scores_equal_those_of_the_scorer(ask: Ask, trained: RegisteredModel, photographs: Split) -> None:
    scorer = Scorer.load(trained.folder)
    images, texts = [photographs.regions(row) for row in range(PAIRS)], photographs.texts[:PAIRS]
    sent = [json.loads(serialize_image(image)) for image in images]
    pairs = [{"image": image, "text": text} for image, text in zip(sent, texts, strict=True)]
    scores = np.array(ask({"pairs": pairs})["scores"])
    matrix = np.array(ask({"images": sent[:SIDE], "texts": texts[:SIDE]})["scores"])
    expected = scorer.predict(list(zip(images, texts, strict=True)))
    expected_matrix = scorer.predict([(image, text) for image in images[:SIDE] for text in texts[:SIDE]])
    print(
        f"largest difference {max(abs(scores - expected).max(), abs(matrix.ravel() - expected_matrix).max()):.1e}",
        end=" ",
    )
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(matrix.ravel(), expected_matrix, atol=1e-5)
    assert len(set(scores)) > PAIRS / 2

"""Real features, 36 regions of 2,048 numbers: every adapter serves the scores that `Scorer` gives."""

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
from processes import Server, running
from registered import RegisteredModel, register

from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.store import Dataset, Split
from hire_model.packaging.archive import package
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import serialize_image
from hire_model.tracking.versions import Archive, find_archive
from serving import HANDLER, instance, lit, server
from serving.contract import PREDICTIONS

PAIRS, SIDE = 40, 10
Asking = Callable[[dict[str, Any]], dict[str, Any]]
ADAPTERS = [
    *(pytest.param(name, marks=pytest.mark.live) for name in ("torchserve", "litserve", "mlflow serve")),
    "pyfunc",
]


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The dev split of flickr8k_mini."""
    folder = tmp_path_factory.mktemp("photographs")
    words = ["--src", shared_data / "flickr8k_mini", "--split", "dev", "--out", folder / "in"]
    subprocess.run([sys.executable, shared_data / "unpack_features.py", *words], check=True, capture_output=True)
    write_dataset(open_scan(folder / "in"), Target(folder / "out"))
    return Dataset.open(folder / "out").split("dev")


@pytest.fixture(scope="module")
def trained(photographs: Split, tmp_path_factory: pytest.TempPathFactory) -> RegisteredModel:
    place = tmp_path_factory.mktemp("registered-photographs")
    return register(photographs.dataset.folder, place, {"data.train": "dev", "data.test": "dev"})


@pytest.fixture(scope="module")
def archive(trained: RegisteredModel, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    package("1", trained.settings, HANDLER, tmp_path_factory.mktemp("archived-photographs"))
    return find_archive("1", trained.settings.tracking)


def _posted(address: str, headers: dict[str, str]) -> Asking:
    def ask(request: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(address + PREDICTIONS, json=request, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def _invoked(address: str) -> Asking:
    def ask(request: dict[str, Any]) -> dict[str, Any]:
        table = {"dataframe_split": {"columns": ["request"], "data": [[json.dumps(request)]]}}
        [row] = httpx.post(f"{address}/invocations", json=table, timeout=60).json()["predictions"]
        assert row["status"] == 200, row
        return json.loads(row["body"])

    return ask


def _predicted(uri: str, name: str) -> Asking:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    mlflow.set_tracking_uri(before)
    return lambda request: json.loads(model.predict(pd.DataFrame({"request": [json.dumps(request)]}))["body"][0])


@pytest.fixture(params=ADAPTERS)
def ask(request: pytest.FixtureRequest, trained: RegisteredModel, archive: Archive, tmp_path: Path) -> Iterator[Asking]:
    [port], tracking = instance.free_ports(1), trained.settings.tracking
    address = f"http://127.0.0.1:{port}"
    if request.param == "torchserve":
        try:
            found = server.serve(archive, tmp_path, port=port)
            yield _posted(found.address, {"Authorization": f"Bearer {found.token()}"})
        finally:
            server.stop(tmp_path)
    elif request.param == "litserve":
        options = ["--archive", str(archive.path), "--port", str(port), "--folder", str(tmp_path)]
        with running("serving.lit", options, tmp_path, Server(address, tmp_path / lit.KEYS), {}) as one:
            yield _posted(address, one.headers())
    elif request.param == "mlflow serve":
        options = ["models", "serve", "-m", f"models:/{tracking.model_name}/1", "--port", str(port)]
        environment = {"MLFLOW_TRACKING_URI": tracking.uri, "DO_NOT_TRACK": "true"}
        with running("mlflow", [*options, "--env-manager=local"], tmp_path, Server(address), environment):
            yield _invoked(address)
    else:
        yield _predicted(tracking.uri, tracking.model_name)


def test_scores_are_those_of_the_scorer(ask: Asking, trained: RegisteredModel, photographs: Split) -> None:
    scorer = Scorer.load(trained.folder)
    images, texts = [photographs.regions(row) for row in range(PAIRS)], photographs.texts[:PAIRS]
    sent = [json.loads(serialize_image(image)) for image in images]
    pairs = [{"image": image, "text": text} for image, text in zip(sent, texts, strict=True)]
    found = np.array(ask({"pairs": pairs})["scores"])
    square = np.array(ask({"images": sent[:SIDE], "texts": texts[:SIDE]})["scores"])
    expected = scorer.predict(list(zip(images, texts, strict=True)))
    crossed = scorer.predict([(image, text) for image in images[:SIDE] for text in texts[:SIDE]])
    print(f"largest difference {max(abs(found - expected).max(), abs(square.ravel() - crossed).max()):.1e}", end=" ")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(square.ravel(), crossed, atol=1e-5)
    assert len(set(found)) > PAIRS / 2

"""Servers of one archive and one gallery. Each is started once, for all tests that only send requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gallery_examples
import pytest
from collectors import Collector, run_collector
from processes import Endpoint, run_server
from registered import RegisteredModel

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.packaging.archive import package
from hire_model.packaging.verify import extract
from hire_model.service.galleries import GALLERIES_VARIABLE
from hire_model.tracking.versions import Archive, find_archive
from serving import HANDLER, server
from serving.process import Server, find_free_ports


@pytest.fixture(scope="session")
def scenes(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="session")
def galleries(registered_model: RegisteredModel, scenes: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gallery 'scenes', and 'stale', which another model encoded."""
    folder = tmp_path_factory.mktemp("galleries")
    build(artifact.load(registered_model.folder), scenes, folder / "scenes", captions=True)
    build(gallery_examples.make_model(scenes, seed=5), scenes, folder / "stale")
    return folder


@pytest.fixture(scope="session")
def archived(registered_model: RegisteredModel, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    package("1", registered_model.settings, HANDLER, tmp_path_factory.mktemp("archived"))
    return find_archive("1", registered_model.settings.tracking)


@pytest.fixture(scope="session")
def unpacked(archived: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked archive. Tests do not change it."""
    folder = tmp_path_factory.mktemp("unpacked")
    extract(archived.path, folder, archived.sha256)
    return folder


@pytest.fixture(scope="session")
def torchserve(archived: Archive, galleries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A TorchServe server. The parent of its folder is the folder of `hire serve`."""
    folder = tmp_path_factory.mktemp("torchserve")
    [port] = find_free_ports(1)
    try:
        yield server.serve(archived, folder, port=port, galleries=galleries)
    finally:
        server.stop(folder)


@pytest.fixture(scope="session")
def gunicorn(archived: Archive, galleries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gunicorn server with two workers. The parent of its folder is the folder of `hire serve`."""
    folder = tmp_path_factory.mktemp("gunicorn")
    [port] = find_free_ports(1)
    try:
        yield server.serve(archived, folder, kind="gunicorn", port=port, workers=2, galleries=galleries)
    finally:
        server.stop(folder)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which the servers that a test starts send their spans at once."""
    with run_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield collector


@pytest.fixture(scope="session")
def mlflow_serve(
    registered_model: RegisteredModel, galleries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """`mlflow models serve` in a folder without the code of this project: it uses the code of the model artifact."""
    folder, tracking = tmp_path_factory.mktemp("mlflow-serve"), registered_model.settings.tracking
    [port] = find_free_ports(1)
    options = ["models", "serve", "-m", f"models:/{tracking.model_name}/1", "--port", str(port), "--env-manager=local"]
    environment = {GALLERIES_VARIABLE: str(galleries), "MLFLOW_TRACKING_URI": tracking.uri, "DO_NOT_TRACK": "true"}
    with run_server("mlflow", options, folder, Endpoint(f"http://127.0.0.1:{port}"), environment) as endpoint:
        yield endpoint

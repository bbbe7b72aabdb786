"""The whole life of a model on a real `mlflow server`: log, register, fetch, promote, roll back, predict."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import mlflow
import pytest
from mlflow.entities.webhook import WebhookEvent

from hire_model.data.store import Dataset
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.settings import TrackingSettings, resolve
from hire_model.tracking import promotion, registry, versions
from hire_model.tracking.run import start_run
from serving.registry_hook import Receiver

pytestmark = pytest.mark.live


@pytest.fixture
def told(server: TrackingSettings) -> Iterator[Queue[str]]:
    """A line for each time that a webhook of the `mlflow server` reports a moved champion."""
    told, secret, event = Queue[str](), "sixteen bytes or more", WebhookEvent("model_version_alias", "created")
    with Receiver(0, secret.encode(), server.model_name, lambda: told.put("moved")) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        with versions.open_registry(server, "create a webhook") as client:
            client.create_webhook("hire-serve", f"http://127.0.0.1:{receiver.server_port}", [event], secret=secret)
        yield told
        receiver.shutdown()


def test_a_model_is_logged_registered_promoted_announced_and_fetched_over_http(
    server: TrackingSettings, told: Queue[str], tiny_dataset: Path, tmp_path: Path
) -> None:
    dataset = Dataset.open(tiny_dataset)
    split = dataset.split("test")
    settings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings
    folder = artifact.save(build_model(settings.model, dataset.split("train")), tmp_path / "model")
    pairs = [(split.regions(0), split.texts[0])]
    with start_run(server, "over http") as run:
        run.log_metrics({"dev/rsum": 3.0}, step=1)
        run.log_dataset(dataset.folder, "scenes", dataset.manifest.digest, "training")
        run.log_artifact(folder / "config.json", "evaluation")
        logged = registry.log_model(folder, pairs, server, {"full.rsum": "3"})
    assert (logged.uri, logged.version) == ("models:/hire-test@challenger", "1")
    assert mlflow.get_run(run.run_id).data.metrics["dev/rsum"] == 3.0
    fetched = registry.fetch(logged.uri, server)
    assert (fetched / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    promoted = promotion.promote(server, force="the first version")
    assert (promoted.champion, promoted.previous) == ("1", "")
    assert told.get(timeout=60) == "moved"
    assert registry.fetch("models:/hire-test@champion", server).is_dir()

    with start_run(server, "again"):
        registry.log_model(folder, pairs, server, {}, card="# A card")
    version = versions.find(server, "challenger")
    versions.log_artifact(server, version, folder / "config.json", "gate/version-2")
    assert versions.read_artifact(server, version, "gate/version-2/config.json") == (folder / "config.json").read_text()
    assert versions.read_artifact(server, version, "gate/version-2/other.json") is None

    promotion.promote(server, "2", force="the second version")
    assert told.get(timeout=60) == "moved"
    assert [each.aliases for each in versions.list_versions(server)] == [("challenger", "champion"), ("previous",)]
    assert promotion.roll_back(server).champion == "1"
    assert told.get(timeout=60) == "moved" and told.empty()
    assert [each.aliases for each in versions.list_versions(server)] == [("challenger", "previous"), ("champion",)]
    answer = mlflow.pyfunc.load_model(logged.uri).predict(registry.build_request_table([(split.regions(0), "a dog")]))
    assert answer["status"].tolist() == [200]

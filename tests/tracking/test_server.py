"""Against a real `mlflow server`: log, register, fetch, promote and go back."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from hire_model.data.store import Dataset
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.settings import TrackingSettings, resolve
from hire_model.tracking import promotion, registry, versions
from hire_model.tracking.run import start_run

pytestmark = pytest.mark.live


def test_log_register_promote_and_load_back(server: TrackingSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    split = dataset.split("test")
    settings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings
    folder = artifact.save(build_model(settings.model, dataset.split("train")), tmp_path / "model")
    with start_run(server, "over http") as run:
        run.log_metrics({"dev/rsum": 3.0}, step=1)
        run.log_dataset(dataset.folder, "scenes", dataset.manifest.digest, "training")
        run.log_artifact(folder / "config.json", "evaluation")
        registered = registry.log_model(folder, [(split.regions(0), split.texts[0])], server, {"full.rsum": "3"})
    assert (registered.uri, registered.version) == ("models:/hire-test@challenger", "1")
    assert mlflow.get_run(run.run_id).data.metrics["dev/rsum"] == 3.0
    back = registry.fetch(registered.uri, server)
    assert (back / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    promoted = promotion.promote(server, force="the first of its kind")
    assert (promoted.champion, promoted.previous) == ("1", "")
    assert registry.fetch("models:/hire-test@champion", server).is_dir()
    with start_run(server, "again"):
        registry.log_model(folder, [(split.regions(0), split.texts[0])], server, {}, card="# A card")
    version = versions.find(server, "challenger")
    versions.log_artifact(server, version, folder / "config.json", "gate/version-2")
    assert versions.read_artifact(server, version, "gate/version-2/config.json") == (folder / "config.json").read_text()
    assert versions.read_artifact(server, version, "gate/version-2/other.json") is None
    promotion.promote(server, "2", force="the second")
    assert [one.aliases for one in versions.list_versions(server)] == [("challenger", "champion"), ("previous",)]
    assert promotion.roll_back(server).champion == "1"
    assert [one.aliases for one in versions.list_versions(server)] == [("challenger", "previous"), ("champion",)]
    answer = mlflow.pyfunc.load_model(registered.uri).predict(
        registry.build_request_table([(split.regions(0), "a dog")])
    )
    assert answer["status"].tolist() == [200]

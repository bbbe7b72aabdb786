"""A trained model goes into the registry and comes back: the same folder, the same scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from hire_model.data.store import Dataset, Split
from hire_model.errors import DataError
from hire_model.model import artifact
from hire_model.model.build import build
from hire_model.scoring.scorer import Scorer
from hire_model.settings import ModelSettings, TrackingSettings, resolve
from hire_model.tracking import registry
from hire_model.tracking.run import TrackingError, track


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def model_folder(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the smallest preset."""
    torch.manual_seed(0)
    settings: ModelSettings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings.model
    model = build(settings, Dataset.open(tiny_dataset).split("train"))
    return artifact.save(model, tmp_path_factory.mktemp("model") / "model", {"note": "untrained"})


@dataclass(frozen=True)
class Logged:
    tracking: TrackingSettings
    registered: registry.Registered
    run_id: str


@pytest.fixture
def logged(tracking: TrackingSettings, model_folder: Path, split: Split) -> Iterator[Logged]:
    pairs = [(split.regions(0), split.texts[0])]
    with track(tracking, "logs a model") as run:
        found = registry.log_model(model_folder, pairs, tracking, {"full.rsum": "12.5"})
    yield Logged(tracking, found, run.run_id)


def test_registered_with_alias_tags_signature_and_example(logged: Logged) -> None:
    client, name = mlflow.MlflowClient(), logged.tracking.model_name
    version = client.get_model_version_by_alias(name, "challenger")
    assert str(version.version) == logged.registered.version and version.run_id == logged.run_id
    assert version.tags["full.rsum"] == "12.5"
    info = mlflow.models.get_model_info(logged.registered.uri)
    assert info.signature.inputs.input_names() == ["text", "image"]
    assert info.signature.outputs.input_names() == ["score"]
    assert info.saved_input_example_info is not None


def test_the_pyfunc_scores_as_the_scorer_does(logged: Logged, model_folder: Path, split: Split) -> None:
    pairs = [(split.regions(i % len(split.images)), text) for i, text in enumerate(split.texts[:12])]
    served = mlflow.pyfunc.load_model(logged.registered.uri)
    table = registry.pair_table(pairs).set_index(np.arange(100, 112))
    answer = served.predict(table)
    assert list(answer.columns) == ["score"] and list(answer.index) == list(range(100, 112))
    np.testing.assert_allclose(answer["score"], Scorer.load(model_folder).predict(pairs), atol=1e-5)
    assert len(set(answer["score"])) > 1


def test_nothing_is_pickled_and_the_code_is_inside(logged: Logged) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.registered.uri))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert "code/hire_model/model/hire.py" in names
    assert any(name.endswith("model.safetensors") for name in names)


def test_requirements_are_pins_that_an_index_knows() -> None:
    pins = dict(pin.split("==") for pin in registry.requirements())
    assert {"torch", "mlflow", "safetensors"} <= set(pins)
    assert not any("+" in version for version in pins.values())
    lock = (Path(__file__).parent.parent.parent / "requirements.lock").read_text().split()
    assert {f"{name}=={version}" for name, version in pins.items()} <= set(lock)


@pytest.mark.parametrize("kind", ["alias", "version", "run"])
def test_fetch_gives_the_folder_back(logged: Logged, model_folder: Path, kind: str) -> None:
    name, found = logged.tracking.model_name, logged.registered
    uri = {
        "alias": f"models:/{name}@challenger",
        "version": f"models:/{name}/{found.version}",
        "run": f"runs:/{logged.run_id}/model",
    }[kind]
    folder = registry.fetch(uri, logged.tracking)
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (model_folder / name).read_bytes()


def test_fetch_takes_a_folder_and_the_folder_of_a_run(model_folder: Path, tracking: TrackingSettings) -> None:
    assert registry.fetch(model_folder, tracking) == model_folder
    assert registry.fetch(model_folder.parent, tracking) == model_folder


def test_fetch_says_what_is_missing(tracking: TrackingSettings, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="models:/nobody@challenger is not in"):
        registry.fetch("models:/nobody@challenger", tracking)
    with pytest.raises(TrackingError, match=r"config\.json is missing"):
        registry.fetch(tmp_path, tracking)


def test_a_malformed_row_is_named(logged: Logged, split: Split) -> None:
    served = mlflow.pyfunc.load_model(logged.registered.uri)
    table = registry.pair_table([(split.regions(0), "a"), (split.regions(1), "b")])
    table.loc[1, "image"] = "{}"
    with pytest.raises(DataError, match=r"row 1: image\.features"):
        served.predict(table)


def test_logged_without_registering(tracking: TrackingSettings, model_folder: Path, split: Split) -> None:
    only = tracking.model_copy(update={"register_model": False, "model_name": "never"})
    with track(only, "logs only"):
        found = registry.log_model(model_folder, [(split.regions(0), "a")], only, {})
    assert found.version == "" and registry.fetch(found.uri, only).name
    with pytest.raises(TrackingError):
        registry.fetch("models:/never@challenger", only)

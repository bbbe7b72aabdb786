"""A trained model goes into the registry and comes back: the same folder, the same scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.scoring.matrix import map_predicates
from hire_model.scoring.scorer import Scorer
from hire_model.settings import ModelSettings, TrackingSettings, resolve
from hire_model.tracking import registry
from hire_model.tracking.connection import TrackingError
from hire_model.tracking.run import start_run


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def model_folder(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the smallest preset."""
    torch.manual_seed(0)
    settings: ModelSettings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings.model
    model = build_model(settings, Dataset.open(tiny_dataset).split("train"))
    return artifact.save(model, tmp_path_factory.mktemp("model") / "model", {"note": "untrained"})


@dataclass(frozen=True)
class Logged:
    tracking: TrackingSettings
    registered: registry.Registered
    run_id: str


@pytest.fixture
def logged(tracking: TrackingSettings, model_folder: Path, split: Split) -> Iterator[Logged]:
    pairs = [(split.regions(0), split.texts[0])]
    with start_run(tracking, "logs a model") as run:
        found = registry.log_model(model_folder, pairs, tracking, {"full.rsum": "12.5"})
    yield Logged(tracking, found, run.run_id)


def test_registered_with_alias_tags_signature_and_example(logged: Logged) -> None:
    client, name = mlflow.MlflowClient(), logged.tracking.model_name
    version = client.get_model_version_by_alias(name, "challenger")
    assert str(version.version) == logged.registered.version and version.run_id == logged.run_id
    assert version.tags["full.rsum"] == "12.5"
    info = mlflow.models.get_model_info(logged.registered.uri)
    assert info.signature.inputs.input_names() == ["request"]
    assert info.signature.outputs.input_names() == ["status", "body"]
    assert info.saved_input_example_info is not None


def test_the_pyfunc_scores_as_the_scorer_does(logged: Logged, model_folder: Path, split: Split) -> None:
    pairs = [(split.regions(i % len(split.images)), text) for i, text in enumerate(split.texts[:12])]
    served = mlflow.pyfunc.load_model(logged.registered.uri)
    table = pd.concat([registry.build_request_table(pairs), registry.build_request_table(pairs[:1])]).set_index(
        np.arange(100, 102)
    )
    answer = served.predict(table)
    assert list(answer.columns) == ["status", "body"] and list(answer.index) == [100, 101]
    told, expected = [json.loads(body) for body in answer["body"]], Scorer.load(model_folder).predict(pairs)
    np.testing.assert_allclose(told[0]["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(told[1]["scores"], expected[:1], atol=1e-5)
    assert told[0]["model"]["version"] == logged.registered.version and told[0]["model"]["run_id"] == logged.run_id
    assert len(set(told[0]["scores"])) > 1


def test_nothing_is_pickled_and_the_code_is_inside(logged: Logged) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.registered.uri))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert "code/hire_model/model/hire.py" in names
    assert any(name.endswith("model.safetensors") for name in names)


def test_requirements_are_pins_that_an_index_knows() -> None:
    pins = dict(pin.split("==") for pin in registry.pin_requirements())
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


def test_fetch_without_settings_asks_the_store_of_the_environment(
    logged: Logged, tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hire_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.tracking.uri)
    folder = hire_model.fetch(f"models:/{logged.tracking.model_name}@challenger")
    assert (folder / "config.json").is_file()


def test_fetch_says_what_is_missing(tracking: TrackingSettings, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="models:/nobody@challenger is not in"):
        registry.fetch("models:/nobody@challenger", tracking)
    with pytest.raises(TrackingError, match=r"config\.json is missing"):
        registry.fetch(tmp_path, tracking)


def test_a_malformed_row_is_answered_and_harms_no_other(logged: Logged, split: Split) -> None:
    served = mlflow.pyfunc.load_model(logged.registered.uri)
    good = registry.build_request_table([(split.regions(0), "a")])
    bad = pd.DataFrame({"request": ['{"pairs": [{"image": {"features": 3}, "text": "a"}]}']})
    answer = served.predict(pd.concat([good, bad], ignore_index=True))
    assert answer["status"].tolist() == [200, 400]
    assert json.loads(answer["body"][1])["path"] == "pairs[0].image.features"


def _in_other_numbers(image: ImageRegions, known: Sequence[str]) -> tuple[ImageRegions, list[str]]:
    """The same image as a data set has it that lists the model's predicates backwards, after one of its own."""
    names = ["of its own", *reversed(known)]
    relations = image.relations.copy()
    relations[:, 1] = [names.index(known[predicate]) for predicate in relations[:, 1]]
    unknown = np.array([[0, 0, 1]], relations.dtype)
    scores = np.append(image.relation_scores, np.float32(1))
    return replace(image, relations=np.concatenate([relations, unknown]), relation_scores=scores), names


def test_a_data_set_with_other_predicates_is_put_into_the_models(
    tracking: TrackingSettings, model_folder: Path, split: Split
) -> None:
    image = next(image for image in map(split.regions, range(8)) if len(set(image.relations[:, 1])) > 1)
    scorer = Scorer.load(model_folder)
    other, names = _in_other_numbers(image, scorer.model.predicates)
    mapping = map_predicates(scorer.model.predicates, names)
    right, wrong = registry.build_request_table([(image, "a")]), registry.build_request_table([(other, "a")])
    assert registry.build_request_table([(other, "a")], mapping).equals(right) and not wrong.equals(right)
    with start_run(tracking, "other predicates"):
        found = registry.log_model(model_folder, [(other, "a")], tracking, {}, names)
    example = mlflow.pyfunc.load_model(found.uri).input_example
    assert example.equals(right)
    np.testing.assert_allclose(
        scorer.predict([(image, "a")]), Scorer.load(model_folder, predicates=names).predict([(other, "a")])
    )


def test_logged_without_registering(tracking: TrackingSettings, model_folder: Path, split: Split) -> None:
    only = tracking.model_copy(update={"register_model": False, "model_name": "never"})
    with start_run(only, "logs only"):
        found = registry.log_model(model_folder, [(split.regions(0), "a")], only, {})
    assert found.version == "" and registry.fetch(found.uri, only).name
    with pytest.raises(TrackingError):
        registry.fetch("models:/never@challenger", only)

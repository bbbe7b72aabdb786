"""A model that is logged, registered and fetched again: the same files and the same scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from damage import flip_byte

from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.scoring.matrix import map_predicates
from hire_model.scoring.scorer import Scorer
from hire_model.settings import ModelSettings, TrackingSettings, resolve
from hire_model.tracking import registry, versions
from hire_model.tracking.connection import TrackingError, connect
from hire_model.tracking.run import start_run
from hire_model.tracking.trust import ArtifactChangedError


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def model_folder(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained model of the smallest preset."""
    torch.manual_seed(0)
    settings: ModelSettings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings.model
    model = build_model(settings, Dataset.open(tiny_dataset).split("train"))
    folder = artifact.save(model, tmp_path_factory.mktemp("model") / "model", {"note": "untrained"})
    (folder / "model_card.md").write_text("# A card\n")
    return folder


@dataclass(frozen=True)
class Logged:
    tracking: TrackingSettings
    model: registry.LoggedModel
    run_id: str


@pytest.fixture(scope="module")
def logged_once() -> dict[str, Logged]:
    """Return the model that the first test of this module logged, so that the others need not log it again."""
    return {}


@pytest.fixture
def logged(tracking: TrackingSettings, model_folder: Path, split: Split, logged_once: dict[str, Logged]) -> Logged:
    if "model" not in logged_once:
        with start_run(tracking, "log a model") as run:
            pairs = [(split.regions(0), split.texts[0])]
            model = registry.log_model(model_folder, pairs, tracking, {"full.rsum": "12.5"})
        logged_once["model"] = Logged(tracking, model, run.run_id)
    connect(tracking)
    return logged_once["model"]


def test_a_registered_model_has_alias_tags_signature_and_example(logged: Logged) -> None:
    client, name = mlflow.MlflowClient(), logged.tracking.model_name
    version = client.get_model_version_by_alias(name, "challenger")
    assert str(version.version) == logged.model.version and version.run_id == logged.run_id
    assert version.tags["full.rsum"] == "12.5"
    info = mlflow.models.get_model_info(logged.model.uri)
    assert info.signature.inputs.input_names() == ["request"]
    assert info.signature.outputs.input_names() == ["status", "body"]
    assert info.saved_input_example_info is not None


def test_the_pyfunc_gives_the_scores_of_the_scorer(logged: Logged, model_folder: Path, split: Split) -> None:
    pairs = [(split.regions(i % len(split.images)), text) for i, text in enumerate(split.texts[:12])]
    table = pd.concat([registry.build_request_table(pairs), registry.build_request_table(pairs[:1])])
    answer = mlflow.pyfunc.load_model(logged.model.uri).predict(table.set_index(np.arange(100, 102)))
    assert list(answer.columns) == ["status", "body"] and list(answer.index) == [100, 101]
    first, second = (json.loads(body) for body in answer["body"])
    expected = Scorer.load(model_folder).predict(pairs)
    np.testing.assert_allclose(first["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(second["scores"], expected[:1], atol=1e-5)
    assert first["model"]["version"] == logged.model.version and first["model"]["run_id"] == logged.run_id
    assert len(set(first["scores"])) > 1


def test_a_logged_model_holds_code_and_weights_and_no_pickle(logged: Logged) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.model.uri))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert "code/hire_model/model/hire.py" in names
    assert any(name.endswith("model.safetensors") for name in names)


def test_the_requirements_of_a_model_are_pins_of_the_lock_file() -> None:
    pins = dict(pin.split("==") for pin in registry.pin_requirements())
    assert {"torch", "mlflow", "safetensors"} <= set(pins)
    assert not any("+" in version for version in pins.values())
    pictures = dict(pin.split("==") for pin in registry.pin_requirements(pictures=True))
    assert pictures.keys() - pins.keys() == set(registry.PICTURE_REQUIRES)
    lock = (Path(__file__).parent.parent.parent / "requirements.lock").read_text().split()
    assert {f"{name}=={version}" for name, version in pictures.items()} <= set(lock)


@pytest.mark.parametrize("kind", ["alias", "version", "run"])
def test_fetch_returns_the_logged_folder_for_each_kind_of_address(
    logged: Logged, model_folder: Path, kind: str
) -> None:
    name = logged.tracking.model_name
    uri = {
        "alias": f"models:/{name}@challenger",
        "version": f"models:/{name}/{logged.model.version}",
        "run": f"runs:/{logged.run_id}/model",
    }[kind]
    folder = registry.fetch(uri, logged.tracking)
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (model_folder / name).read_bytes()


def test_a_registered_model_with_a_flipped_byte_is_neither_fetched_nor_loaded_by_mlflow(
    logged: Logged, model_folder: Path
) -> None:
    folder = registry.fetch(logged.model.uri, logged.tracking)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in model_folder.iterdir()) and len(names) == 4
    for name in names:
        with flip_byte(folder / name):
            with pytest.raises(ArtifactChangedError, match=rf"changed: {name}\."):
                registry.fetch(logged.model.uri, logged.tracking)
            with pytest.raises(HireError, match="SHA-256 of the model differs from the one in MLmodel"):
                mlflow.pyfunc.load_model(logged.model.uri)


def test_registration_records_the_digests_and_the_golden_scores(logged: Logged, model_folder: Path) -> None:
    version = versions.find(logged.tracking, logged.model.version)
    assert version.tags[versions.ARTIFACT_SHA256] == artifact.digest_table(artifact.hash_files(model_folder))
    pairs = registry.read_example_request(version, logged.tracking)["pairs"]
    assert json.loads(version.tags[versions.GOLDEN_SCORES]) == registry.score_pairs(model_folder, pairs)


def test_only_a_version_of_the_same_run_with_the_same_weights_is_found_again(
    logged: Logged, model_folder: Path, tmp_path: Path
) -> None:
    found = registry.find_registered(model_folder, logged.run_id, logged.tracking)
    assert found == logged.model
    assert registry.find_registered(model_folder, "another run", logged.tracking) is None
    model = artifact.load(model_folder)
    same = artifact.save(model, tmp_path / "same", {"date": "another"})
    assert registry.find_registered(same, logged.run_id, logged.tracking) == logged.model
    with torch.no_grad():
        next(model.parameters()).add_(1)
    other = artifact.save(model, tmp_path / "other")
    assert registry.find_registered(other, logged.run_id, logged.tracking) is None


def test_fetch_accepts_a_model_folder_and_the_folder_of_a_training(
    model_folder: Path, tracking: TrackingSettings
) -> None:
    assert registry.fetch(model_folder, tracking) == model_folder
    assert registry.fetch(model_folder.parent, tracking) == model_folder


def test_fetch_without_settings_uses_the_store_of_the_environment(
    logged: Logged, tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hire_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.tracking.uri)
    folder = hire_model.fetch(f"models:/{logged.tracking.model_name}@challenger")
    assert (folder / "config.json").is_file()


def test_fetch_names_the_missing_address_or_file(tracking: TrackingSettings, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="models:/unregistered@challenger is not in"):
        registry.fetch("models:/unregistered@challenger", tracking)
    with pytest.raises(TrackingError, match=r"config\.json is missing"):
        registry.fetch(tmp_path, tracking)


def test_fetch_with_a_misspelled_alias_suggests_the_nearest_one(logged: Logged) -> None:
    with pytest.raises(TrackingError, match=r"@chalenger is not in .*Did you mean 'challenger'\?"):
        registry.fetch(f"models:/{logged.tracking.model_name}@chalenger", logged.tracking)


def test_a_malformed_row_gets_an_error_and_the_others_their_scores(logged: Logged, split: Split) -> None:
    served = mlflow.pyfunc.load_model(logged.model.uri)
    good = registry.build_request_table([(split.regions(0), "a")])
    bad = pd.DataFrame({"request": ['{"pairs": [{"image": {"features": 3}, "text": "a"}]}']})
    answer = served.predict(pd.concat([good, bad], ignore_index=True))
    assert answer["status"].tolist() == [200, 400]
    assert json.loads(answer["body"][1])["path"] == "pairs[0].image.features"


def _renumber(image: ImageRegions, predicates: Sequence[str]) -> tuple[ImageRegions, list[str]]:
    """Return the image as in a data set with the reversed predicate list after an unknown one, and that list."""
    names = ["unknown predicate", *reversed(predicates)]
    relations = image.relations.copy()
    relations[:, 1] = [names.index(predicates[predicate]) for predicate in relations[:, 1]]
    unknown = np.array([[0, 0, 1]], relations.dtype)
    scores = np.append(image.relation_scores, np.float32(1))
    return replace(image, relations=np.concatenate([relations, unknown]), relation_scores=scores), names


def test_the_example_of_a_data_set_with_other_predicates_has_the_numbers_of_the_model(
    tracking: TrackingSettings, model_folder: Path, split: Split
) -> None:
    image = next(image for image in map(split.regions, range(8)) if len(set(image.relations[:, 1])) > 1)
    scorer = Scorer.load(model_folder)
    other, names = _renumber(image, scorer.model.predicates)
    mapping = map_predicates(scorer.model.predicates, names)
    right, wrong = registry.build_request_table([(image, "a")]), registry.build_request_table([(other, "a")])
    assert registry.build_request_table([(other, "a")], mapping).equals(right) and not wrong.equals(right)
    settings = tracking.model_copy(update={"model_name": "other-predicates"})
    with start_run(settings, "other predicates"):
        model = registry.log_model(model_folder, [(other, "a")], settings, {}, names)
    assert mlflow.pyfunc.load_model(model.uri).input_example.equals(right)
    np.testing.assert_allclose(
        scorer.predict([(image, "a")]), Scorer.load(model_folder, predicates=names).predict([(other, "a")])
    )


def test_a_model_can_be_logged_without_registering_it(
    tracking: TrackingSettings, model_folder: Path, split: Split
) -> None:
    only = tracking.model_copy(update={"register_model": False, "model_name": "never"})
    with start_run(only, "log only"):
        model = registry.log_model(model_folder, [(split.regions(0), "a")], only, {})
    assert model.version == "" and registry.fetch(model.uri, only).name
    with pytest.raises(TrackingError):
        registry.fetch("models:/never@challenger", only)

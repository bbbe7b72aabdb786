"""A loaded model scores as the saved one, and a damaged model folder is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import model_examples
import numpy as np
import pytest
import torch

from hire_model.errors import HireError
from hire_model.model import artifact


def score(model):
    random = np.random.default_rng(0)
    images = [model_examples.make_image(random) for _ in range(3)]
    captions = [model_examples.make_caption(random) for _ in range(3)]
    with torch.inference_mode():
        return model.score(
            model.encode_image(model_examples.make_regions(images)),
            model.encode_text(model_examples.make_tokens(model, captions)),
        ).total


def test_a_loaded_model_scores_exactly_as_the_saved_one(tmp_path):
    model = model_examples.make_model()
    loaded = artifact.load(artifact.save(model, tmp_path / "model", {"run": "test"}))
    assert torch.equal(score(model), score(loaded))
    assert loaded.predicates == model.predicates and loaded.settings == model.settings
    assert artifact.digest(loaded) == artifact.digest(model)
    assert artifact.read_config(tmp_path / "model")["facts"] == {"run": "test"}


def test_a_model_folder_has_three_files_and_no_pickle(tmp_path):
    artifact.save(model_examples.make_model(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_in_a_file_is_refused(tmp_path, name):
    artifact.save(model_examples.make_model(), tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-10] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HireError, match=rf"{name}.*SHA-256"):
        artifact.load(tmp_path)


def test_a_setting_that_a_later_release_added_does_not_change_the_digest_unless_it_is_used(monkeypatch):
    model = model_examples.make_model()
    digest, settings = artifact.digest(model), model.settings.model_dump(mode="json")
    added = ("implicit_edges", "predicate_vectors", "class_vectors", "region_weights")
    earlier = {name: value for name, value in settings.items() if name not in added}
    monkeypatch.setattr(model, "settings", SimpleNamespace(model_dump=lambda mode: earlier))
    assert artifact.digest(model) == digest
    monkeypatch.setattr(
        model, "settings", SimpleNamespace(model_dump=lambda mode: settings | {"region_weights": "area"})
    )
    assert artifact.digest(model) != digest


def test_the_digest_of_a_folder_covers_names_and_contents_of_all_files(tmp_path):
    digests = set()
    for files in ({"a": "1"}, {"b": "1"}, {"a": "2"}, {"a": "1", "b": ""}, {"a/b": "1"}, {}):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        assert artifact.hash_files(folder).keys() == files.keys()
        digests.add(artifact.digest_table(artifact.hash_files(folder)))
    assert len(digests) == 6


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(HireError, match="no model in this folder"):
        artifact.load(tmp_path / "nothing")
    with pytest.raises(HireError, match=r"Pass an MLflow address to hire_model\.fetch"):
        artifact.load("models:/hire@champion")
    artifact.save(model_examples.make_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(HireError, match=r"model\.safetensors: missing"):
        artifact.load(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    artifact.save(model_examples.make_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["dim"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(HireError, match="cannot be loaded"):
        artifact.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: [],
        lambda config: {"format": 1},
        lambda config: config | {"sha256": {}},  # the digests are required
        lambda config: config | {"sha256": None},
        lambda config: config | {"model": 3},
        lambda config: config | {"predicates": 3},
        lambda config: config | {"feature_dim": "many"},
    ],
)
def test_an_invalid_config_is_refused_with_one_line(tmp_path, change):
    artifact.save(model_examples.make_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(change(config)))
    with pytest.raises(HireError) as caught:
        artifact.load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HireError, match=r"file/model: the model cannot be written"):
        artifact.save(model_examples.make_model(), tmp_path / "file" / "model")
    (tmp_path / "model" / "model.safetensors").mkdir(parents=True)  # safetensors raises its own type of error
    with pytest.raises(HireError, match=r"the model cannot be written"):
        artifact.save(model_examples.make_model(), tmp_path / "model")

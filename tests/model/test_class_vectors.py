"""Class vectors belong to names, start without effect, and are set by the closed-form start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.loading import collate_regions
from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.class_vectors import ClassVectors
from hire_model.model.hire import Hire
from hire_model.model.warm_start import warm_start
from hire_model.scoring.matrix import compute_similarity, map_classes
from hire_model.scoring.scorer import Scorer
from hire_model.settings import TrainSettings
from hire_model.tracking.registry import build_request_table
from hire_model.training.damage import drop_regions


def build(split: Split, **settings: object) -> Hire:
    torch.manual_seed(0)
    return build_model(model_examples.make_settings(**settings), split).eval()


@pytest.fixture
def scorer() -> Scorer:
    return Scorer(model_examples.make_model(class_vectors=True))


@pytest.fixture
def image() -> ImageRegions:
    return model_examples.make_image(np.random.default_rng(0), regions=5)


def change_classes(image: ImageRegions, classes: list[int]) -> ImageRegions:
    return dataclasses.replace(image, classes=np.array(classes, np.int32))


def test_each_region_gets_the_vector_of_its_class(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    regions = collate_regions([split.regions(row) for row in range(4)])
    count = len(split.dataset.manifest.classes)
    regions = dataclasses.replace(regions, classes=regions.classes.clone())
    regions.classes[0, 0], regions.classes[1, 0] = -1, count + 3  # none, and one that the model does not have
    vectors = ClassVectors(count, 8)
    torch.nn.init.normal_(vectors.table.weight)
    expected, share = torch.zeros(*regions.mask.shape, 8), torch.zeros(4, count)
    for row, column in regions.mask.nonzero().tolist():
        if 0 <= (number := int(regions.classes[row, column])) < count:
            expected[row, column] = vectors.table.weight[number]
            share[row, number] += 1 / regions.mask[row].sum()
    torch.testing.assert_close(vectors(regions), expected)
    torch.testing.assert_close(vectors.count(regions), share)


def test_class_vectors_have_no_effect_before_training(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    model = build(split, class_vectors=True)
    assert model.classes == split.dataset.manifest.classes and model.feature_dim == split.dataset.manifest.feature_dim
    regions = collate_regions([split.regions(row) for row in range(3)])
    before = model.encode_image(regions).summary
    model.regions.classes = None
    torch.testing.assert_close(model.encode_image(regions).summary, before)


def test_a_model_without_class_vectors_ignores_class_names(tiny_dataset: Path) -> None:
    model = build(Dataset.open(tiny_dataset).split("train"))
    assert model.classes == () and model.regions.classes is None


def name_classes(split: Split) -> list[str]:
    """Return captions that say nothing but the classes of their images."""
    names = split.dataset.manifest.classes
    images = [" ".join(names[number] for number in split.regions(row).classes) for row in range(len(split.images))]
    return [images[row] for row in split.owner]


def test_the_closed_form_start_with_class_vectors_ranks_better_than_without(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Dataset.regions

    def read_noise(dataset: Dataset, image: int) -> ImageRegions:
        regions = read(dataset, image)
        noise = np.random.default_rng(image).normal(size=regions.features.shape)
        return dataclasses.replace(regions, features=noise.astype(np.float32))

    monkeypatch.setattr(Dataset, "regions", read_noise)
    train, hidden = (Dataset.open(tiny_dataset).split(name) for name in ("train", "dev"))
    ranks = {}
    for used in (False, True):
        model = build(train, class_vectors=used, predicate_vectors=True)
        warm_start(model, train, build_caption_bank(model, name_classes(train)), TrainSettings())
        scores = compute_similarity(model, hidden, build_caption_bank(model, name_classes(hidden)))
        ranks[used] = (scores >= scores[hidden.owner, range(scores.shape[1])]).sum(axis=0).mean()
        assert model.explicit is not None and model.explicit.predicates is not None
        assert model.explicit.predicates.table.weight.any()
    assert ranks[True] < 0.6 * ranks[False], ranks


def test_class_ids_of_another_data_set_are_mapped_by_name(scorer: Scorer, image: ImageRegions) -> None:
    assert scorer.model.classes == ("dog", "cat", "man")
    other = Scorer(scorer.model, classes=("man", "unicorn", "dog", "cat"))
    expected = scorer.predict([(change_classes(image, [0, 1, 2, -1, -1]), "a dog")])
    np.testing.assert_array_equal(other.predict([(change_classes(image, [2, 3, 0, 1, -1]), "a dog")]), expected)
    assert scorer.predict([(change_classes(image, [2, 1, 0, -1, -1]), "a dog")]) != expected


def test_unknown_classes_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    mapping = map_classes(("dog", "cat"), ("cat", "unicorn"))
    assert mapping is not None and mapping.tolist() == [1, -1]
    assert "1 of 2 classes" in caplog.text
    caplog.clear()
    map_classes((), ("cat", "unicorn"))  # a model without class vectors
    assert not caplog.text


def test_an_unknown_class_scores_as_no_class(scorer: Scorer, image: ImageRegions) -> None:
    expected = scorer.predict([(change_classes(image, [-1] * 5), "a dog")])
    np.testing.assert_array_equal(
        scorer.predict([(change_classes(image, [3, 999, 2**31 - 1, -1, 3]), "a dog")]), expected
    )
    other = Scorer(scorer.model, classes=("unicorn",))
    np.testing.assert_array_equal(other.predict([(change_classes(image, [0, 5, -1, 0, 0]), "a dog")]), expected)


def test_a_dropped_region_loses_its_class(image: ImageRegions) -> None:
    regions = collate_regions([change_classes(image, [0, 1, 2, 0, 1])])
    dropped = torch.tensor([[False, True, False, False, True]])
    vectors = ClassVectors(3, 4)
    torch.nn.init.normal_(vectors.table.weight)
    left = vectors(drop_regions(regions, dropped))[0]
    assert not left[[1, 4]].any() and left[[0, 2, 3]].any(dim=1).all()


def test_a_loaded_model_has_the_class_names_and_scores_as_the_saved_one(
    scorer: Scorer, image: ImageRegions, tmp_path: Path
) -> None:
    folder = artifact.save(scorer.model, tmp_path / "model")
    loaded = Scorer.load(folder, classes=("man", "dog"))
    assert loaded.model.classes == ("dog", "cat", "man")
    assert artifact.digest(loaded.model) == artifact.digest(scorer.model)
    pair = (change_classes(image, [0, 2, -1, 0, -1]), "a dog")
    renumbered = (change_classes(image, [1, 0, -1, 1, -1]), "a dog")
    np.testing.assert_array_equal(loaded.predict([renumbered]), scorer.predict([pair]))


def test_a_model_from_before_class_vectors_loads_with_the_same_digest(tmp_path: Path) -> None:
    model = model_examples.make_model()
    folder = artifact.save(model, tmp_path)
    config = json.loads((folder / artifact.CONFIG).read_text())
    del config["classes"], config["model"]["class_vectors"]
    (folder / artifact.CONFIG).write_text(json.dumps(config))
    loaded = artifact.load(folder)
    assert loaded.classes == () and artifact.digest(loaded) == artifact.digest(model)


def test_the_example_request_has_the_class_ids_of_the_model(image: ImageRegions) -> None:
    mapping = map_classes(model_examples.CLASSES, ("man", "unicorn", "dog"))
    other = build_request_table([(change_classes(image, [0, 1, 2, -1, 0]), "a dog")], None, mapping)
    assert other.equals(build_request_table([(change_classes(image, [2, -1, 0, -1, 2]), "a dog")]))

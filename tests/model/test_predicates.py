"""Predicate vectors equal a loop over relations, start without effect, and are set by the closed-form start."""

from __future__ import annotations

from pathlib import Path

import model_examples
import torch

from hire_model.data.loading import collate_regions
from hire_model.data.store import Dataset, Split
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.predicates import PredicateVectors
from hire_model.model.warm_start import warm_start
from hire_model.settings import TrainSettings


def build(split: Split, **settings: object) -> Hire:
    torch.manual_seed(0)
    return build_model(model_examples.make_settings(**settings), split).eval()


def test_each_region_gets_the_sum_of_the_vectors_of_its_relations(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    regions = collate_regions([split.regions(row) for row in range(4)])
    count = len(split.dataset.manifest.predicates)
    vectors = PredicateVectors(count, 8)
    torch.nn.init.normal_(vectors.table.weight)
    expected = torch.zeros(*regions.mask.shape, 8)
    frequency = torch.zeros(4, count)
    for image, subject, predicate, object_ in regions.relations.tolist():
        expected[image, subject] += vectors.table.weight[predicate]
        expected[image, object_] += vectors.table.weight[count + predicate]
        frequency[image, predicate] += 1 / regions.mask[image].sum()
    every = torch.arange(len(regions.relations))
    assert len(every) > 4
    torch.testing.assert_close(vectors(regions, every), expected)
    torch.testing.assert_close(vectors.count(regions, every), frequency)
    nothing = vectors(regions, every[:0])
    assert nothing.shape == expected.shape and not nothing.any()


def test_predicate_vectors_have_no_effect_before_training(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    model = build(split, predicate_vectors=True)
    regions = collate_regions([split.regions(row) for row in range(3)])
    before = model.encode_image(regions).summary
    assert model.explicit is not None and model.explicit.predicates is not None
    model.explicit.predicates = None
    torch.testing.assert_close(model.encode_image(regions).summary, before)


def test_without_graphs_or_predicates_there_are_no_vectors(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    assert build(split, predicate_vectors=True, graphs="none").explicit is None
    spatial = build(split, predicate_vectors=True, graphs="spatial").explicit
    assert spatial is not None and spatial.predicates is None


def test_the_closed_form_start_uses_the_predicates_of_an_image(tiny_dataset: Path) -> None:
    split = Dataset.open(tiny_dataset).split("train")
    settings = TrainSettings(warm_image_ridge=4, warm_text_ridge=4)
    names = split.dataset.manifest.predicates
    images = [
        " ".join(names[number] for number in split.regions(row).relations[:, 1]) for row in range(len(split.images))
    ]
    texts = [images[row] for row in split.owner]  # captions that say nothing but the predicates
    correlations = {}
    for used in (False, True):
        model = build(split, predicate_vectors=used)
        correlations[used] = warm_start(model, split, build_caption_bank(model, texts), settings)
        if used:
            assert model.explicit is not None and model.explicit.predicates is not None
            first, second = model.explicit.predicates.table.weight.chunk(2)
            assert first.abs().max() > 0
            torch.testing.assert_close(first, second)
    assert float(correlations[True][:3].mean()) > float(correlations[False][:3].mean()) + 0.02

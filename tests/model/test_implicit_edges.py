"""Implicit edges complete the graphs, correct explicit edges, and learn from their own loss alone."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch

from hire_model.batch import Batch, Regions
from hire_model.model.hire import Hire
from hire_model.training.losses import compute_edge_loss


@pytest.fixture
def model() -> Hire:
    return model_examples.make_model(implicit_edges=True)


@pytest.fixture
def regions() -> Regions:
    random = np.random.default_rng(0)
    return model_examples.make_regions([model_examples.make_image(random, regions=count) for count in (5, 3, 6)])


def make_batch(model: Hire, regions: Regions) -> Batch:
    return Batch(regions, model_examples.make_tokens(model, ["a dog", "a cat", "a man"]))


def drop_relations(regions: Regions) -> Regions:
    return dataclasses.replace(regions, relations=regions.relations[:0], relation_scores=regions.relation_scores[:0])


def compute_edges(model: Hire, regions: Regions) -> torch.Tensor:
    with torch.inference_mode():
        edges = model.encode_image(regions).edges
    assert edges is not None
    return edges


def test_pairs_without_a_relation_get_the_predicted_one(model: Hire, regions: Regions) -> None:
    assert model.explicit is not None and model.explicit.semantic is not None
    predicted = model.predict_edges(regions)
    explicit, filled = (model.explicit.semantic(regions, edges) for edges in (None, predicted))
    related = explicit[0] != 0
    pairs = regions.mask[:, :, None] & regions.mask[:, None] & ~torch.eye(regions.mask.shape[1], dtype=torch.bool)
    assert related.any() and (pairs & ~related).any()
    assert (filled[0] != 0)[pairs].all() and not (filled != 0)[:, ~pairs].any()


def test_an_unlikely_relation_counts_less_than_a_likely_one(model: Hire, regions: Regions) -> None:
    assert model.explicit is not None and model.explicit.semantic is not None
    semantic = model.explicit.semantic
    assert semantic.trust is not None
    torch.nn.init.ones_(semantic.trust)
    image, subject, predicate, object_ = regions.relations[semantic.select_relations(regions)[0]].tolist()
    weights = []
    for logit in (-9.0, 9.0):
        predicted = model.predict_edges(regions)
        predicted.semantic.data[image, subject, object_, predicate] = logit
        weights.append(semantic(regions, predicted)[0, image, subject, object_].item())
    assert weights[0] < weights[1]


def test_the_matching_loss_does_not_train_the_prediction(model: Hire, regions: Regions) -> None:
    batch = make_batch(model, regions)
    model.score(model.encode_image(regions), model.encode_text(batch.tokens)).total.sum().backward()
    assert model.implicit_edges is not None and model.explicit is not None and model.explicit.semantic is not None
    assert all(weight.grad is None for weight in model.implicit_edges.parameters())
    assert model.explicit.semantic.filled is not None and model.explicit.semantic.filled.grad is not None
    model.zero_grad(set_to_none=True)
    compute_edge_loss(model, batch).backward()
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"implicit_edges"}


def test_the_prediction_learns_the_relations_before_damage(model: Hire, regions: Regions) -> None:
    damaged = dataclasses.replace(make_batch(model, drop_relations(regions)), true_relations=regions.relations)
    assert model.implicit_edges is not None
    optimizer = torch.optim.Adam(model.implicit_edges.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        loss = compute_edge_loss(model, damaged)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    image, subject, _, object_ = regions.relations[regions.relations[:, 1] != regions.relations[:, 3]].unbind(1)
    probabilities = model.predict_edges(damaged.regions).semantic.softmax(dim=-1)[image, subject, object_]
    assert (probabilities[:, -1] < 0.5).float().mean() > 0.8


def test_the_edge_loss_is_finite_without_relations_boxes_or_pairs(model: Hire) -> None:
    image = model_examples.make_image(np.random.default_rng(0), regions=1, relations=0)
    image = dataclasses.replace(image, boxes=np.full_like(image.boxes, np.nan))
    regions = model_examples.make_regions([image, image])
    assert compute_edge_loss(model, Batch(regions, model_examples.make_tokens(model, ["a", "a"]))).isfinite()


def test_without_the_setting_a_model_has_no_new_weights() -> None:
    names = set(model_examples.make_model().state_dict())
    assert not [name for name in names if "implicit_edges" in name or "filled" in name or "trust" in name]


def test_before_training_the_prediction_adds_hardly_any_edge(regions: Regions) -> None:
    from hire_model.model.implicit_edges import ImplicitEdges

    torch.manual_seed(0)
    predicted = ImplicitEdges(4, 3)(torch.randn(*regions.mask.shape, 4), regions)
    for logits in (predicted.semantic, predicted.spatial):
        assert logits.softmax(dim=-1)[..., :-1].sum(dim=-1).max() < 0.05

"""The graphs are masked, symmetric where they should be, and empty where nothing is known."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.boxes import SPATIAL_LABELS, compute_iou, label_spatial_relations
from hire_model.model.graph import SemanticGraph, SpatialGraph


def regions(seed: int = 0, **more):
    random = np.random.default_rng(seed)
    return model_examples.regions([model_examples.image(random, count, **more) for count in (6, 3, 1)])


def boxes(*rows):
    return torch.tensor([rows], dtype=torch.float32)


@pytest.mark.parametrize("kind", ["iou", "direction11", "polar"])
def test_spatial_edges_only_between_boxed_regions(kind):
    found = regions()
    found.boxes[0, 1] = found.boxes[0, 0] + 0.01  # neighbours by IoU, too
    graph = SpatialGraph(model_examples.settings(spatial=kind))(found)
    allowed = found.boxed[:, :, None] & found.boxed[:, None]
    assert not graph[:, ~allowed].any()
    assert not graph.diagonal(dim1=2, dim2=3).any(), "the step adds it, or does without"
    assert graph[0][allowed].any()


def test_iou_graph_is_symmetric():
    graph = SpatialGraph(model_examples.settings(spatial="iou", edge_labels="none"))(regions())
    torch.testing.assert_close(graph, graph.transpose(2, 3))


def test_semantic_graph_without_labels_is_symmetric_and_binary():
    found = regions(relations=12)
    graph = SemanticGraph(model_examples.settings(edge_labels="none"), len(model_examples.PREDICATES))(found)
    torch.testing.assert_close(graph, graph.transpose(2, 3))
    assert set(graph.unique().tolist()) == {0.0, 1.0}


def test_semantic_edges_are_the_strong_ones_and_no_loops():
    found = regions(relations=12)
    graph = SemanticGraph(model_examples.settings(edge_labels="none", relation_top=3, relation_min_score=0.3), 3)
    for image in range(3):
        own = found.relations[:, 0] == image
        scores = found.relation_scores[own]
        strongest = scores.argsort(descending=True)[:3]
        rows = found.relations[own][strongest][scores[strongest] >= 0.3]
        expected = torch.zeros(6, 6)
        for _, subject, _, object_ in rows.tolist():
            if subject != object_:
                expected[subject, object_] = expected[object_, subject] = 1
        torch.testing.assert_close(graph(found)[0, image], expected)


def test_a_relation_and_its_inverse_weigh_differently():
    graph = SemanticGraph(model_examples.settings(), len(model_examples.PREDICATES))
    assert graph.labels is not None
    with torch.no_grad():
        graph.labels.bias.copy_(torch.arange(6.0))
    one = dataclasses.replace(regions(), relations=torch.tensor([[0, 2, 1, 4]]), relation_scores=torch.tensor([0.9]))
    found = graph(one)[0, 0].detach()
    assert found[2, 4] == pytest.approx(np.exp(1)) and found[4, 2] == pytest.approx(np.exp(4), rel=1e-5)


def test_without_relations_the_semantic_graph_is_empty():
    found = regions()
    none = dataclasses.replace(found, relations=found.relations[:0], relation_scores=found.relation_scores[:0])
    assert not SemanticGraph(model_examples.settings(), 3)(none).any()
    assert not SemanticGraph(model_examples.settings(), 0)(none).any()


def test_iou_values():
    found = compute_iou(boxes([0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.9, 0.9, 1, 1], [0.3, 0.3, 0.3, 0.3]))[0]
    assert found[0, 1] == pytest.approx(1 / 3)
    assert found[0, 2] == 0 and found[3, 3] == 0 and found[0, 0] == pytest.approx(1)


def test_spatial_labels_name_what_is_seen():
    def names(i, j, found):
        return SPATIAL_LABELS[found[0, i, j]] if found[0, i, j] >= 0 else None

    found = label_spatial_relations(
        boxes([0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.3, 0.3], [0.12, 0.1, 0.52, 0.5], [0.6, 0.1, 0.7, 0.5],
              [0, 0, 0.01, 0.01], [0.99, 0.99, 1, 1])
    )  # fmt: skip
    assert names(1, 0, found) == "inside" and names(0, 1, found) == "covers"
    assert names(0, 2, found) == names(2, 0, found) == "overlap"
    assert names(4, 5, found) is None  # further apart than half of the diagonal
    east, west = names(0, 3, found), names(3, 0, found)
    assert east and west and east.startswith("direction") and west.startswith("direction") and east != west
    assert (found.diagonal(dim1=1, dim2=2) == -1).all()


def test_the_eight_directions_are_eight():
    angles = torch.arange(8) * torch.pi / 4 + 0.1
    centres = torch.cat([torch.tensor([[0.5, 0.5]]), 0.5 + 0.3 * torch.stack([angles.cos(), angles.sin()], dim=1)])
    found = label_spatial_relations(torch.cat([centres - 0.01, centres + 0.01], dim=1)[None])
    assert sorted(found[0, 0, 1:].tolist()) == list(range(3, 11))

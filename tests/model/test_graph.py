"""Graphs have edges only where boxes or relations support them, and the right weights."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.boxes import SPATIAL_LABELS, compute_iou, label_spatial_relations
from hire_model.model.graph import SemanticGraph, SpatialGraph


def make_regions(seed: int = 0, **more):
    random = np.random.default_rng(seed)
    return model_examples.make_regions([model_examples.make_image(random, count, **more) for count in (6, 3, 1)])


def make_boxes(*rows):
    return torch.tensor([rows], dtype=torch.float32)


@pytest.mark.parametrize("kind", ["iou", "direction11", "polar"])
def test_spatial_edges_join_only_regions_with_boxes(kind):
    regions = make_regions()
    regions.boxes[0, 1] = regions.boxes[0, 0] + 0.01  # they overlap, so the iou graph has an edge too
    graph = SpatialGraph(model_examples.make_settings(spatial=kind))(regions)
    allowed = regions.boxed[:, :, None] & regions.boxed[:, None]
    assert not graph[:, ~allowed].any()
    assert not graph.diagonal(dim1=2, dim2=3).any(), "GraphStep adds the diagonal"
    assert graph[0][allowed].any()


def test_the_iou_graph_is_symmetric():
    graph = SpatialGraph(model_examples.make_settings(spatial="iou", edge_labels="none"))(make_regions())
    torch.testing.assert_close(graph, graph.transpose(2, 3))


def test_the_semantic_graph_without_labels_is_symmetric_and_binary():
    regions = make_regions(relations=12)
    graph = SemanticGraph(model_examples.make_settings(edge_labels="none"), len(model_examples.PREDICATES))(regions)
    torch.testing.assert_close(graph, graph.transpose(2, 3))
    assert set(graph.unique().tolist()) == {0.0, 1.0}


def test_only_the_strongest_relations_make_edges_and_loops_make_none():
    regions = make_regions(relations=12)
    graph = SemanticGraph(model_examples.make_settings(edge_labels="none", relation_top=3, relation_min_score=0.3), 3)
    for image in range(3):
        of_image = regions.relations[:, 0] == image
        scores = regions.relation_scores[of_image]
        strongest = scores.argsort(descending=True)[:3]
        rows = regions.relations[of_image][strongest][scores[strongest] >= 0.3]
        expected = torch.zeros(6, 6)
        for _, subject, _, object_ in rows.tolist():
            if subject != object_:
                expected[subject, object_] = expected[object_, subject] = 1
        torch.testing.assert_close(graph(regions)[0, image], expected)


def test_a_relation_and_its_inverse_have_different_weights():
    graph = SemanticGraph(model_examples.make_settings(), len(model_examples.PREDICATES))
    assert graph.labels is not None
    with torch.no_grad():
        graph.labels.bias.copy_(torch.arange(6.0))
    one = dataclasses.replace(
        make_regions(), relations=torch.tensor([[0, 2, 1, 4]]), relation_scores=torch.tensor([0.9])
    )
    weights = graph(one)[0, 0].detach()
    assert weights[2, 4] == pytest.approx(np.exp(1)) and weights[4, 2] == pytest.approx(np.exp(4), rel=1e-5)


def test_without_relations_the_semantic_graph_is_empty():
    regions = make_regions()
    none = dataclasses.replace(regions, relations=regions.relations[:0], relation_scores=regions.relation_scores[:0])
    assert not SemanticGraph(model_examples.make_settings(), 3)(none).any()
    assert not SemanticGraph(model_examples.make_settings(), 0)(none).any()


def test_iou_equals_hand_computed_values():
    overlaps = compute_iou(make_boxes([0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.9, 0.9, 1, 1], [0.3, 0.3, 0.3, 0.3]))[
        0
    ]
    assert overlaps[0, 1] == pytest.approx(1 / 3)
    assert overlaps[0, 2] == 0 and overlaps[3, 3] == 0 and overlaps[0, 0] == pytest.approx(1)


def test_spatial_labels_match_the_positions_of_the_boxes():
    def name(i, j):
        return SPATIAL_LABELS[labels[0, i, j]] if labels[0, i, j] >= 0 else None

    labels = label_spatial_relations(
        make_boxes([0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.3, 0.3], [0.12, 0.1, 0.52, 0.5], [0.6, 0.1, 0.7, 0.5],
              [0, 0, 0.01, 0.01], [0.99, 0.99, 1, 1])
    )  # fmt: skip
    assert name(1, 0) == "inside" and name(0, 1) == "covers"
    assert name(0, 2) == name(2, 0) == "overlap"
    assert name(4, 5) is None  # the distance is more than half of the diagonal
    east, west = name(0, 3), name(3, 0)
    assert east and west and east.startswith("direction") and west.startswith("direction") and east != west
    assert (labels.diagonal(dim1=1, dim2=2) == -1).all()


def test_eight_directions_get_eight_labels():
    angles = torch.arange(8) * torch.pi / 4 + 0.1
    centres = torch.cat([torch.tensor([[0.5, 0.5]]), 0.5 + 0.3 * torch.stack([angles.cos(), angles.sin()], dim=1)])
    labels = label_spatial_relations(torch.cat([centres - 0.01, centres + 0.01], dim=1)[None])
    assert sorted(labels[0, 0, 1:].tolist()) == list(range(3, 11))

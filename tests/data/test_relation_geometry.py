"""Relations by geometry rules: each rule, and what holds for any boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.data.relations.geometry import PREDICATES, GeometryRules
from hire_model.data.relations.maker import Triplets, make_block

SQUARE = (100, 100)


def relate(
    boxes: object, classes: object = None, top: int = 2, size: tuple[int, int] = SQUARE, scores: object = None
) -> list[tuple[int, str, int]]:
    triplets = make(boxes, classes, top, size, scores)
    return [(s, PREDICATES[p], o) for _, s, p, o in triplets.rows.tolist()]


def make(
    boxes: object, classes: object = None, top: int = 2, size: tuple[int, int] = SQUARE, scores: object = None
) -> Triplets:
    array = np.array(boxes, np.float32)
    ids = np.zeros(len(array)) if classes is None else np.array(classes)
    known = np.full(len(array), np.nan) if scores is None else np.array(scores)
    return GeometryRules(top).relate(make_block([(array, ids, known)], np.array([size])))


def draw_boxes(seed: int, count: int) -> np.ndarray:
    corners = np.random.default_rng(seed).random((count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1e-3], axis=1).clip(0, 1)


LARGE = [0.4, 0.4, 0.7, 0.7]


@pytest.mark.parametrize(
    ("small", "predicate"),
    [
        ([0.5, 0.5, 0.6, 0.6], "inside"),
        ([0.65, 0.5, 0.75, 0.6], "overlapping"),
        ([0.1, 0.5, 0.2, 0.6], "left of"),
        ([0.8, 0.5, 0.9, 0.6], "right of"),
        ([0.5, 0.1, 0.6, 0.2], "above"),
        ([0.5, 0.8, 0.6, 0.9], "below"),
        ([0.69, 0.5, 0.79, 0.6], "right of"),  # touches, but less than half of it overlaps
    ],
)
def test_the_smaller_box_is_related_to_the_larger_one(small: list[float], predicate: str) -> None:
    assert relate([small, LARGE]) == [(0, predicate, 1)]
    assert relate([LARGE, small]) == [(1, predicate, 0)]


def test_directions_are_measured_in_pixels() -> None:
    boxes = [[0.2, 0.3, 0.3, 0.4], [0.5, 0.7, 0.8, 0.9]]
    assert relate(boxes, size=(100, 100)) == [(0, "above", 1)]
    assert relate(boxes, size=(400, 100)) == [(0, "left of", 1)]
    assert relate(boxes, size=(0, 0)) == relate(boxes, size=(100, 100))


def test_the_image_cells_of_a_grid_and_regions_without_a_box_have_no_relations() -> None:
    boxes = [[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0, 0, 0.5, 0.5], [np.nan] * 4]
    assert relate(boxes, [3, 0, 1, -1, 2]) == [(1, "left of", 2)]
    assert relate(boxes[:1] + boxes[3:4], [3, -1]) == []
    without_names = relate(boxes, [-1] * 5)
    assert {(1, "inside", 3), (2, "right of", 3)} <= set(without_names)


def test_scores_fall_with_the_distance_and_with_uncertain_regions() -> None:
    boxes = [[0, 0, 0.1, 0.1], [0.2, 0, 0.4, 0.2], [0.7, 0, 1, 0.3]]
    near, far = (make([boxes[0], boxes[i]]).scores[0] for i in (1, 2))
    assert 0 < far < near < 1
    assert make(boxes[:2], scores=[0.5, 0.8]).scores[0] == pytest.approx(near / 2)


@given(st.integers(0, 10_000), st.integers(2, 36), st.integers(1, 4))
def test_any_boxes_give_sound_relations(seed: int, count: int, top: int) -> None:
    boxes = draw_boxes(seed, count)
    triplets = make(boxes, top=top)
    _, subject, predicate, object_ = triplets.rows.T
    assert (np.bincount(subject, minlength=1) <= top).all() and (subject != object_).all()
    pairs = {frozenset(pair) for pair in zip(subject.tolist(), object_.tolist(), strict=True)}
    assert len(pairs) == len(subject)  # one relation per pair
    assert ((triplets.scores > 0) & (triplets.scores <= 1)).all() and (np.diff(triplets.scores) <= 0).all()
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    holds = {
        "left of": x[subject] <= x[object_] + 1e-6,
        "right of": x[subject] >= x[object_] - 1e-6,
        "above": y[subject] <= y[object_] + 1e-6,
        "below": y[subject] >= y[object_] - 1e-6,
    }
    for name, true in holds.items():
        assert true[predicate == PREDICATES.index(name)].all()


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_an_image_has_the_same_relations_alone_and_in_a_block(seed: int, count: int) -> None:
    images = [(draw_boxes(seed + i, count + 2 * i), np.zeros(count + 2 * i), np.ones(count + 2 * i)) for i in range(3)]
    sizes = np.array([[100, 100], [300, 200], [0, 0]])
    block = GeometryRules().relate(make_block(images, sizes))
    for i, image in enumerate(images):
        alone = GeometryRules().relate(make_block([image], sizes[i : i + 1]))
        for got, expected in zip(block.select(i), alone.select(0), strict=True):
            assert np.array_equal(got, expected)


def test_a_mirrored_image_exchanges_left_and_right() -> None:
    boxes = draw_boxes(5, 12)
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    exchanged = {"left of": "right of", "right of": "left of"}
    assert sorted((s, exchanged.get(p, p), o) for s, p, o in relate(boxes)) == sorted(relate(mirrored))


def test_the_digest_depends_on_the_number_of_relations() -> None:
    assert GeometryRules(1).digest != GeometryRules(2).digest == GeometryRules(2).digest

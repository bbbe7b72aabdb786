"""Stage 1, and the share of each region in the means over an image."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch

from hire_model.batch import Regions
from hire_model.data.store import ImageRegions

NONE = [np.nan] * 4
BY_AREA = model_examples.make_model(region_weights="area")


def make_regions(*images: list[list[float]]) -> Regions:
    """Return regions with these boxes, x1 y1 x2 y2 as fractions, and random features."""
    random = np.random.default_rng(0)
    return model_examples.make_regions([_make_image(random, boxes) for boxes in images])


def _make_image(random: np.random.Generator, boxes: list[list[float]]) -> ImageRegions:
    image = model_examples.make_image(random, len(boxes), relations=0)
    return ImageRegions(
        image.features, np.array(boxes, np.float32), image.classes, image.scores, image.relations, image.relation_scores
    )


def compute_shares(*images: list[list[float]]) -> list[list[float]]:
    shares = BY_AREA.regions.compute_shares(make_regions(*images))
    assert shares is not None
    return shares.tolist()


def test_the_share_of_a_region_is_its_area_over_the_sum_of_areas() -> None:
    whole, quarter = [0, 0, 1, 1], [0.5, 0, 1, 0.5]
    assert compute_shares([whole, quarter]) == [[pytest.approx(0.8), pytest.approx(0.2)]]


def test_a_region_without_a_box_counts_as_the_mean_box() -> None:
    assert compute_shares([[0, 0, 1, 1], [0, 0, 0.5, 1], NONE]) == [pytest.approx([4 / 9, 2 / 9, 3 / 9])]


@pytest.mark.parametrize("box", [NONE, [0.5, 0.5, 0.5, 0.5]], ids=["no box", "boxes without an area"])
def test_without_any_area_all_regions_count_alike(box: list[float]) -> None:
    assert compute_shares([box, box]) == [[0.5, 0.5]]


def test_padding_has_no_share() -> None:
    shares = compute_shares([[0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]])
    assert shares == [[1, 0], [0.5, 0.5]]


def test_a_small_region_counts_less_in_the_summary_of_a_model_that_weighs_by_area() -> None:
    regions = make_regions([[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]])
    changed = dataclasses.replace(regions, features=regions.features.clone())
    changed.features[0, 1] += 1
    moved = {}
    for weights in ("equal", "area"):
        model = model_examples.make_model(region_weights=weights, graphs="none", image_implicit=False)
        with torch.inference_mode():
            before, after = (model.encode_image(x).summary for x in (regions, changed))
        moved[weights] = float((before - after).norm())
    assert moved["area"] < 0.1 * moved["equal"]


def test_training_projects_real_regions_as_evaluation_does() -> None:
    model = model_examples.make_model(input_dropout=0.0)
    random = np.random.default_rng(0)
    regions = model_examples.make_regions([model_examples.make_image(random, count) for count in (1, 5, 3)])
    with torch.no_grad():
        trained, evaluated = (model.train(mode).regions(regions)[regions.mask] for mode in (True, False))
    torch.testing.assert_close(trained, evaluated)

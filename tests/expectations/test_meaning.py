"""The reference model: what it measures, what it leaves out, and which split it reports."""

from __future__ import annotations

import numpy as np
import pytest

from expectations.duplicates import _find_candidates
from expectations.meaning import captions, regions
from expectations.meaning.maps import CHANCE, MIN_ROWS, Pairings, measure_agreement
from expectations.meaning.sample import IMAGES_PER_SPLIT, MAX_PARTS, SplitValues, draw_images
from expectations.meaning.table import compare_dimensions

SPLITS = np.array(["train"] * 600 + ["dev"] * 200 + ["test"] * 200)


def make_pairs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return x [1000, 20] and y [1000, 10], a noisy linear map of x."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((len(SPLITS), 20)).astype(np.float32)
    y = x @ random.standard_normal((20, 10)).astype(np.float32)
    return x, y + random.standard_normal(y.shape).astype(np.float32)


def rank(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the mean rank of each split."""
    agreement = measure_agreement(Pairings(x, [y], np.arange(len(x)), SPLITS), "train")
    return {name: float(np.nanmean(agreement.ranks[name == SPLITS])) for name in ("train", "dev", "test")}


def test_rows_that_belong_together_rank_high() -> None:
    assert min(rank(*make_pairs()).values()) > 0.9


@pytest.mark.parametrize("split", ["train", "dev"])
def test_only_the_shuffled_split_ranks_near_chance(split: str) -> None:
    x, y = make_pairs()
    rows = np.flatnonzero(split == SPLITS)
    y[rows] = y[np.random.default_rng(0).permutation(rows)]
    assert {name for name, mean in rank(x, y).items() if mean < CHANCE} == {split}


def test_too_few_rows_are_not_measured() -> None:
    x, y = make_pairs()
    few = slice(0, MIN_ROWS)  # each half has too few
    agreement = measure_agreement(Pairings(x[few], [y[few]], np.arange(MIN_ROWS), SPLITS[few]), "train")
    assert np.isnan(agreement.ranks).all()


def test_a_shifted_reference_split_is_found_and_still_teaches_the_others() -> None:
    x, y = make_pairs()
    train = SPLITS == "train"
    y[train] = np.roll(y[train], 1, axis=0)
    agreement = measure_agreement(
        Pairings(x, [y, np.roll(y, 1, axis=0), np.roll(y, -1, axis=0)], np.arange(len(x)), SPLITS), "train", refit=True
    )
    found = {name: agreement.find_better(name == SPLITS, np.arange(len(x))) for name in ("train", "dev", "test")}
    assert found == {"train": 2, "dev": 0, "test": 0}
    assert agreement.ranks[~train].mean() > 0.9


def test_the_sample_of_a_large_split_is_bounded_and_parts_do_not_cross_splits() -> None:
    splits = np.repeat(["train", "dev"], [100_000, 300])
    images, parts = draw_images(splits, np.random.default_rng(0))
    assert len(images) == IMAGES_PER_SPLIT + 300 and (np.diff(images) > 0).all()
    assert parts.max() == MAX_PARTS and set(splits[images[parts == MAX_PARTS]]) == {"dev"}


def make_values(low: float, high: float, non_zero: float = 1.0) -> SplitValues:
    """Return the values of two dimensions; the first has numbers from `low` to `high`."""
    deviation = np.array([high - low, 1.0])
    mean = np.array([(low + high) / 2, 0.0])
    return SplitValues(1000, mean, deviation, deviation == 0, np.array([non_zero, 1.0]))


@pytest.mark.parametrize(
    ("here", "there", "found"),
    [
        (make_values(0.5, 0.5), make_values(0, 1), {"constant_here"}),
        (make_values(0.5, 0.5), make_values(0.5, 0.5), {"constant"}),
        (make_values(0, 0, 0.0), make_values(0, 0, 0.0), set()),  # a unit that is always zero, in sparse features
        (make_values(0, 0, 0.0), make_values(0, 1, 0.01), set()),  # a rare unit may be zero in a whole split
        (make_values(0, 5), make_values(0, 1), {"drifted"}),
        (make_values(0, 1), make_values(0, 1), set()),
    ],
)
def test_constant_and_drifted_dimensions(here: SplitValues, there: SplitValues, found: set[str]) -> None:
    row = compare_dimensions(here, [there], there)
    assert {name for name, text in row.items() if text} == found


def test_candidates_are_found_regardless_of_scale_also_among_many_images() -> None:
    random = np.random.default_rng(0)
    for size in (1000, 30_000):
        pooled = np.abs(random.standard_normal((size, 32))).astype(np.float32)
        pooled[7] = 1.5 * pooled[900]
        assert _find_candidates(pooled).tolist() == [[7, 900]]


def test_class_names_rank_low_if_the_vocabulary_is_shifted() -> None:
    random = np.random.default_rng(0)
    present = random.random((200, 6)) < 0.3
    names = ("dog", "cat", "red bus", "tree", "man", "boat")
    heads = ["dog", "cat", "bus", "tree", "man", "boat"]

    class Words:
        def count(self, vocabulary: list[str]) -> np.ndarray:
            return np.stack([present[:, heads.index(word)] for word in vocabulary], axis=1).astype(np.float32)

        def take(self, bags: np.ndarray) -> np.ndarray:
            return bags

    rows = np.ones(200, bool)
    assert captions.rank_names(present, names, Words(), rows) > 0.9  # type: ignore[arg-type]
    assert captions.rank_names(present, names[1:] + names[:1], Words(), rows) < 0.75  # type: ignore[arg-type]
    assert np.isnan(captions.rank_names(present[:, :3], names[:3], Words(), rows))  # type: ignore[arg-type]


def test_boxes_of_an_image_are_compared_with_each_other() -> None:
    whole, half, none = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0], [np.nan] * 4
    boxes = np.array([whole, whole, whole, half, whole, none, none])
    found = regions.find_equal_boxes(boxes, np.array([0, 0, 1, 1, 2, 2, 3]), 4)
    np.testing.assert_array_equal(found, [1.0, 0.0, np.nan, np.nan])

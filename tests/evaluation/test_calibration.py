"""Calibration against what is known: a generator that is calibrated, one that boasts, and the formula by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hire_model.evaluation.calibration import compute_calibration_error, measure_calibration


def _world(sharpness: float, seed: int = 0, images: int = 40, captions: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits of which the right image is drawn by their softmax: calibrated at temperature 1 / sharpness."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((images, captions))
    odds = np.exp(logits) / np.exp(logits).sum(axis=0)
    owner = np.array([random.choice(images, p=odds[:, caption]) for caption in range(captions)])
    return (logits * sharpness).astype(np.float32), owner


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 20.0])
def test_the_temperature_is_found_and_the_error_is_small(sharpness: float) -> None:
    found = measure_calibration(*_world(sharpness))
    assert found is not None
    assert found.temperature == pytest.approx(sharpness, rel=0.05)
    assert found.ece < 0.04 and found.confidence == pytest.approx(found.accuracy, abs=0.03)


def test_confidence_that_says_nothing_about_success_is_an_error() -> None:
    """Half of the captions are certain and wrong, half are certain and right: no temperature mends that."""
    random, captions = np.random.default_rng(1), 400
    owner = random.integers(0, 20, captions)
    matrix = np.zeros((20, captions), np.float32)
    said = np.where(np.arange(captions) % 4 < 2, owner, (owner + 1) % 20)
    matrix[said, np.arange(captions)] = 1 + random.random(captions)  # as sure of a wrong one as of a right one
    matrix[:, ::2] *= 0.1  # and where it hesitates it is right no less often
    found = measure_calibration(matrix, owner)
    assert found is not None and found.accuracy == pytest.approx(0.5) and found.ece > 0.2


def test_a_tie_is_no_success() -> None:
    owner = np.arange(20)
    found = measure_calibration(np.zeros((20, 20), np.float32), owner)
    assert found is not None and found.accuracy == 0.0 and found.confidence == pytest.approx(1 / 20)


def test_too_few_images_are_not_judged() -> None:
    assert measure_calibration(np.eye(3, dtype=np.float32), np.arange(3)) is None
    assert measure_calibration(np.zeros((8, 4), np.float32), np.array([0, 2, 4, 6])) is None, "one half has no caption"


def test_the_error_by_hand() -> None:
    """Two bins: 0.9 says the first and two of four hit; 0.3 says the second and one of two hits."""
    confidence, hit = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3]), np.array([1, 1, 0, 0, 1, 0], bool)
    assert compute_calibration_error(confidence, hit) == pytest.approx(4 / 6 * 0.4 + 2 / 6 * 0.2)
    assert compute_calibration_error(np.ones(3), np.ones(3, bool)) == 0.0

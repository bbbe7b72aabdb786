"""Calibration: of calibrated scores, of unreliable scores, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hire_model.evaluation.calibration import compute_calibration_error, measure_calibration


def draw_calibrated(
    scale: float, seed: int = 0, images: int = 40, captions: int = 4000
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores, and the right images by their softmax with temperature `scale`, so that this one is calibrated."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((images, captions))
    odds = np.exp(logits) / np.exp(logits).sum(axis=0)
    owner = np.array([random.choice(images, p=odds[:, caption]) for caption in range(captions)])
    return (logits * scale).astype(np.float32), owner


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_the_temperature_of_calibrated_scores_is_found_and_the_error_is_small(scale: float) -> None:
    calibration = measure_calibration(*draw_calibrated(scale))
    assert calibration is not None
    assert calibration.temperature == pytest.approx(scale, rel=0.05)
    assert calibration.ece < 0.04 and calibration.confidence == pytest.approx(calibration.accuracy, abs=0.03)


def test_confidence_that_is_independent_of_accuracy_gives_a_large_error() -> None:
    """Half of the captions are right at high and at low confidence, so no temperature fits."""
    random, captions = np.random.default_rng(1), 400
    owner = random.integers(0, 20, captions)
    matrix = np.zeros((20, captions), np.float32)
    chosen = np.where(np.arange(captions) % 4 < 2, owner, (owner + 1) % 20)
    matrix[chosen, np.arange(captions)] = 1 + random.random(captions)
    matrix[:, ::2] *= 0.1  # low confidence for every second caption
    calibration = measure_calibration(matrix, owner)
    assert calibration is not None and calibration.accuracy == pytest.approx(0.5) and calibration.ece > 0.2


def test_a_tie_counts_as_wrong() -> None:
    calibration = measure_calibration(np.zeros((20, 20), np.float32), np.arange(20))
    assert calibration is not None and calibration.accuracy == 0.0
    assert calibration.confidence == pytest.approx(1 / 20)


def test_there_is_no_result_with_too_few_images_or_without_odd_images() -> None:
    assert measure_calibration(np.eye(3, dtype=np.float32), np.arange(3)) is None
    assert measure_calibration(np.zeros((8, 4), np.float32), np.array([0, 2, 4, 6])) is None


def test_the_calibration_error_equals_values_computed_by_hand() -> None:
    """Two bins: confidence 0.9 with two hits of four, and 0.3 with one hit of two."""
    confidence, hit = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3]), np.array([1, 1, 0, 0, 1, 0], bool)
    assert compute_calibration_error(confidence, hit) == pytest.approx(4 / 6 * 0.4 + 2 / 6 * 0.2)
    assert compute_calibration_error(np.ones(3), np.ones(3, bool)) == 0.0

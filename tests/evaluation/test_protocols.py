"""Evaluating a matrix under a protocol: folds, intervals, ensembles, names and refused splits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hire_model.errors import HireError
from hire_model.evaluation.bootstrap import bootstrap_intervals
from hire_model.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    average_matrices,
    check_fit,
    evaluate_matrix,
    rank_under_protocol,
)
from hire_model.evaluation.result import Result, write_json

RECALLS = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]


def draw_matrix(images: int = 40, each: int = 5, seed: int = 0, signal: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a similarity matrix whose matching pairs score higher by `signal`, and its caption-to-image map."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), each)
    scores = random.standard_normal((images, len(owner))).astype(np.float32)
    scores[owner, np.arange(len(owner))] += signal
    return scores, owner


def test_five_folds_equal_the_mean_of_five_evaluations() -> None:
    scores, owner = draw_matrix(50)
    shuffled = np.random.default_rng(1).permutation(len(owner))  # captions need not be in the order of their images
    scores, owner = scores[:, shuffled], owner[shuffled]
    whole = evaluate_matrix(
        scores, owner, Protocol("mini-5fold", images=50, captions_per_image=5, folds=5), bootstrap=0
    )
    parts = []
    for start in range(0, 50, 10):
        columns = np.flatnonzero((owner >= start) & (owner < start + 10))
        block = scores[start : start + 10][:, columns]
        parts.append(evaluate_matrix(block, owner[columns] - start, "full", bootstrap=0))
    for key, value in whole.metrics().items():
        name = key.removeprefix("mini-5fold/")
        assert value == pytest.approx(np.mean([part.metrics()[f"full/{name}"] for part in parts])), key
    assert whole.rsum > evaluate_matrix(scores, owner, bootstrap=0).rsum  # a smaller gallery is easier


def test_all_folds_count() -> None:
    scores, owner = draw_matrix(60)
    scores[12:] = 0
    folded = evaluate_matrix(scores, owner, Protocol("mini-5fold", 60, 5, folds=5), bootstrap=0)
    first = evaluate_matrix(scores[:12, :60], owner[:60], bootstrap=0)
    assert first.rsum > 0
    assert folded.rsum == pytest.approx(first.rsum / 5)


def test_the_image_of_a_caption_is_given_by_the_map() -> None:
    """And not by a fifth of the caption's index."""
    owner = np.array([2, 0, 1, 2, 2, 0, 2])
    scores = (np.arange(3)[:, None] == owner).astype(np.float32)
    assert evaluate_matrix(scores, owner, bootstrap=0).rsum == 600.0


def test_the_named_protocols_have_the_published_sizes() -> None:
    sizes = {name: (p.images, p.captions_per_image, p.folds) for name, p in PROTOCOLS.items()}
    assert sizes == {
        "full": (0, 0, 1),
        "f30k-1k": (1000, 5, 1),
        "coco-5k": (5000, 5, 1),
        "coco-1k-5fold": (5000, 5, 5),
    }


@pytest.mark.parametrize(
    ("owner", "images", "protocol", "message"),
    [
        (np.repeat(np.arange(1014), 5), 1014, "f30k-1k", "1000 images with 5 captions each.*has 1014 images"),
        (np.repeat(np.arange(1000), 5), 1000, "coco-5k", "expects 5000 images"),
        (np.repeat(np.arange(1000), 5), 1000, "coco-1k-5fold", "'full', which accepts any split"),
        (np.append(np.repeat(np.arange(1000), 5), 7), 1000, "f30k-1k", "image 7 has 6 captions"),
        (np.zeros(3, int), 3, Protocol("odd", folds=2), "do not divide 3"),
        (np.zeros(3, int), 3, "coco5k", "Did you mean 'coco-5k'"),
        (np.zeros(0, int), 3, "full", "'full'.*no captions"),
        (np.zeros(0, int), 1000, "f30k-1k", "the split has 1000 images and no captions"),
    ],
)
def test_check_fit_names_what_does_not_fit(
    owner: np.ndarray, images: int, protocol: str | Protocol, message: str
) -> None:
    with pytest.raises(HireError, match=message):
        check_fit(owner, images, protocol)


def test_evaluate_matrix_refuses_a_split_that_does_not_fit() -> None:
    with pytest.raises(HireError, match="f30k-1k"):
        evaluate_matrix(*draw_matrix(), "f30k-1k")


@pytest.mark.parametrize("protocol", ["full", Protocol("folded", folds=4)])
def test_intervals_contain_the_metric(protocol: str | Protocol) -> None:
    result = evaluate_matrix(*draw_matrix(200, signal=1.0), protocol, bootstrap=400)
    for direction in (result.i2t, result.t2i):
        assert set(direction.intervals) == {"r1", "r5", "r10"}
        for key, (low, high) in direction.intervals.items():
            assert 0 <= low < getattr(direction, key) < high <= 100
    low, high = result.rsum_interval or (0.0, 0.0)
    assert low < result.rsum < high


def test_16_times_the_queries_give_intervals_of_a_quarter_of_the_width() -> None:
    scores, owner = draw_matrix(60)
    ranks = rank_under_protocol(scores, owner, "full")
    widths = []
    for times in (1, 16):
        many = np.concatenate([owner + 60 * i for i in range(times)])
        i2t, t2i, fold = np.tile(ranks.i2t, times), np.tile(ranks.t2i, times), np.tile(ranks.fold, times)
        intervals = bootstrap_intervals(i2t, t2i, many, fold, draws=2000, seed=0)
        widths.append(np.array([high - low for low, high in intervals.values()]))
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.25)


def test_copies_of_captions_do_not_narrow_the_interval() -> None:
    """Captions of one image are drawn together."""
    scores, owner = draw_matrix(200, each=1, signal=2.5)
    once = evaluate_matrix(scores, owner, bootstrap=2000).t2i.intervals["r1"]
    fivefold = evaluate_matrix(np.repeat(scores, 5, axis=1), np.repeat(owner, 5), bootstrap=2000).t2i.intervals["r1"]
    assert fivefold == pytest.approx(once, abs=1.0)


def test_intervals_contain_the_true_value_in_about_95_percent_of_the_cases() -> None:
    hits = 0
    random = np.random.default_rng(5)
    for trial in range(60):
        rows = random.random(150) < 0.4  # 150 queries that succeed at rate 40 %
        scores = np.where(np.eye(150, dtype=bool), rows[None, :] * 2.0, 1.0)
        low, high = evaluate_matrix(scores, np.arange(150), bootstrap=300, seed=trial).t2i.intervals["r1"]
        hits += low <= 40 <= high
    assert 50 <= hits <= 60


def test_the_same_seed_gives_the_same_interval() -> None:
    problem = draw_matrix()
    assert evaluate_matrix(*problem, seed=3) == evaluate_matrix(*problem, seed=3)
    assert evaluate_matrix(*problem, seed=3).rsum_interval != evaluate_matrix(*problem, seed=4).rsum_interval


def test_the_metrics_do_not_depend_on_the_order_of_images_and_captions() -> None:
    scores, owner = draw_matrix()
    random = np.random.default_rng(2)
    rows, columns = random.permutation(len(scores)), random.permutation(len(owner))
    moved = evaluate_matrix(scores[rows][:, columns], np.argsort(rows)[owner[columns]], bootstrap=0)
    assert moved.metrics() == pytest.approx(evaluate_matrix(scores, owner, bootstrap=0).metrics())


def test_title_and_metric_names_mark_an_ensemble() -> None:
    (first, owner), (second, _) = draw_matrix(seed=0), draw_matrix(seed=1)
    both = average_matrices(first, second)
    assert both.matrix == pytest.approx((first + second) / 2)
    result = evaluate_matrix(both, owner, bootstrap=10)
    assert result.models == 2
    assert "ensemble of 2 models" in result.title
    assert all(name.startswith("full/ensemble2/") for name in result.metrics())
    assert result.rsum > evaluate_matrix(first, owner, bootstrap=0).rsum


def test_an_ensemble_needs_two_matrices_of_the_same_shape() -> None:
    with pytest.raises(HireError, match="two models or more"):
        average_matrices(np.zeros((2, 2)))
    with pytest.raises(HireError, match="same split"):
        average_matrices(np.zeros((2, 2)), np.zeros((2, 3)))


def test_metric_names_contain_the_protocol_and_are_valid_in_mlflow() -> None:
    metrics = evaluate_matrix(*draw_matrix(), bootstrap=20).metrics()
    assert {f"full/{name}" for name in RECALLS} <= set(metrics)
    assert {f"full/{name}_low" for name in [*RECALLS, "rsum"]} <= set(metrics)
    assert all(re.fullmatch(r"[\w\-. :/]+", name) for name in metrics)
    assert metrics["full/rsum"] == pytest.approx(sum(metrics[f"full/{name}"] for name in RECALLS))
    assert not any(name.endswith("_low") for name in evaluate_matrix(*draw_matrix(), bootstrap=0).metrics())


def test_a_result_survives_json(tmp_path: Path) -> None:
    result = evaluate_matrix(*draw_matrix(), bootstrap=20).model_copy(update={"facts": {"model": "modèle “x”"}})
    path = write_json(result, tmp_path / "new" / "figures.json")
    assert Result.model_validate_json(path.read_text("utf-8")) == result
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_ranks_are_computed_within_the_fold() -> None:
    ranks = rank_under_protocol(*draw_matrix(20), Protocol("folded", folds=4))
    assert ranks.fold.tolist() == np.repeat(np.arange(4), 5).tolist()
    assert ranks.t2i.max() <= 5

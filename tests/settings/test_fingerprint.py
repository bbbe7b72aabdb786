"""Settings that identify a training, and the split that a version is evaluated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hire_model.settings import DataSettings, list_keys, resolve
from hire_model.settings.fingerprint import (
    changes_result,
    compute_training_key,
    hash_json,
    select_result_settings,
    select_weight_settings,
)


def make_key(*overrides: str, data: str = "d", code: str = "") -> str:
    return compute_training_key(resolve("synthetic", overrides, environ={}).settings, data, code)


def test_the_key_depends_on_settings_data_and_code_but_not_on_folders_or_speed() -> None:
    same = ("train.out=elsewhere", "data.path=x", "train.threads=2", "tracking.enabled=false", "gate.max_mb=1")
    assert make_key() == make_key(*same)
    changes = ("train.epochs=7", "train.seed=1", "model.dim=128", "data.test=dev", "evaluate.protocol=coco-5k")
    assert len({make_key(), make_key(data="e"), make_key(code="c"), *(make_key(change) for change in changes)}) == 8


def test_settings_that_may_change_on_resume_are_still_part_of_the_key() -> None:
    settings = resolve("synthetic", environ={}).settings
    weights, result = select_weight_settings(settings), select_result_settings(settings)
    assert result.keys() - weights.keys() >= {"data.test", "train.device", "train.epochs", "evaluate.protocol"}
    assert weights.items() <= result.items()
    assert {key for key in list_keys() if changes_result(key)} == result.keys()
    assert {key.partition(".")[0] for key in weights} == {"data", "model", "train"}


def test_hash_json_separates_its_parts() -> None:
    assert hash_json("a", "bc") != hash_json("ab", "c") and hash_json(Path("x"), 1) == hash_json(Path("x"), 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DataSettings(test="test", dev_images=5), ("test", 0)),
        (DataSettings(dev_images=5), ("dev", 5)),
        (DataSettings(dev="val", test="val", dev_images=5), ("val", 5)),
    ],
)
def test_versions_are_evaluated_on_the_test_split_or_else_on_dev(data: DataSettings, expected: tuple[str, int]) -> None:
    assert data.evaluation_split == expected

"""Each planted fault is found by its suite, with its severity and at its row, and a valid data set passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_faults import FAULTS, copy_dataset, find_fault
from fault import Fault
from meaning_faults import MEANING_SCENES

from expectations.check import validate
from hire_model.data.synthetic import generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "scenes"
    generate(out, **MEANING_SCENES)
    return out


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_the_suite_finds_the_fault_at_its_row(fault: Fault, tiny_dataset: Path, scenes: Path, tmp_path: Path) -> None:
    valid = scenes if fault.suite == "meaning" else tiny_dataset
    result = find_fault(fault, copy_dataset(valid, tmp_path / "data"))
    assert result is not None
    assert result.message.startswith(("manifest.json", f"{fault.suite}.parquet", "images.parquet"))


def test_there_are_at_least_40_faults_and_no_duplicates() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_valid_data_set_passes_without_warnings(tiny_dataset: Path) -> None:
    validation = validate(tiny_dataset)
    assert validation.ok and validation.failed("warning") == [], validation.summary()


def test_a_larger_valid_data_set_passes_the_suite_meaning(scenes: Path) -> None:
    failed = [result.message for result in validate(scenes).results if result.table == "meaning" and not result.ok]
    assert failed == []


def test_a_fault_that_was_not_planted_is_not_found(tiny_dataset: Path, tmp_path: Path) -> None:
    fault = Fault("nothing", "captions", "has letters", lambda folder: None)
    assert find_fault(fault, copy_dataset(tiny_dataset, tmp_path / "data")) is None

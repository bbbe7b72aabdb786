"""Each planted fault is found by its suite, at its severity, at its row; and none is found where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_faults import FAULTS, Fault, copy_dataset, find_fault

import expectations.check
from expectations.check import validate


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_the_suite_finds_the_fault_at_its_row(
    fault: Fault, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = dict.fromkeys(("manifest", fault.suite))  # the other suites would take most of the time
    monkeypatch.setattr(expectations.check, "SUITE_NAMES", tuple(suites))
    found = find_fault(fault, copy_dataset(tiny_dataset, tmp_path / "data"))
    assert found is not None and found.message.startswith(("manifest.json", f"{fault.suite}.parquet", "images.parquet"))


def test_there_are_at_least_40_faults_and_no_duplicates() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


def test_a_sound_data_set_raises_no_alarm(tiny_dataset: Path) -> None:
    validation = validate(tiny_dataset)
    assert validation.ok and validation.failed("warning") == [], validation.summary()


def test_a_fault_that_is_not_there_is_not_found(tiny_dataset: Path, tmp_path: Path) -> None:
    nothing = Fault("nothing", "captions", "has letters", lambda folder: None)
    assert find_fault(nothing, copy_dataset(tiny_dataset, tmp_path / "data")) is None

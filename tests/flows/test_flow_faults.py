"""Invalid data end the flow before training, with a message that names the file and the row; warnings do not end it.

One fault per suite is planted here. tests/faults/test_dataset_faults.py plants all of them, without the flow. The
flows' functions are called without a server, and only the fault's suite is run, after the suite for the files.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_faults import FAULTS, Fault, copy_dataset

import expectations.check
import flows.retrain
import flows.validate
from hire_model.errors import DataError

pytestmark = pytest.mark.slow

ERRORS = list(
    {
        fault.suite: fault
        for fault in reversed(FAULTS)
        if fault.severity == "error" and fault.suite != "meaning"  # needs more images than this data set has
    }.values()
)
WARNING = next(fault for fault in FAULTS if fault.severity == "warning")
NO_FAULT = Fault("nothing", "captions", "", lambda folder: None)


class TrainingStarted(Exception):  # noqa: N818  not an error
    """The flow has reached the training."""


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the tables that the flow has shown. The flow runs without Prefect and ends at the training."""

    def train(*arguments: object) -> None:
        raise TrainingStarted

    shown: list[str] = []
    monkeypatch.setattr(flows.validate, "show_table", lambda key, rows, description: shown.append(key))
    monkeypatch.setattr(flows.validate, "show_page", lambda key, page, description: shown.append(key))
    for task in ("find_dataset", "check_dataset"):
        monkeypatch.setattr(flows.validate, task, getattr(flows.validate, task).fn)
    monkeypatch.setattr(flows.retrain, "validate", flows.validate.validate.fn)
    monkeypatch.setattr(flows.retrain, "train", train)
    return shown


def retrain(dataset: Path, fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the flow `hire` on `dataset` with the suites that `fault` needs; its files go to `folder`."""
    monkeypatch.setattr(expectations.check, "SUITE_NAMES", tuple(dict.fromkeys(("manifest", fault.suite))))
    flows.retrain.hire.fn("", str(dataset), [f"train.out={folder / 'runs' / 'latest'}"])


@pytest.mark.parametrize("fault", ERRORS, ids=[fault.suite for fault in ERRORS])
def test_a_fault_ends_the_flow_before_training(
    fault: Fault, tables: list[str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = copy_dataset(tiny_dataset, tmp_path / "data")
    row = fault.plant(planted)
    with pytest.raises(DataError) as caught:
        retrain(planted, fault, tmp_path, monkeypatch)
    message = str(caught.value)
    assert message.startswith(f"{planted} does not pass validation, nothing was trained")
    lines = [line for line in message.splitlines() if line.startswith("error: ") and fault.message in line]
    assert any(".parquet" in line or "manifest.json" in line for line in lines), message
    assert row is None or any(f"row {row}:" in line for line in lines), message
    assert tables == ["validation-report", "validation"] and not (tmp_path / "runs" / "latest").exists()
    [page] = (tmp_path / "runs" / "validated").glob("*.html")
    assert str(planted) in page.read_text("utf-8")


@pytest.mark.parametrize("fault", [WARNING, NO_FAULT], ids=["warning", "no fault"])
def test_training_starts_with_valid_data_and_with_warnings(
    fault: Fault, tables: list[str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = copy_dataset(tiny_dataset, tmp_path / "data")
    fault.plant(planted)
    with pytest.raises(TrainingStarted):
        retrain(planted, fault, tmp_path, monkeypatch)
    assert tables == ["validation-report", "validation"]

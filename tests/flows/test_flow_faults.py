"""Each planted fault that is an error ends the flow before anything is trained, with a message that names the place.

The flows' own functions are called, without a server; of the suites only the fault's is asked, besides the files'. All
suites are asked for each fault in tests/faults/test_dataset_faults.py, and a server in test_flow_deployment.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_faults import FAULTS, Fault, copy_dataset

import expectations.check
import flows.retrain
import flows.validate
from hire_model.errors import DataError

ERRORS = [fault for fault in FAULTS if fault.severity == "error"]
WARNING = next(fault for fault in FAULTS if fault.severity == "warning")


class TrainingReachedError(Exception):
    """The flow has come to the training."""


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the tables that the flow has shown; it runs without Prefect, up to the training."""

    def train(*given: object) -> None:
        raise TrainingReachedError

    shown: list[str] = []
    monkeypatch.setattr(flows.validate, "show_table", lambda key, rows, description: shown.append(key))
    for task in ("find_dataset", "check_dataset"):
        monkeypatch.setattr(flows.validate, task, getattr(flows.validate, task).fn)
    monkeypatch.setattr(flows.retrain, "validate", flows.validate.validate.fn)
    monkeypatch.setattr(flows.retrain, "train", train)
    return shown


def run(fault: Fault, sound: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the fault and call the flow `hire`, which must end by saying where it is, or come to the training."""
    monkeypatch.setattr(expectations.check, "SUITE_NAMES", tuple(dict.fromkeys(("manifest", fault.suite))))
    planted = copy_dataset(sound, place / "data")
    row = fault.plant(planted)
    try:
        flows.retrain.hire.fn("", str(planted), [f"train.out={place / 'runs' / 'latest'}"])
    except DataError as error:
        check_message(str(error), fault, row, planted)
    else:
        raise AssertionError("neither stopped nor trained")


def check_message(message: str, fault: Fault, row: int | None, planted: Path) -> None:
    """Assert that it says what was done, what was expected, in which file, at which row."""
    assert message.startswith(f"{planted} does not pass validation, nothing was trained:\nerror: ")
    lines = [line for line in message.splitlines() if fault.message in line]
    assert any(".parquet" in line or "manifest.json" in line for line in lines), message
    assert row is None or any(f"row {row}:" in line for line in lines), message


@pytest.mark.parametrize("fault", ERRORS, ids=[fault.name for fault in ERRORS])
def test_stops_before_training(
    fault: Fault, tables: list[str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fault, tiny_dataset, tmp_path, monkeypatch)
    assert tables == ["validation"] and not (tmp_path / "runs" / "latest").exists()


@pytest.mark.parametrize(
    "fault", [WARNING, Fault("nothing", "captions", "", lambda folder: None)], ids=["warn", "sound"]
)
def test_a_warning_goes_on(
    fault: Fault, tables: list[str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingReachedError):
        run(fault, tiny_dataset, tmp_path, monkeypatch)
    assert tables == ["validation"]

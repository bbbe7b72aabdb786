"""What Prefect makes of the flows: caches, second tries, words on the form, hooks, one at a time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import prefect
import pytest
from prefect import Flow
from real_servers import Servers

import expectations.check
from expectations.results import ExpectationResult, Validation
from flows.evaluate import evaluate, nightly
from flows.gate import gate
from flows.parameters import resolve_settings
from flows.promote import package, promote
from flows.retrain import hire
from flows.train import LOCK, hold_lock, train
from flows.validate import check_dataset, validate
from hire_model.errors import DataError, HireError


@pytest.mark.parametrize("flow", [hire, validate, train, evaluate, gate, promote, package], ids=lambda flow: flow.name)
def test_each_parameter_says_what_it_is_and_needs_no_answer(flow: Flow) -> None:
    form = flow.parameters
    assert form.properties and not form.required
    for name, field in form.properties.items():
        assert len(field["description"]) > 20 and "type" in field, name


def test_both_deployments_are_of_the_flow_hire() -> None:
    assert hire.name == nightly.name == "hire" and evaluate.name == "evaluate"


def test_a_second_retrain_in_the_same_folder_is_turned_away(tmp_path: Path) -> None:
    settings = resolve_settings("", "", [f"train.out={tmp_path / 'runs' / 'latest'}"]).settings
    lock = str(tmp_path / "runs" / LOCK)
    hold = f"import filelock, time; held = filelock.FileLock({lock!r}); held.acquire(); print(1, flush=True)"
    hold += "; time.sleep(600)"
    with hold_lock(settings), hold_lock(settings):
        pass
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    with pytest.raises(HireError, match="another retrain is at work"), hold_lock(settings):
        pass
    other.kill()
    other.wait()
    with hold_lock(settings):
        pass


class _Counted:
    """In place of `expectations.check.validate`: fails in the given ways first."""

    def __init__(self, *failures: Exception) -> None:
        self.calls, self.failures = 0, list(failures)

    def __call__(self, folder: Path) -> Validation:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return Validation("digest", [ExpectationResult("captions", "not empty", "error", True, 0, "")])


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "data", symlinks=True)
    return tmp_path / "data"


@pytest.mark.live
def test_a_validation_is_cached_until_a_file_changes(
    here: Servers, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = _Counted()
    monkeypatch.setattr(expectations.check, "validate", judge)
    assert validate(data=str(data)) == validate(data=str(data)) == data
    assert judge.calls == 1
    table = data / "captions.parquet"
    os.utime(table, ns=(table.stat().st_atime_ns, table.stat().st_mtime_ns + 1_000))
    validate(data=str(data))
    assert judge.calls == 2


@pytest.mark.live
def test_io_is_tried_again_and_a_verdict_is_not(here: Servers, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = check_dataset.with_options(retry_delay_seconds=0)
    judge = _Counted(ConnectionResetError("gone"), TimeoutError("late"))
    monkeypatch.setattr(expectations.check, "validate", judge)
    assert at_once(data)["ok"] and judge.calls == 3
    os.utime(data / "captions.parquet")
    judge = _Counted(DataError("row 7"))
    monkeypatch.setattr(expectations.check, "validate", judge)
    with pytest.raises(DataError, match="row 7"):
        at_once(data)
    assert judge.calls == 1


@pytest.mark.live
def test_a_process_forked_in_a_flow_ends_well(here: Servers) -> None:
    """As the workers of a data loader are; a log line has started Prefect's services before."""

    @prefect.flow(log_prints=True)
    def forks() -> int | None:
        print("one line")
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join(60)
        return child.exitcode

    assert forks() == 0


@pytest.mark.live
def test_a_webhook_is_told_once_there_is_one(
    here: Servers, heard: tuple[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    from prefect.blocks.webhook import Webhook

    from flows.prefect_support import WEBHOOK_BLOCK

    url, words = heard
    bad = {"data": str(tmp_path / "nowhere"), "overrides": [f"train.out={tmp_path / 'latest'}"], "return_state": True}
    assert hire(**bad).is_failed() and words == []
    asyncio.run(Webhook(url=url).asave(WEBHOOK_BLOCK, overwrite=True))
    try:
        assert hire(**bad).is_failed()
    finally:
        asyncio.run(Webhook.adelete(WEBHOOK_BLOCK))
    [said] = words
    assert (said["flow"], said["state"]) == ("hire", "Failed") and "no data set here" in said["message"]

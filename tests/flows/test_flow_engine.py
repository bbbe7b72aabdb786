"""Flows with Prefect: parameter forms, caches, retries, forked processes, webhooks, and one retrain at a time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prefect
import pytest
from prefect import Flow
from prefect.blocks.webhook import Webhook
from real_servers import Servers

import expectations.check
import flows.retrain
from expectations.results import ExpectationResult, SuiteRun, Validation
from flows.evaluate import evaluate, nightly
from flows.gate import gate
from flows.monitor import monitor, watch
from flows.parameters import resolve_settings
from flows.prefect_support import WEBHOOK_BLOCK
from flows.promote import package, promote
from flows.retrain import hire
from flows.train import LOCK, hold_lock, train
from flows.validate import check_dataset, validate
from hire_model.errors import DataError, HireError

FLOWS = [hire, validate, train, evaluate, gate, promote, package, monitor]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_each_parameter_is_optional_and_described(flow: Flow) -> None:
    form = flow.parameters
    assert form.properties and not form.required
    for name, field in form.properties.items():
        assert len(field["description"]) > 20 and "type" in field, name


def test_all_deployments_belong_to_the_flow_hire() -> None:
    assert hire.name == nightly.name == watch.name == "hire"
    assert (evaluate.name, monitor.name) == ("evaluate", "monitor")


def test_a_second_retrain_in_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    settings = resolve_settings("", "", [f"train.out={tmp_path / 'runs' / 'latest'}"]).settings
    lock = str(tmp_path / "runs" / LOCK)
    code = f"import filelock, time; lock = filelock.FileLock({lock!r}); lock.acquire(); print(1, flush=True)"
    code += "; time.sleep(600)"
    with hold_lock(settings), hold_lock(settings):
        pass
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    with pytest.raises(HireError, match="another retrain is running"), hold_lock(settings):
        pass
    other.kill()
    other.wait()
    with hold_lock(settings):
        pass


def test_the_archive_exists_before_the_version_becomes_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is started during a retrain serves the champion, so each champion needs an archive."""
    steps: list[str] = []

    def make_step(name: str, result: object = None) -> Callable[..., object]:
        return lambda *arguments: steps.append(name) or result

    for name, result in {"train": "5", "package": tmp_path / "hire.mar"}.items():
        monkeypatch.setattr(flows.retrain, name, make_step(name, result))
    for name in ("validate", "evaluate", "gate", "promote"):
        monkeypatch.setattr(flows.retrain, name, make_step(name))
    state = hire.fn("", "", [f"train.out={tmp_path / 'runs' / 'latest'}"])
    assert steps == ["validate", "train", "evaluate", "gate", "package", "promote"]
    assert "Version 5 is the champion" in state.message


class ValidateStub:
    """Replaces `expectations.check.validate`: raises `errors`, one per call, then passes; counts the calls."""

    def __init__(self, *errors: Exception) -> None:
        self.calls, self.errors = 0, list(errors)

    def __call__(self, folder: Path) -> Validation:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        result = ExpectationResult("captions", "not empty", "error", True, 0, "")
        return Validation("digest", [SuiteRun("captions", 1, 0.0, [result])])


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "data", symlinks=True)
    return tmp_path / "data"


@pytest.mark.live
def test_a_validation_is_cached_until_a_file_changes(
    in_project: Servers, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = ValidateStub()
    monkeypatch.setattr(expectations.check, "validate", stub)
    assert validate(data=str(data)) == validate(data=str(data)) == data
    assert stub.calls == 1
    table = data / "captions.parquet"
    os.utime(table, ns=(table.stat().st_atime_ns, table.stat().st_mtime_ns + 1_000))
    validate(data=str(data))
    assert stub.calls == 2


@pytest.mark.live
def test_io_errors_are_retried_and_failed_validations_are_not(
    in_project: Servers, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_dataset.with_options(retry_delay_seconds=0)
    stub = ValidateStub(ConnectionResetError("reset"), TimeoutError("late"))
    monkeypatch.setattr(expectations.check, "validate", stub)
    assert check(data)["ok"] and stub.calls == 3
    os.utime(data / "captions.parquet")
    stub = ValidateStub(DataError("row 7"))
    monkeypatch.setattr(expectations.check, "validate", stub)
    with pytest.raises(DataError, match="row 7"):
        check(data)
    assert stub.calls == 1


@pytest.mark.live
def test_a_process_forked_in_a_flow_ends_with_status_0(in_project: Servers) -> None:
    """The workers of a data loader are such processes. The printed line starts Prefect's threads before the fork."""

    @prefect.flow(log_prints=True)
    def fork() -> int | None:
        print("one line")
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join(60)
        return child.exitcode

    assert fork() == 0


@pytest.mark.live
def test_a_webhook_is_called_only_if_its_block_exists(
    in_project: Servers, webhook: tuple[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    url, received = webhook
    overrides = [f"train.out={tmp_path / 'latest'}"]

    def run_without_data() -> bool:
        return hire(data=str(tmp_path / "missing"), overrides=overrides, return_state=True).is_failed()

    assert run_without_data() and received == []
    asyncio.run(Webhook(url=url).asave(WEBHOOK_BLOCK, overwrite=True))
    try:
        assert run_without_data()
    finally:
        asyncio.run(Webhook.adelete(WEBHOOK_BLOCK))
    [body] = received
    assert (body["flow"], body["state"]) == ("hire", "Failed") and str(tmp_path / "missing") in body["message"]

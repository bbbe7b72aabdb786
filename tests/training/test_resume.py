"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from workshop import Workshop  # type: ignore[import-not-found]

from hire_model.errors import HireError, TrainingStopped
from hire_model.training.checkpoint import BEST, LAST, VERSION, Checkpoint, lock_folder
from hire_model.training.record import FitResult


def stop_at(*steps: int, kind: signal.Signals = signal.SIGTERM) -> Any:
    def on_step(step: int) -> None:
        if step in steps:
            everyone = [*multiprocessing.active_children(), multiprocessing.current_process()]
            names = [str(process.pid) for process in everyone]  # a scheduler signals loader workers, too,
            subprocess.run(["kill", f"-{kind.value}", *names], check=True)  # and from outside

    return on_step


def numbers(result: FitResult) -> list[Any]:
    """The history without what a clock says."""
    return [dataclasses.replace(record, seconds=0, samples_per_second=0) for record in result.history]


def assert_same(left: Any, right: Any, where: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}.{i}")
    else:
        assert left == right, where


def assert_same_runs(left: Path, right: Path) -> None:
    assert (left / BEST).read_bytes() == (right / BEST).read_bytes()
    one, two = Checkpoint.load(left / LAST), Checkpoint.load(right / LAST)
    for name in ("model", "optimizer", "rng", "epoch", "batch", "step", "best_epoch"):
        assert_same(getattr(one, name), getattr(two, name), name)


def spoilt(workshop: Workshop, settings: Any) -> Any:
    """A model and generators in another state than those of the run, so that only the checkpoint can mend them."""
    model = workshop.model(settings)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    return model


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [13]),  # in the middle of the second epoch
        ({}, [8, 9, 10, 20]),  # around the end of an epoch, and again
        ({"schedule": "cosine", "sum_epochs": 0}, [13]),
        ({"loss": "infonce", "workers": 2}, [7]),
    ],
)
def test_resume_is_exact(workshop: Workshop, tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    settings = workshop.settings(**options)
    straight = workshop.fit(settings)
    broken = workshop.settings(**options, out=tmp_path / "broken")
    model, resume = workshop.model(broken), False
    for _ in steps:
        with pytest.raises(TrainingStopped, match=r"SIGTERM.*--resume"):
            workshop.fit(broken, model, on_step=stop_at(*steps), resume=resume)
        steps, model, resume = steps[1:], spoilt(workshop, broken), True
    resumed = workshop.fit(broken, model, resume=True)
    assert numbers(resumed) == numbers(straight)
    assert resumed.best_epoch == straight.best_epoch
    assert_same_runs(settings.train.out, broken.train.out)


def test_two_runs_of_one_seed_agree_and_of_two_do_not(workshop: Workshop, tmp_path: Path) -> None:
    results = [workshop.fit(workshop.settings(out=tmp_path / str(i), epochs=2, seed=i // 2)) for i in range(3)]
    assert numbers(results[0]) == numbers(results[1]) != numbers(results[2])
    assert_same_runs(tmp_path / "0", tmp_path / "1")


def test_ctrl_c_says_how_to_go_on(workshop: Workshop) -> None:
    with pytest.raises(TrainingStopped, match=r"Ctrl-C in epoch 1 of 4, after batch 3 of \d+.*last.pt.*--resume"):
        workshop.fit(on_step=stop_at(3, kind=signal.SIGINT))
    assert Checkpoint.load(workshop.out / LAST).batch == 3


@pytest.mark.parametrize("kinds", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_the_other_signal_too_leaves_a_checkpoint(
    workshop: Workshop, kinds: tuple[signal.Signals, signal.Signals]
) -> None:
    """Under `mlflow run` Ctrl-C reaches the training from the terminal, and MLflow sends SIGTERM right after."""

    def on_step(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), kinds[0])
            time.sleep(0.02)
            os.kill(os.getpid(), kinds[1])

    before = _deadly()
    try:
        with pytest.raises(TrainingStopped, match=r"epoch 1 of 4, after batch 3.*last.pt.*-P resume=yes"):
            workshop.fit(on_step=on_step)
        assert all(signal.getsignal(kind) is _die for kind in kinds)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert Checkpoint.load(workshop.out / LAST).batch == 3


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_same_signal_again_acts_at_once(workshop: Workshop, kind: signal.Signals) -> None:
    def on_step(step: int) -> None:
        os.kill(os.getpid(), kind)
        os.kill(os.getpid(), kind)

    before = _deadly()
    try:
        with pytest.raises(_Killed):
            workshop.fit(on_step=on_step)
    finally:
        for other, handler in before.items():
            signal.signal(other, handler)
    assert not (workshop.out / LAST).exists()


class _Killed(BaseException):
    """What the signal would have done to the process."""


def _die(number: int, frame: Any) -> None:
    raise _Killed


def _deadly() -> dict[signal.Signals, Any]:
    return {kind: signal.signal(kind, _die) for kind in (signal.SIGINT, signal.SIGTERM)}


def test_a_stop_while_dev_runs_waits_for_the_epoch(workshop: Workshop) -> None:
    def dev(model: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return workshop.dev(model)

    with pytest.raises(TrainingStopped, match="after epoch 1 of 4"):
        workshop.fit(dev=dev)
    saved = Checkpoint.load(workshop.out / LAST)
    assert (saved.epoch, saved.batch, len(saved.history)) == (1, 0, 1)


def test_handlers_are_put_back(workshop: Workshop) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    workshop.fit(workshop.settings(epochs=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_more_epochs_may_follow(workshop: Workshop) -> None:
    workshop.fit(workshop.settings(epochs=1))
    result = workshop.fit(workshop.settings(epochs=3), resume=True)
    assert [record.epoch for record in result.history] == [0, 1, 2]


def test_a_finished_run_resumes_to_its_result(workshop: Workshop) -> None:
    first = workshop.fit(workshop.settings(epochs=2))
    again = workshop.fit(workshop.settings(epochs=2), resume=True, dev=None)
    assert again == first


def test_other_settings_are_named(workshop: Workshop) -> None:
    workshop.fit(workshop.settings(epochs=1))
    with pytest.raises(
        HireError, match=r"train\.lr=0\.002 \(now 0\.1\), train\.margin=0\.2 \(now 0\.5\)\. Set them so"
    ):
        workshop.fit(workshop.settings(epochs=2, lr=0.1, margin=0.5), resume=True)


def test_other_data_are_refused(workshop: Workshop) -> None:
    workshop.fit(workshop.settings(epochs=1))
    with pytest.raises(HireError, match=r"other data.*d1.*d2"):
        workshop.fit(workshop.settings(epochs=2), resume=True, digest="d2")


def test_nothing_to_resume(workshop: Workshop) -> None:
    with pytest.raises(HireError, match=r"last\.pt: no checkpoint.*Leave out --resume"):
        workshop.fit(resume=True)


def test_damaged_and_foreign_checkpoints(workshop: Workshop) -> None:
    workshop.fit(workshop.settings(epochs=1))
    last = workshop.out / LAST
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(HireError, match="damaged"):
        workshop.fit(resume=True)
    torch.save({"version": VERSION - 1}, last)
    with pytest.raises(HireError, match="another version"):
        workshop.fit(resume=True)


def test_a_checkpoint_runs_no_code(workshop: Workshop, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    workshop.out.mkdir(parents=True)
    torch.save({"version": 1, "model": Evil()}, workshop.out / LAST)
    with pytest.raises(HireError, match="not a checkpoint"):
        workshop.fit(resume=True)
    assert not (tmp_path / "evil").exists()


def test_a_new_run_sets_the_old_one_aside(workshop: Workshop) -> None:
    workshop.fit(workshop.settings(epochs=1))
    old = (workshop.out / BEST).read_bytes()
    workshop.fit(workshop.settings(epochs=1, seed=1))
    assert (workshop.out / f"previous-{BEST}").read_bytes() == old != (workshop.out / BEST).read_bytes()


def test_frozen_weights_are_not_in_a_checkpoint_and_must_be_the_same(workshop: Workshop) -> None:
    def half_frozen(settings: Any, value: float = 0.1) -> Any:
        model = workshop.model(settings)
        with torch.no_grad():
            model.text.embedding.weight.fill_(value).requires_grad_(False)
        return model

    settings = workshop.settings(epochs=2)
    result = workshop.fit(settings, half_frozen(settings))
    saved = Checkpoint.load(workshop.out / LAST)
    for kept in (saved.model, load_file(result.best_weights)):
        assert not any("embedding" in name for name in kept) and any("gru" in name for name in kept)
    again = half_frozen(settings)
    assert numbers(workshop.fit(settings, again, resume=True)) == numbers(result)
    assert (again.text.embedding.weight == 0.1).all()
    with pytest.raises(HireError, match=r"last\.pt: cannot resume: model\.text\.checkpoint=.* has other weights"):
        workshop.fit(settings, half_frozen(settings, 0.2), resume=True)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"half")])
def test_lost_best_weights_are_named(workshop: Workshop, damage: Any) -> None:
    settings = workshop.settings(epochs=1)
    damage(workshop.fit(settings).best_weights)
    with pytest.raises(HireError, match=r"best\.safetensors: the best weights are missing or damaged"):
        workshop.fit(settings, resume=True)


def test_a_second_training_is_kept_out(tmp_path: Path) -> None:
    second = pytest.raises(HireError, match=r"out: another training is writing there")
    with lock_folder(tmp_path / "out"), second, lock_folder(tmp_path / "out"):
        pass
    with lock_folder(tmp_path / "out"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(HireError, match=r"file/out: cannot be written"), lock_folder(tmp_path / "file" / "out"):
        pass

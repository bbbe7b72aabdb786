"""A run that is stopped and resumed gives the same bits as a run that is not stopped."""

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
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.errors import HireError, TrainingStopped
from hire_model.training.checkpoint import BEST, LAST, VERSION, Checkpoint, check_weights, lock_folder
from hire_model.training.file_digest import append_digest
from hire_model.training.record import FitResult
from hire_model.training.train_state import TrainState

pytestmark = pytest.mark.slow


def stop_at(*steps: int, kind: signal.Signals = signal.SIGTERM) -> Any:
    def on_step(step: int) -> None:
        if step in steps:
            # As a scheduler does: signal all processes, including loader workers, from another process.
            processes = [*multiprocessing.active_children(), multiprocessing.current_process()]
            subprocess.run(["kill", f"-{kind.value}", *(str(process.pid) for process in processes)], check=True)

    return on_step


def drop_times(result: FitResult) -> list[Any]:
    """Return the history without figures that depend on time."""
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


def make_spoilt_model(training: TrainingExample, settings: Any) -> Any:
    """Return a model with other weights, and change all random states: only the checkpoint can restore them."""
    model = training.model(settings)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    return model


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [13]),  # in the middle of the second epoch
        ({}, [8, 9, 10, 20]),  # around the end of an epoch, several times
        ({"schedule": "cosine", "sum_epochs": 0}, [13]),
        ({"loss": "infonce", "workers": 2}, [7]),
    ],
)
def test_a_resumed_run_equals_a_run_without_a_stop(
    training: TrainingExample, tmp_path: Path, options: dict[str, Any], steps: list[int]
) -> None:
    settings = training.settings(**options)
    straight = training.fit(settings)
    broken = training.settings(**options, out=tmp_path / "broken")
    model, resume = training.model(broken), False
    for _ in steps:
        with pytest.raises(TrainingStopped, match=r"SIGTERM.*--resume"):
            training.fit(broken, model, on_step=stop_at(*steps), resume=resume)
        steps, model, resume = steps[1:], make_spoilt_model(training, broken), True
    resumed = training.fit(broken, model, resume=True)
    assert drop_times(resumed) == drop_times(straight)
    assert resumed.best_epoch == straight.best_epoch
    assert_same_runs(settings.train.out, broken.train.out)


def test_runs_are_equal_if_and_only_if_their_seeds_are(training: TrainingExample, tmp_path: Path) -> None:
    results = [training.fit(training.settings(out=tmp_path / str(i), epochs=2, seed=i // 2)) for i in range(3)]
    assert drop_times(results[0]) == drop_times(results[1]) != drop_times(results[2])
    assert_same_runs(tmp_path / "0", tmp_path / "1")


def test_ctrl_c_writes_a_checkpoint_and_names_the_command_to_resume(training: TrainingExample) -> None:
    with pytest.raises(TrainingStopped, match=r"Ctrl-C in epoch 1 of 4, after batch 3 of \d+.*last.pt.*--resume"):
        training.fit(on_step=stop_at(3, kind=signal.SIGINT))
    assert Checkpoint.load(training.out / LAST).batch == 3


@pytest.mark.parametrize("kinds", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_different_signal_does_not_prevent_the_checkpoint(
    training: TrainingExample, kinds: tuple[signal.Signals, signal.Signals]
) -> None:
    """Under `mlflow run`, Ctrl-C reaches the training from the terminal, and MLflow then sends SIGTERM."""

    def on_step(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), kinds[0])
            time.sleep(0.02)
            os.kill(os.getpid(), kinds[1])

    before = _install_deadly_handlers()
    try:
        with pytest.raises(TrainingStopped, match=r"epoch 1 of 4, after batch 3.*last.pt.*-P resume=yes"):
            training.fit(on_step=on_step)
        assert all(signal.getsignal(kind) is _die for kind in kinds)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert Checkpoint.load(training.out / LAST).batch == 3


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_same_signal_again_ends_the_run_at_once(training: TrainingExample, kind: signal.Signals) -> None:
    def on_step(step: int) -> None:
        os.kill(os.getpid(), kind)
        os.kill(os.getpid(), kind)

    before = _install_deadly_handlers()
    try:
        with pytest.raises(_Killed):
            training.fit(on_step=on_step)
    finally:
        for other, handler in before.items():
            signal.signal(other, handler)
    assert not (training.out / LAST).exists()


class _Killed(BaseException):
    """Raised by the handlers that stand for the default effect of a signal."""


def _die(number: int, frame: Any) -> None:
    raise _Killed


def _install_deadly_handlers() -> dict[signal.Signals, Any]:
    return {kind: signal.signal(kind, _die) for kind in (signal.SIGINT, signal.SIGTERM)}


def test_a_signal_during_dev_stops_after_the_epoch(training: TrainingExample) -> None:
    def dev(model: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return training.dev(model)

    with pytest.raises(TrainingStopped, match="after epoch 1 of 4"):
        training.fit(dev=dev)
    saved = Checkpoint.load(training.out / LAST)
    assert (saved.epoch, saved.batch, len(saved.history)) == (1, 0, 1)


def test_signal_handlers_are_restored(training: TrainingExample) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    training.fit(training.settings(epochs=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_can_be_resumed_with_more_epochs(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    result = training.fit(training.settings(epochs=3), resume=True)
    assert [record.epoch for record in result.history] == [0, 1, 2]


def test_resuming_a_finished_run_returns_its_result(training: TrainingExample) -> None:
    first = training.fit(training.settings(epochs=2))
    resumed = training.fit(training.settings(epochs=2), resume=True, dev=None)
    assert resumed == first


def test_resuming_with_other_settings_is_refused(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    with pytest.raises(
        HireError, match=r"train\.lr=0\.002 \(now 0\.1\), train\.margin=0\.2 \(now 0\.5\)\. Use its values"
    ):
        training.fit(training.settings(epochs=2, lr=0.1, margin=0.5), resume=True)


def test_resuming_on_other_data_is_refused(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    with pytest.raises(HireError, match=r"other data.*d1.*d2"):
        training.fit(training.settings(epochs=2), resume=True, digest="d2")


def test_resuming_without_a_checkpoint_is_refused(training: TrainingExample) -> None:
    with pytest.raises(HireError, match=r"last\.pt: no checkpoint.*Leave out --resume"):
        training.fit(resume=True)


def test_a_damaged_checkpoint_or_one_of_another_version_is_refused(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    last = training.out / LAST
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(HireError, match="damaged"):
        training.fit(resume=True)
    torch.save({"version": VERSION}, last)
    with pytest.raises(HireError, match=r"another version.*is missing"):
        training.fit(resume=True)
    with last.open("w+b") as file:
        torch.save({"version": VERSION - 1}, file)
        append_digest(file)
    with pytest.raises(HireError, match=r"written by another version of Hire\. Leave out"):
        training.fit(resume=True)


def test_a_flipped_byte_in_a_checkpoint_or_the_best_weights_is_refused(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    randomness = random.Random(0)
    saved = Checkpoint.load(training.out / LAST)
    for name in (LAST, BEST):
        path = training.out / name
        original = path.read_bytes()
        # The first and last bytes are lengths, names and digests.
        places = [*range(16), *range(len(original) - 70, len(original)), *randomness.sample(range(len(original)), 100)]
        for place in places:
            changed = bytearray(original)
            changed[place] ^= 1 << randomness.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(HireError, match=rf"{name}: .*Leave out --resume"):
                Checkpoint.load(path) if name == LAST else check_weights(path)
        with pytest.raises(HireError, match=rf"{name}: .*damaged"):
            training.fit(training.settings(epochs=2), resume=True)  # before the first step, not after the last epoch
        path.write_bytes(original)
    assert_same(Checkpoint.load(training.out / LAST).model, saved.model)


def test_a_kill_between_the_best_weights_and_the_checkpoint_loses_nothing(
    training: TrainingExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = training.fit(training.settings(epochs=2, out=tmp_path / "straight"))

    def kill(self: TrainState) -> None:
        if self.epoch == 2:
            raise _Killed
        save(self)

    save = TrainState.save
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(TrainState, "save", kill)
        training.fit(training.settings(epochs=2))
    assert drop_times(training.fit(training.settings(epochs=2), resume=True)) == drop_times(straight)
    assert_same_runs(training.out, tmp_path / "straight")


def test_loading_a_checkpoint_does_not_run_its_code(training: TrainingExample, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "malicious"),)

    training.out.mkdir(parents=True)
    with (training.out / LAST).open("w+b") as file:
        torch.save({"version": 1, "model": Malicious()}, file)
        append_digest(file)
    with pytest.raises(HireError, match="not a checkpoint"):
        training.fit(resume=True)
    assert not (tmp_path / "malicious").exists()


def test_a_new_run_keeps_the_weights_of_the_previous_one(training: TrainingExample) -> None:
    training.fit(training.settings(epochs=1))
    old = (training.out / BEST).read_bytes()
    training.fit(training.settings(epochs=1, seed=1))
    assert (training.out / f"previous-{BEST}").read_bytes() == old != (training.out / BEST).read_bytes()


def test_frozen_weights_are_not_saved_and_must_not_change(training: TrainingExample) -> None:
    def make_half_frozen_model(settings: Any, value: float = 0.1) -> Any:
        model = training.model(settings)
        with torch.no_grad():
            model.text.embedding.weight.fill_(value).requires_grad_(False)
        return model

    settings = training.settings(epochs=2)
    result = training.fit(settings, make_half_frozen_model(settings))
    saved = Checkpoint.load(training.out / LAST)
    for weights in (saved.model, load_file(result.best_weights)):
        assert not any("embedding" in name for name in weights) and any("gru" in name for name in weights)
    again = make_half_frozen_model(settings)
    assert drop_times(training.fit(settings, again, resume=True)) == drop_times(result)
    assert (again.text.embedding.weight == 0.1).all()
    with pytest.raises(HireError, match=r"last\.pt: cannot resume: model\.text\.checkpoint=.* has other weights"):
        training.fit(settings, make_half_frozen_model(settings, 0.2), resume=True)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")])
def test_missing_or_damaged_best_weights_are_reported(training: TrainingExample, damage: Any) -> None:
    settings = training.settings(epochs=1)
    damage(training.fit(settings).best_weights)
    with pytest.raises(HireError, match=r"best\.safetensors: the best weights are missing or damaged"):
        training.fit(settings, resume=True)


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    second = pytest.raises(HireError, match=r"out: another training is using this folder")
    with lock_folder(tmp_path / "out"), second, lock_folder(tmp_path / "out"):
        pass
    with lock_folder(tmp_path / "out"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(HireError, match=r"file/out: cannot be written"), lock_folder(tmp_path / "file" / "out"):
        pass

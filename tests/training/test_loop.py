"""The training loop learns, keeps the best epoch, writes checkpoints, and stops with a clear message."""

from __future__ import annotations

import dataclasses
import errno
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.data.store import Dataset
from hire_model.errors import DataError, SettingsError, TrainingStopped
from hire_model.settings import TrainSettings
from hire_model.training.checkpoint import BEST, LAST, Checkpoint
from hire_model.training.loop import fit
from hire_model.training.losses import WINDOW, CollapseDetector, compute_collapsed_loss
from hire_model.training.record import EpochRecord

pytestmark = pytest.mark.slow


def test_the_loss_falls_and_the_dev_metric_rises(training: TrainingExample) -> None:
    result = training.fit(training.settings(epochs=12, loss="infonce", lr=5e-3))
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.best_metrics["rsum"] > 10


def test_on_epoch_gets_the_record_of_each_epoch(training: TrainingExample) -> None:
    records: list[EpochRecord] = []
    result = training.fit(on_epoch=records.append)
    assert records == result.history and [record.epoch for record in records] == [0, 1, 2, 3]
    for record in records:
        assert record.loss == pytest.approx(record.score_loss + record.global_loss)
        assert record.grad_norm > 0 and record.seconds > 0 and record.samples_per_second > 0
        assert record.dev.keys() == {"rsum"}
    assert records[-1].lr == pytest.approx(2e-4) and records[1].lr == pytest.approx(2e-3)


def test_the_weights_of_the_best_epoch_are_saved_and_loaded(training: TrainingExample) -> None:
    weights_of_epochs: list[dict[str, torch.Tensor]] = []

    def dev(model: Any) -> dict[str, float]:
        weights_of_epochs.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"rsum": [1.0, 3.0, 2.0, 3.0][len(weights_of_epochs) - 1]}

    settings = training.settings()
    model = training.model(settings)
    result = training.fit(settings, model, dev=dev)
    assert (result.best_epoch, result.best_metrics) == (1, {"rsum": 3.0})
    assert result.best_weights == training.out / BEST and not model.training
    for weights in (load_file(result.best_weights), model.state_dict()):
        assert all(torch.equal(weights[name], tensor) for name, tensor in weights_of_epochs[1].items())


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_step(training: TrainingExample, quantity: str) -> None:
    settings = training.settings()
    model = training.model(settings)
    before: dict[str, torch.Tensor] = {}

    def spoil(step: int) -> None:
        if step == 12:
            parameter = next(p for p in model.parameters() if p.ndim > 1)
            if quantity == "gradient":
                parameter.register_hook(lambda grad: grad * float("inf"))
            else:
                parameter.data[0, 0] = float("nan")
            before.update({n: p.detach().clone() for n, p in model.named_parameters()})

    with pytest.raises(
        TrainingStopped, match=rf"The {quantity} is not finite.*step 13, epoch 2.*last\.pt.*lower train\.lr"
    ):
        training.fit(settings, model, on_step=spoil)
    assert all(torch.equal(p, before[n]) or before[n].isnan().any() for n, p in model.named_parameters())
    saved = Checkpoint.load(training.out / LAST)
    assert saved.epoch == 1 and all(t.isfinite().all() for t in saved.model.values())


def test_a_full_disk_keeps_the_last_checkpoint(training: TrainingExample, monkeypatch: pytest.MonkeyPatch) -> None:
    training.fit(training.settings(epochs=1))
    before = (training.out / LAST).read_bytes()

    def fail(value: Any, file: Any) -> None:
        file.write(b"partial")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # as torch does  # noqa: B904

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(TrainingStopped, match=r"no space left.*last good checkpoint.*--resume"):
        training.fit(training.settings(epochs=2), resume=True)
    assert (training.out / LAST).read_bytes() == before
    assert sorted(path.name for path in training.out.iterdir()) == [BEST, LAST]


def test_a_full_disk_before_the_first_checkpoint_is_reported(
    training: TrainingExample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(value: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(TrainingStopped, match=r"There is no checkpoint yet.*then run the same command again\.$"):
        training.fit(training.settings(epochs=1))


def test_checkpoints_are_also_written_inside_an_epoch(training: TrainingExample) -> None:
    steps = []

    def read_checkpoint(step: int) -> None:
        if (training.out / LAST).is_file():
            steps.append(Checkpoint.load(training.out / LAST).step)

    training.fit(training.settings(epochs=1, checkpoint_minutes=1e-9), on_step=read_checkpoint)
    assert steps == list(range(1, 9))


def test_the_loss_in_bf16_is_within_5_percent_of_fp32(training: TrainingExample) -> None:
    fp32 = training.fit(training.settings(epochs=1)).history[0]
    bf16 = training.fit(training.settings(epochs=1, precision="bf16")).history[0]
    assert bf16.loss != fp32.loss and bf16.loss == pytest.approx(fp32.loss, rel=0.05)


def test_a_split_with_one_image_is_refused(training: TrainingExample) -> None:
    settings = training.settings()
    model, split = training.model(settings), Dataset.open(training.folder).split("train", 1)
    with pytest.raises(DataError, match=r"split 'train' has 3 captions of 1 images; a batch needs 2"):
        fit(model, split, training.bank(model), settings, dev=training.dev, out=training.out, digest="d1")


def test_cuda_without_a_gpu_is_refused(training: TrainingExample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"train\.device=cuda.*cpu or auto"):
        training.fit(training.settings(device="cuda"))


def test_a_collapse_is_detected_once() -> None:
    detector = CollapseDetector()
    detected = [detector.add(0.4001, 0.4) for _ in range(3 * WINDOW)]
    assert detected.index(True) == WINDOW - 1 and sum(detected) == 1


def test_the_collapsed_loss_is_that_of_equal_scores() -> None:
    assert compute_collapsed_loss(TrainSettings(loss="hinge"), 8, True) == pytest.approx(0.4)
    assert compute_collapsed_loss(TrainSettings(loss="infonce"), 64, True) == pytest.approx(math.log(64))


def test_a_loss_that_changes_is_not_a_collapse() -> None:
    detector = CollapseDetector()
    assert not any(detector.add(0.4 if i % 20 else 0.35, 0.4) for i in range(500))


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_a_collapse_is_reported_with_remedies(
    training: TrainingExample, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    settings = training.settings(epochs=10, loss=loss, sum_epochs=0, region_drop=0)
    model = training.model(settings)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    last = model.to_pair_words.weight.requires_grad_(True)
    original = model.score

    def score_equally(images: Any, texts: Any) -> Any:
        scores = original(images, texts)
        return dataclasses.replace(scores, total=scores.total * 0 + last.sum() * 1e-9, globals=None)

    model.score = score_equally
    training.fit(settings, model)
    output = capsys.readouterr().err
    assert output.count("training has collapsed") == 1 and "lower train.lr" in output
    assert ("train.sum_epochs" in output) == (loss == "hinge")

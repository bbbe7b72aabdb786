"""What the loop promises besides resuming: it learns, keeps the best, and stops in order."""

from __future__ import annotations

import dataclasses
import errno
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from workshop import Workshop  # type: ignore[import-not-found]

from hire_model.data.store import Dataset
from hire_model.errors import DataError, SettingsError, TrainingStopped
from hire_model.settings import TrainSettings
from hire_model.training.checkpoint import BEST, LAST, Checkpoint
from hire_model.training.loop import fit
from hire_model.training.losses import WINDOW, CollapseWatch, compute_stuck_loss
from hire_model.training.record import EpochRecord


def test_it_learns(workshop: Workshop) -> None:
    result = workshop.fit(workshop.settings(epochs=25, loss="infonce", lr=5e-3))
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.best_metrics["rsum"] > 10


def test_records_are_told_and_complete(workshop: Workshop) -> None:
    told: list[EpochRecord] = []
    result = workshop.fit(on_epoch=told.append)
    assert told == result.history and [record.epoch for record in told] == [0, 1, 2, 3]
    for record in told:
        assert record.loss == pytest.approx(record.score_loss + record.global_loss)
        assert record.grad_norm > 0 and record.seconds > 0 and record.samples_per_second > 0
        assert record.dev.keys() == {"rsum"}
    assert told[-1].lr == pytest.approx(2e-4) and told[1].lr == pytest.approx(2e-3)


def test_the_best_epoch_is_kept_and_loaded(workshop: Workshop) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def dev(model: Any) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"rsum": [1.0, 3.0, 2.0, 3.0][len(seen) - 1]}

    settings = workshop.settings()
    model = workshop.model(settings)
    result = workshop.fit(settings, model, dev=dev)
    assert (result.best_epoch, result.best_metrics) == (1, {"rsum": 3.0})
    assert result.best_weights == workshop.out / BEST and not model.training
    for weights in (load_file(result.best_weights), model.state_dict()):
        assert all(torch.equal(weights[name], tensor) for name, tensor in seen[1].items())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_none_stop_before_the_step(workshop: Workshop, what: str) -> None:
    settings = workshop.settings()
    model = workshop.model(settings)
    kept: dict[str, torch.Tensor] = {}

    def spoil(step: int) -> None:
        if step == 12:
            parameter = next(p for p in model.parameters() if p.ndim > 1)
            if what == "gradient":
                parameter.register_hook(lambda grad: grad * float("inf"))
            else:
                parameter.data[0, 0] = float("nan")
            kept.update({n: p.detach().clone() for n, p in model.named_parameters()})

    with pytest.raises(
        TrainingStopped, match=rf"The {what} is not finite.*step 13, epoch 2.*last\.pt.*lower train\.lr"
    ):
        workshop.fit(settings, model, on_step=spoil)
    assert all(torch.equal(p, kept[n]) or kept[n].isnan().any() for n, p in model.named_parameters())
    good = Checkpoint.load(workshop.out / LAST)
    assert good.epoch == 1 and all(t.isfinite().all() for t in good.model.values())


def test_a_full_disk_leaves_the_last_checkpoint(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.fit(workshop.settings(epochs=1))
    before = (workshop.out / LAST).read_bytes()

    def full(value: Any, file: Any) -> None:
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # as torch does  # noqa: B904

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingStopped, match=r"no space left.*last good checkpoint.*--resume"):
        workshop.fit(workshop.settings(epochs=2), resume=True)
    assert (workshop.out / LAST).read_bytes() == before
    assert sorted(path.name for path in workshop.out.iterdir()) == [BEST, LAST]


def test_a_disk_that_is_full_before_the_first_checkpoint(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(value: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingStopped, match=r"There is no checkpoint yet.*then run the same command again\.$"):
        workshop.fit(workshop.settings(epochs=1))


def test_checkpoints_inside_an_epoch(workshop: Workshop) -> None:
    seen = []

    def look(step: int) -> None:
        if (workshop.out / LAST).is_file():
            seen.append(Checkpoint.load(workshop.out / LAST).step)

    workshop.fit(workshop.settings(epochs=1, checkpoint_minutes=1e-9), on_step=look)
    assert seen == list(range(1, 9))


def test_bf16_trains_like_fp32(workshop: Workshop) -> None:
    exact = workshop.fit(workshop.settings(epochs=1)).history[0]
    rough = workshop.fit(workshop.settings(epochs=1, precision="bf16")).history[0]
    assert rough.loss != exact.loss and rough.loss == pytest.approx(exact.loss, rel=0.05)


def test_too_few_images(workshop: Workshop) -> None:
    settings = workshop.settings()
    model, split = workshop.model(settings), Dataset.open(workshop.folder).split("train", 1)
    with pytest.raises(DataError, match=r"split 'train' has 3 captions of 1 images; a batch needs 2"):
        fit(model, split, workshop.bank(model), settings, dev=workshop.dev, out=workshop.out, digest="d1")


def test_cuda_that_is_not_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"train\.device=cuda.*cpu or auto"):
        workshop.fit(workshop.settings(device="cuda"))


def test_collapse_is_seen_once() -> None:
    watch = CollapseWatch()
    told = [watch.add(0.4001, 0.4) for _ in range(3 * WINDOW)]
    assert told.index(True) == WINDOW - 1 and sum(told) == 1


def test_the_stuck_loss_is_that_of_equal_scores() -> None:
    assert compute_stuck_loss(TrainSettings(loss="hinge"), 8, True) == pytest.approx(0.4)
    assert compute_stuck_loss(TrainSettings(loss="infonce"), 64, True) == pytest.approx(math.log(64))


def test_a_loss_that_moves_is_no_collapse() -> None:
    watch = CollapseWatch()
    assert not any(watch.add(0.4 if i % 20 else 0.35, 0.4) for i in range(500))


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_collapse_is_told(workshop: Workshop, capsys: pytest.CaptureFixture[str], loss: str) -> None:
    settings = workshop.settings(epochs=10, loss=loss, sum_epochs=0, region_drop=0)
    model = workshop.model(settings)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    last = model.to_pair_words.weight.requires_grad_(True)
    original = model.score

    def same(images: Any, texts: Any) -> Any:
        scores = original(images, texts)
        return dataclasses.replace(scores, total=scores.total * 0 + last.sum() * 1e-9, globals=None)

    model.score = same
    workshop.fit(settings, model)
    error = capsys.readouterr().err
    assert error.count("training has collapsed") == 1 and "lower train.lr" in error
    assert ("train.sum_epochs" in error) == (loss == "hinge")

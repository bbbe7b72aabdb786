"""The loader gives the same batches for any number of workers and any start."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.training.batches import Augment, CaptionSampler, Loader, PlannedBatches


def make_loader(training: TrainingExample, workers: int) -> Loader:
    split = training.split()
    model = training.model(training.settings())
    batches = PlannedBatches(split, training.bank(model), Augment(0, 0.2, 0.2))
    return Loader(CaptionSampler(split.owner, 6, 0), batches, workers)


def list_tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if not dataclasses.is_dataclass(value):
        return []
    return [tensor for field in dataclasses.fields(value) for tensor in list_tensors(getattr(value, field.name))]


def test_the_number_of_workers_does_not_change_the_batches(training: TrainingExample) -> None:
    alone, two = list(make_loader(training, 0).load_epoch(1)), list(make_loader(training, 2).load_epoch(1))
    assert len(alone) == len(two) > 5
    for (plan, left), (other, right) in zip(alone, two, strict=True):
        assert plan.index == other.index and (plan.rows == other.rows).all()
        pairs = list(zip(list_tensors(left), list_tensors(right), strict=True))
        assert len(pairs) == 9 and all(torch.equal(a, b) for a, b in pairs)


def test_an_epoch_that_starts_late_gives_its_remaining_batches(training: TrainingExample) -> None:
    loader = make_loader(training, 0)
    rest = [plan.rows.tolist() for plan, _ in loader.load_epoch(2, 3)]
    assert rest == [plan.rows.tolist() for plan, _ in loader.load_epoch(2)][3:]
    assert next(plan.index for plan, _ in loader.load_epoch(2, 3)) == 3


def test_loading_does_not_change_the_global_random_state(training: TrainingExample) -> None:
    loader = make_loader(training, 0)
    before = torch.get_rng_state()
    list(loader.load_epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_each_caption_is_loaded_with_its_image(training: TrainingExample) -> None:
    loader, split = make_loader(training, 0), training.split()
    plain = dataclasses.replace(loader, batches=dataclasses.replace(loader.batches, augment=Augment(0)))
    for plan, batch in plain.load_epoch(0):
        for i, row in enumerate(plan.rows):
            count = len(split.regions(int(split.owner[row])).features)
            assert int(batch.regions.mask[i].sum()) == count
            start, end = loader.batches.bank.offsets[row : row + 2]
            assert batch.tokens.ids[i, : end - start].tolist() == loader.batches.bank.ids[start:end].tolist()

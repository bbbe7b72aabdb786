"""The same batches, however they are loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from workshop import Workshop  # type: ignore[import-not-found]

from hire_model.training.batches import Augment, CaptionSampler, Loader, PlannedBatches


def make_loader(workshop: Workshop, workers: int) -> Loader:
    split = workshop.split()
    model = workshop.model(workshop.settings())
    batches = PlannedBatches(split, workshop.bank(model), Augment(0, 0.2, 0.2))
    return Loader(CaptionSampler(split.owner, 6, 0), batches, workers)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return (
        [t for f in dataclasses.fields(value) for t in tensors(getattr(value, f.name)) if t is not None]
        if (dataclasses.is_dataclass(value))
        else []
    )


def test_worker_count_changes_nothing(workshop: Workshop) -> None:
    alone, two = list(make_loader(workshop, 0).load_epoch(1)), list(make_loader(workshop, 2).load_epoch(1))
    assert len(alone) == len(two) > 5
    for (plan, left), (other, right) in zip(alone, two, strict=True):
        assert plan.index == other.index and (plan.rows == other.rows).all()
        pairs = list(zip(tensors(left), tensors(right), strict=True))
        assert len(pairs) == 9 and all(torch.equal(a, b) for a, b in pairs)


def test_starting_inside_an_epoch_gives_its_rest(workshop: Workshop) -> None:
    loader = make_loader(workshop, 0)
    rest = [plan.rows.tolist() for plan, _ in loader.load_epoch(2, 3)]
    assert rest == [plan.rows.tolist() for plan, _ in loader.load_epoch(2)][3:]
    assert next(plan.index for plan, _ in loader.load_epoch(2, 3)) == 3


def test_loading_leaves_the_global_generator_alone(workshop: Workshop) -> None:
    loader = make_loader(workshop, 0)
    before = torch.get_rng_state()
    list(loader.load_epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_caption_comes_with_its_image(workshop: Workshop) -> None:
    loader, split = make_loader(workshop, 0), workshop.split()
    plain = dataclasses.replace(loader, batches=dataclasses.replace(loader.batches, augment=Augment(0)))
    for plan, batch in plain.load_epoch(0):
        for i, row in enumerate(plan.rows):
            count = len(split.regions(int(split.owner[row])).features)
            assert int(batch.regions.mask[i].sum()) == count
            start, end = loader.batches.bank.offsets[row : row + 2]
            assert batch.tokens.ids[i, : end - start].tolist() == loader.batches.bank.ids[start:end].tolist()

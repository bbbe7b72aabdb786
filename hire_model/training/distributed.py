"""Device, precision, seeds and processes through Lightning Fabric, and what the processes exchange.

Each process encodes its share of a batch. The captions' encodings are gathered, each process scores its own images
against all captions, and the rows of scores are gathered, so that every process holds the loss of the whole batch with
all its negatives. The gradient is the single-process one: the backward pass of a gather adds up what all W processes
send back, W times the true gradient as each of them holds the whole loss, and DDP then averages over the W processes.
Cost per batch: C * L * D numbers for the captions and B * C for the scores, forth and back; images never travel.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.nn.functional import pad

from hire_model.batch import EncodedTexts
from hire_model.errors import SettingsError
from hire_model.settings import TrainSettings

_DEV_TIME = timedelta(hours=4)  # how long the other processes wait while the first one evaluates


def launch_fabric(settings: TrainSettings) -> Fabric:
    """Launch Fabric for the device and precision of the settings and the processes that torchrun started, if any."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if settings.batch < 2 * world:
        raise SettingsError(
            f"train.batch={settings.batch} is too small for {world} processes; use {2 * world} or more."
        )
    device = pick_device(settings)
    # Where a loss does not reach a weight (a pair stage, with its weight in the score at 0) DDP must not wait for it.
    several = DDPStrategy(timeout=_DEV_TIME, find_unused_parameters=True) if world > 1 else "auto"
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=several,
        precision=pick_precision(settings, device),  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def pick_device(settings: TrainSettings) -> str:
    """Return 'cuda' or 'cpu'. Raises SettingsError if train.device=cuda and there is none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("train.device=cuda, but torch sees no CUDA device. Use train.device=cpu or auto.")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


def pick_local_device(settings: TrainSettings) -> torch.device:
    """Return the device of this process, one of several GPUs where there are several, before Fabric is launched."""
    kind = pick_device(settings)
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)


def pick_precision(settings: TrainSettings, device: str) -> str:
    """Return Fabric's name of the precision. auto: bf16 autocast where the GPU has bf16 units, else float32."""
    good = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if settings.precision == "bf16" or (settings.precision == "auto" and good) else "32-true"


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed python, numpy and torch (CPU and every CUDA device).

    Each of several processes gets its own stream; otherwise all would use the same dropout masks.
    """
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@dataclass(frozen=True)
class Peers:
    """Exchange between the processes of a training. With one process every method returns its argument."""

    fabric: Fabric

    def gather_texts(self, own: EncodedTexts, sizes: Sequence[int]) -> EncodedTexts:
        """Return all captions of the batch, from each process's `sizes[rank]`, in rank order, with gradient."""
        if self.fabric.world_size == 1:
            return own
        length = self._reduce_max([own.mask.shape[1]])[0]
        more = length - own.mask.shape[1]
        mask = pad(own.mask.to(torch.uint8), (0, more))
        return EncodedTexts(
            words=self.gather_rows(pad(own.words, (0, 0, 0, more)), sizes),
            mask=self.gather_rows(mask, sizes).bool(),
            summary=self.gather_rows(own.summary, sizes),
            roles=None if own.roles is None else self.gather_rows(pad(own.roles, (0, 0, 0, more)), sizes),
        )

    def gather_rows(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return [sum of sizes, ...] from each process's [sizes[rank], ...], in rank order, with gradient."""
        if self.fabric.world_size == 1:
            return own
        short = max(sizes) - len(own)
        gathered = self.fabric.all_gather(
            pad(own, (0, 0) * (own.ndim - 1) + (0, short)), sync_grads=own.is_floating_point()
        )
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def any_of(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process: all must stop, or save, after the same step."""
        if self.fabric.world_size == 1:
            return list(flags)
        return [bool(value) for value in self._reduce_max([int(flag) for flag in flags])]

    def _reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the maximum of each of `values` over all processes."""
        largest = self.fabric.all_reduce(torch.tensor(values, device=self.fabric.device), reduce_op="max")
        assert isinstance(largest, Tensor)
        return largest.tolist()

    def gather_objects(self, value: Any) -> list[Any]:
        """Return `value` of each process, in rank order."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

"""Device, precision and processes through Lightning Fabric, and what processes exchange.

Each process encodes its share of a batch. The captions' encodings are gathered, each process scores its own images
against all captions, and the rows of scores are gathered, so that every process holds the loss of the whole batch with
all its negatives. The gradient is the single-process one: the backward pass of a gather adds up what all W processes
send back, W times the true gradient as each of them holds the whole loss, and DDP then averages over the W processes.
Cost per batch: C * L * D numbers for the captions and B * C for the scores, forth and back; images never travel.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.nn.functional import pad

from hire_model.batch import EncodedTexts
from hire_model.errors import SettingsError
from hire_model.settings import TrainSettings

_DEV_TIME = timedelta(hours=4)  # how long the other processes wait while the first one evaluates


def engine(settings: TrainSettings) -> Fabric:
    """A launched Fabric for the wanted device, precision, and the processes that torchrun started, if it did."""
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
    """'cuda' or 'cpu'. Raises SettingsError if CUDA is asked for and not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("train.device=cuda, but torch sees no CUDA device. Use train.device=cpu or auto.")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


def own_device(settings: TrainSettings) -> torch.device:
    """`pick_device`, and of several GPUs the one that is this process's, before Fabric is launched."""
    kind = pick_device(settings)
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)


def pick_precision(settings: TrainSettings, device: str) -> str:
    """Fabric's name of the precision; auto is bf16 autocast where the GPU has bf16 units, else float32."""
    good = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if settings.precision == "bf16" or (settings.precision == "auto" and good) else "32-true"


@dataclass(frozen=True)
class Peers:
    """What the processes of a run tell each other; with one process nothing happens."""

    fabric: Fabric

    @property
    def alone(self) -> bool:
        """True where there is only this process."""
        return self.fabric.world_size == 1

    def texts(self, own: EncodedTexts, sizes: Sequence[int]) -> EncodedTexts:
        """All captions of the batch from each process's `sizes[rank]`, in rank order, with gradient."""
        if self.alone:
            return own
        length = self._largest([own.mask.shape[1]])[0]
        more = length - own.mask.shape[1]
        mask = pad(own.mask.to(torch.uint8), (0, more))
        return EncodedTexts(
            words=self.rows(pad(own.words, (0, 0, 0, more)), sizes),
            mask=self.rows(mask, sizes).bool(),
            summary=self.rows(own.summary, sizes),
            roles=None if own.roles is None else self.rows(pad(own.roles, (0, 0, 0, more)), sizes),
        )

    def rows(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """[sum of sizes, ...] from each process's [sizes[rank], ...], in rank order, with gradient."""
        if self.alone:
            return own
        short = max(sizes) - len(own)
        gathered = self.fabric.all_gather(
            pad(own, (0, 0) * (own.ndim - 1) + (0, short)), sync_grads=own.is_floating_point()
        )
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process: all must stop, or save, after the same step."""
        if self.alone:
            return list(flags)
        return [bool(value) for value in self._largest([int(flag) for flag in flags])]

    def _largest(self, values: Sequence[int]) -> list[int]:
        """For each of `values`, its largest in any process."""
        told = self.fabric.all_reduce(torch.tensor(values, device=self.fabric.device), reduce_op="max")
        assert isinstance(told, Tensor)
        return told.tolist()

    def everyone(self, value: Any) -> list[Any]:
        """`value` of each process, in rank order."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

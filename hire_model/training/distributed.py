"""Device, precision, seeds and processes through Lightning Fabric, and the data that processes exchange.

Each process encodes its share of a batch. All processes gather the captions' encodings, each scores its own images
against all captions, and all gather the rows of scores. Each process then has the loss of the whole batch with all
negatives. The gradient equals the gradient of one process: the backward pass of a gather sums the gradients of all W
processes, each of which has the whole loss, so the sum is W times the gradient; DDP then averages over W.
Cost per batch: C * L * D numbers for the captions and B * C for the scores, in both directions. Images are not sent.
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

_MAX_DEV_TIME = timedelta(hours=4)  # the other processes wait this long while the first one evaluates


def launch_fabric(settings: TrainSettings) -> Fabric:
    """Launch Fabric with the device and precision of the settings, and with the processes that torchrun started."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if settings.batch < 2 * world:
        raise SettingsError(
            f"train.batch={settings.batch} is too small for {world} processes; use {2 * world} or more."
        )
    device = pick_device(settings)
    # A weight can have no gradient (the pair stages, if model.global_weight is 1): DDP must not wait for it.
    strategy = DDPStrategy(timeout=_MAX_DEV_TIME, find_unused_parameters=True) if world > 1 else "auto"
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=pick_precision(settings, device),  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def read_job_id() -> str:
    """Return the id of torchrun's job, which is the same in all processes and after a restart; "" if it has none.

    Raises SettingsError if torchrun may restart the processes but not so that they find each other and the checkpoint.
    With the store that torchrun shares by default, restarted processes can read addresses of those that have ended, and
    wait for them (https://github.com/pytorch/pytorch/issues/135712).
    """
    environ = os.environ
    job, restarts = environ.get("TORCHELASTIC_RUN_ID", "none"), int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and (job == "none" or environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"):
        raise SettingsError(
            f"torchrun --max-restarts={restarts}: a restart could not find its peers or its checkpoint. Set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, and add --standalone on one machine, or "
            "--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT --rdzv-id=NAME on several."
        )
    return "" if job == "none" else job  # torchrun's default


def pick_device(settings: TrainSettings) -> str:
    """Return 'cuda' or 'cpu'. Raises SettingsError if train.device=cuda and no CUDA device is available."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("train.device=cuda, but torch sees no CUDA device. Use train.device=cpu or auto.")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


def pick_local_device(settings: TrainSettings) -> torch.device:
    """Return the device of this process before Fabric is launched; with several GPUs, the one of its local rank."""
    kind = pick_device(settings)
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)


def pick_precision(settings: TrainSettings, device: str) -> str:
    """Return Fabric's name of the precision. auto: bf16 autocast if the GPU has bf16 units, else float32."""
    supported = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if settings.precision == "bf16" or (settings.precision == "auto" and supported) else "32-true"


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed python, numpy and torch (CPU and all CUDA devices).

    Each rank gets a different stream; otherwise all processes would use the same dropout masks.
    """
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@dataclass(frozen=True)
class Peers:
    """Exchange data between the processes of a training. With one process each method returns its argument."""

    fabric: Fabric

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.fabric.global_rank

    def gather_texts(self, local: EncodedTexts, sizes: Sequence[int]) -> EncodedTexts:
        """Gather the captions of all processes, `sizes[rank]` of each, in rank order, with gradient."""
        if self.fabric.world_size == 1:
            return local
        length = self._reduce_max([local.mask.shape[1]])[0]
        padding = length - local.mask.shape[1]
        mask = pad(local.mask.to(torch.uint8), (0, padding))
        return EncodedTexts(
            words=self.gather_rows(pad(local.words, (0, 0, 0, padding)), sizes),
            mask=self.gather_rows(mask, sizes).bool(),
            summary=self.gather_rows(local.summary, sizes),
            roles=None if local.roles is None else self.gather_rows(pad(local.roles, (0, 0, 0, padding)), sizes),
        )

    def gather_rows(self, local: Tensor, sizes: Sequence[int]) -> Tensor:
        """Gather rows [`sizes[rank]`, ...] of all processes into [sum of sizes, ...], in rank order, with gradient."""
        if self.fabric.world_size == 1:
            return local
        missing = max(sizes) - len(local)
        gathered = self.fabric.all_gather(
            pad(local, (0, 0) * (local.ndim - 1) + (0, missing)), sync_grads=local.is_floating_point()
        )
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def any_of(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process, so that all stop or save after the same step."""
        if self.fabric.world_size == 1:
            return list(flags)
        return [bool(value) for value in self._reduce_max([int(flag) for flag in flags])]

    def _reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the maximum of each of `values` over all processes."""
        largest = self.fabric.all_reduce(torch.tensor(values, device=self.fabric.device), reduce_op="max")
        assert isinstance(largest, Tensor)
        return largest.tolist()

    def gather_objects(self, value: Any) -> list[Any]:
        """Gather `value` of all processes, in rank order."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

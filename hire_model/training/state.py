"""Checkpoints: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hire_model.errors import GO_ON, HireError, TrainingStopped
from hire_model.settings import Settings, flatten
from hire_model.training.record import EpochRecord, Meter

LAST = "last.pt"
BEST = "best.safetensors"
VERSION = 1

# These may differ when a run goes on: they say how long, where and how fast, not what is learnt.
FREE = {
    "data.path", "data.test", "data.workers", "train.checkpoint_minutes", "train.device", "train.epochs", "train.out",
    "train.patience", "train.threads",
}  # fmt: skip
_COMPARED = ("data.", "model.", "train.")


@dataclass
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    epoch, batch: the next batch to train on; step: optimizer steps done; rng: `seed.rng_states` of each process;
    averaged: the EMA model, None without; history: the epochs that are complete
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    averaged: dict[str, Tensor] | None
    rng: list[dict[str, Any]]
    epoch: int
    batch: int
    step: int
    meter: Meter
    history: list[EpochRecord]
    best_epoch: int
    settings: dict[str, Any]
    digest: str
    version: int = field(default=VERSION)

    def save(self, path: Path) -> None:
        """Write to `path`, atomically. Raises TrainingStopped if the disk is full; an older file stays then."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["meter"] = dataclasses.asdict(self.meter)
        plain["history"] = [dataclasses.asdict(record) for record in self.history]

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # given a path, torch does not say that the disk is full
                torch.save(plain, file)

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read `path`, with tensors on the CPU. Raises HireError where it is missing, damaged or of another version."""
        if not path.is_file():
            raise HireError(f"{path}: no checkpoint to resume from. Leave out --resume, or name the run's train.out.")
        try:
            plain = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise HireError(f"{path}: not a checkpoint of Hire, or damaged: {error}") from error
        if not isinstance(plain, dict) or plain.get("version") != VERSION:
            raise HireError(f"{path}: a checkpoint of another version of Hire; it cannot be resumed with this one.")
        plain["meter"] = Meter(**plain["meter"])
        plain["history"] = [EpochRecord(**record) for record in plain["history"]]
        return cls(**plain)

    def check(self, settings: Settings, digest: str, path: Path) -> None:
        """Raise HireError naming what differs, if this checkpoint belongs to other settings or another data set."""
        now = fingerprint(settings)
        different = sorted(key for key in now.keys() | self.settings.keys() if now.get(key) != self.settings.get(key))
        if different:
            pairs = ", ".join(f"{key}={self.settings.get(key)!r} (now {now.get(key)!r})" for key in different)
            raise HireError(
                f"{path}: cannot resume with other settings. The checkpoint has {pairs}. Set them so, or leave out "
                "--resume to start anew."
            )
        if digest != self.digest:
            raise HireError(
                f"{path}: cannot resume on other data: the checkpoint's data set has the digest {self.digest[:16]}, "
                f"this one {digest[:16]}. Name the same data set, or leave out --resume to start anew."
            )


def fingerprint(settings: Settings) -> dict[str, Any]:
    """The settings that a resumed run must share, as dotted keys and JSON values."""
    flat = flatten(settings.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if key.startswith(_COMPARED) and key not in FREE}


def save_weights(model: nn.Module, path: Path) -> None:
    """The model's weights as safetensors, atomically."""
    from safetensors.torch import save_model

    write_atomically(path, lambda temporary: save_model(model, str(temporary)))


def load_weights(model: nn.Module, path: Path) -> None:
    """Put back what `save_weights` wrote."""
    from safetensors.torch import load_model

    load_model(model, str(path), device=str(next(model.parameters()).device))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, see it safely on disk, and move it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if _is_disk_full(error):
            last = path.parent / LAST
            kept = f"The last good checkpoint is {last}" if last.is_file() else "There is no checkpoint yet"
            raise TrainingStopped(
                f"{path}: no space left to write it. {kept}. Free some space, then run {GO_ON}."
            ) from error
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: BaseException | None) -> bool:
    """torch and safetensors wrap the system's error or only quote it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep_previous(out: Path) -> None:
    """Set an earlier run's files aside, one generation of them, so that a forgotten --resume destroys nothing."""
    for name in (LAST, BEST):
        if (out / name).is_file():
            os.replace(out / name, out / f"previous-{name}")


def cpu_copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of tensors on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in state.items()}

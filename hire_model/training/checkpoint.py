"""The checkpoint format and the files of a training folder.

Files are written atomically and are read without running pickled code. Each contains its own SHA-256
(`file_digest`), which is checked before the file is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from hire_model.errors import RESUME_COMMAND, HireError, TrainingStopped
from hire_model.files import atomic_write
from hire_model.settings import Settings
from hire_model.settings.fingerprint import select_weight_settings
from hire_model.training.file_digest import (
    EMPTY_METADATA,
    append_digest,
    fill_metadata,
    has_valid_end,
    has_valid_metadata,
)
from hire_model.training.record import EpochRecord, Meter

LAST = "last.pt"
BEST = "best.safetensors"
VERSION = 4
# Flows and ablations resume by themselves if there is a checkpoint.
_START_AGAIN = f"Leave out --resume to start a new training; for a flow or an ablation, delete {LAST}."


@dataclass
class Checkpoint:
    """Complete state of a training, so that a resumed run continues as if it had not stopped.

    Attributes:
        model: trained weights.
        optimizer: its state dict.
        rng: `capture_rng` of each process.
        epoch: number of the epoch of the next batch.
        batch: number of the next batch in the epoch.
        step: optimizer steps done.
        meter: sums of the current epoch.
        history: complete epochs.
        best_epoch: epoch with the best dev metric so far.
        settings: those that must not change on resume, see `select_weight_settings`.
        digest: digest of the data set's version.
        frozen: `digest_frozen_weights` of the weights that are not in `model`.
        version: version of the checkpoint format.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: list[dict[str, Any]]
    epoch: int
    batch: int
    step: int
    meter: Meter
    history: list[EpochRecord]
    best_epoch: int
    settings: dict[str, Any]
    digest: str
    frozen: str
    version: int = field(default=VERSION)

    def save(self, path: Path) -> None:
        """Write to `path` atomically. Raises TrainingStopped if the disk is full; an older file is then kept."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["meter"] = dataclasses.asdict(self.meter)
        plain["history"] = [dataclasses.asdict(record) for record in self.history]

        # Pass an open file to torch.save: with a path it does not report a full disk.
        with _write_safely(path) as partial, partial.open("w+b") as file:
            torch.save(plain, file)
            append_digest(file)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read `path`, with tensors on the CPU. Raises HireError if it is missing, damaged or of another version."""
        if not path.is_file():
            raise HireError(
                f"{path}: no checkpoint to resume from. Leave out --resume, or set train.out to the run's folder."
            )
        if not has_valid_end(path):
            raise HireError(
                f"{path}: not a checkpoint of Hire, damaged, or written by another version of Hire: the SHA-256 at its "
                f"end is missing or differs. {_START_AGAIN}"
            )
        try:
            plain = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises various types for an unreadable file
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise HireError(f"{path}: not a checkpoint of Hire: {reason}. {_START_AGAIN}") from error
        if not isinstance(plain, dict) or plain.get("version") != VERSION:
            raise HireError(f"{path}: written by another version of Hire. {_START_AGAIN}")
        plain["meter"] = Meter(**plain["meter"])
        plain["history"] = [EpochRecord(**record) for record in plain["history"]]
        return cls(**plain)

    def check(self, settings: Settings, digest: str, path: Path) -> None:
        """Raise HireError if this checkpoint has other settings or another data set, or the best weights are damaged.

        path: of this checkpoint; the best weights are in the same folder.
        """
        now = select_weight_settings(settings)
        different = sorted(key for key in now.keys() | self.settings.keys() if now.get(key) != self.settings.get(key))
        if different:
            pairs = ", ".join(f"{key}={self.settings.get(key)!r} (now {now.get(key)!r})" for key in different)
            raise HireError(
                f"{path}: cannot resume with other settings. The checkpoint has {pairs}. Use its values, or leave out "
                "--resume to start a new training."
            )
        if digest != self.digest:
            raise HireError(
                f"{path}: cannot resume on other data: the checkpoint's data set has the digest {self.digest[:16]}, "
                f"this one {digest[:16]}. Use the same data set, or leave out --resume to start a new training."
            )
        if self.history:
            check_weights(path.with_name(BEST))

    def check_frozen(self, frozen: str, path: Path) -> None:
        """Raise HireError if `frozen`, the digest of the weights that training does not change, has changed."""
        if frozen != self.frozen:
            raise HireError(
                f"{path}: cannot resume: model.text.checkpoint='{self.settings['model.text.checkpoint']}' has other "
                "weights than at the start of this run. Restore the old weights, or leave out --resume to start a new "
                "training."
            )


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the trained weights of `model` to a safetensors file atomically."""
    from safetensors.torch import save_file

    with _write_safely(path) as partial:
        save_file(get_trained_weights(model), partial, metadata=EMPTY_METADATA)
        fill_metadata(partial)


def check_weights(path: Path) -> None:
    """Raise HireError if the file that `save_weights` wrote is missing, or its SHA-256 differs."""
    if not path.is_file() or not has_valid_metadata(path):
        raise HireError(
            f"{path}: the best weights are missing or damaged: the SHA-256 in the file is missing or differs. "
            f"{_START_AGAIN}"
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the file that `save_weights` wrote. Raises HireError if it is missing or damaged."""
    from safetensors.torch import load_file

    check_weights(path)
    set_trained_weights(model, load_file(path))


@contextlib.contextmanager
def _write_safely(path: Path) -> Iterator[Path]:
    """Write a file atomically. Raises TrainingStopped with the last checkpoint and what to do if the disk is full."""
    try:
        with atomic_write(path) as partial:
            yield partial
    except Exception as error:
        if not _is_disk_full(error):
            raise
        last = path.parent / LAST
        checkpoint, command = "There is no checkpoint yet", "the same command again"
        if last.is_file():
            checkpoint, command = f"The last good checkpoint is {last}", RESUME_COMMAND
        raise TrainingStopped(
            f"{path}: cannot be written: no space left on the disk. {checkpoint}. Free some space, then run {command}."
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk caused `error`: torch and safetensors wrap the system's error or quote its message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def lock_folder(out: Path, wait_s: float = 0) -> Iterator[None]:
    """Lock a training folder. Raises HireError if another training uses it, or if it cannot be written.

    wait_s: seconds to wait for another training to release it.
    """
    lock = FileLock(out / ".lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise HireError(
            f"{out}: another training is using this folder. Wait until it ends, or choose another folder: "
            "--set train.out=DIR."
        ) from None
    except OSError as error:
        raise HireError(f"{out}: cannot be written: {error}. Choose another folder: --set train.out=DIR.") from error
    try:
        yield
    finally:
        lock.release()


def set_aside_previous(out: Path) -> None:
    """Rename the files of an earlier training to previous-*, so that forgetting --resume does not delete them."""
    for name in (LAST, BEST):
        if (out / name).is_file():
            os.replace(out / name, out / f"previous-{name}")


def get_trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU without frozen weights, which would be most of a checkpoint."""
    frozen = _find_frozen(model)
    return {n: tensor.detach().cpu().contiguous() for n, tensor in model.state_dict().items() if n not in frozen}


def set_trained_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the result of `get_trained_weights`. Raises HireError if a tensor is missing or unexpected."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    faulty = sorted({*missing, *unexpected} - _find_frozen(model).keys())
    if faulty:
        raise HireError(
            f"The checkpoint does not fit the model: {', '.join(faulty[:3])}. Leave out --resume to start a new "
            "training."
        )


def digest_frozen_weights(model: nn.Module) -> str:
    """Return the SHA-256 of the weights that training does not change."""
    digest = hashlib.sha256()
    for name, parameter in sorted(_find_frozen(model).items()):
        digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _find_frozen(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}


def capture_rng() -> dict[str, Any]:
    """Return the states of all random generators, as types that `torch.load(weights_only=True)` accepts."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = {
        "kind": kind,
        "keys": np.asarray(keys).tolist(),
        "position": position,
        "has_gauss": has_gauss,
        "gauss": gauss,
    }
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(states: dict[str, Any]) -> None:
    """Restore the result of `capture_rng`. CUDA states are ignored if the number of devices has changed."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    saved = states["numpy"]
    keys = np.asarray(saved["keys"], np.uint32)
    np.random.set_state((saved["kind"], keys, saved["position"], saved["has_gauss"], saved["gauss"]))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])

"""What an evaluation gives: frozen, JSON-able, and never without the name of its protocol."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hire_model.errors import HireError

KS = (1, 5, 10)
Interval = tuple[float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Direction(_Frozen):
    """One direction of retrieval: recalls in 0-100, ranks from 1, 95 % intervals by name ('r1') after a bootstrap."""

    queries: int
    r1: float
    r5: float
    r10: float
    median: float
    mean: float
    intervals: dict[str, Interval] = {}


class Result(_Frozen):
    """The figures of one protocol. `models` is the number of models whose matrices were averaged: 1, or an ensemble."""

    protocol: str
    images: int
    captions: int
    folds: int = 1
    models: int = 1
    bootstrap: int = 0
    seed: int = 0
    i2t: Direction
    t2i: Direction
    rsum: float = Field(description="sum of the six recalls, 0-600")
    rsum_interval: Interval | None = None
    facts: dict[str, str] = Field(default={}, description="where it comes from: model, data digest, command, machine")

    @property
    def title(self) -> str:
        """The protocol in words; an ensemble says that it is one."""
        folds = f", mean of {self.folds} folds" if self.folds > 1 else ""
        models = f", ensemble of {self.models} models" if self.models > 1 else ""
        return f"{self.protocol}{folds}{models}"

    def metrics(self) -> dict[str, float]:
        """Flat, for MLflow: 'full/i2t_r1', 'full/rsum', with '_low' and '_high' where there are intervals.

        An ensemble of two is 'full/ensemble2/i2t_r1', so that it is never compared with a single model unseen.
        """
        prefix = self.protocol if self.models == 1 else f"{self.protocol}/ensemble{self.models}"
        flat = {f"{prefix}/rsum": self.rsum}
        intervals = {f"{prefix}/rsum": self.rsum_interval} if self.rsum_interval else {}
        for name, direction in (("i2t", self.i2t), ("t2i", self.t2i)):
            for field in (*(f"r{k}" for k in KS), "median", "mean"):
                flat[f"{prefix}/{name}_{field}"] = getattr(direction, field)
            intervals |= {f"{prefix}/{name}_{field}": interval for field, interval in direction.intervals.items()}
        for key, (low, high) in intervals.items():
            flat |= {f"{key}_low": low, f"{key}_high": high}
        return flat


def check_place(path: Path) -> None:
    """Raise HireError if `path` can never be written, so that nobody waits an hour to hear it."""
    folder = next(parent for parent in path.expanduser().absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise HireError(f"{path}: cannot be written there. Name another place, a file in a folder of yours.")


def write_json(result: Result, path: str | Path) -> Path:
    """Write `result` to `path`, whole or not at all; its folder is made. `Result.model_validate_json` reads it back."""
    return write_text(result.model_dump_json(indent=1) + "\n", path)


def write_text(text: str, path: str | Path) -> Path:
    """Write `text` to `path` through a temporary file beside it, so that no reader ever sees half a file."""
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HireError(f"{path}: cannot be written: {error.strerror or error}. Name another place.") from error
    return path

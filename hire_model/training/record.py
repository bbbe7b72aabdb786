"""What training leaves behind in memory: a record for each epoch, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Meter:
    """Sums over the batches of an epoch so far, and the last step's lr.

    It is saved inside an epoch, so that a resumed epoch reports all of it.
    """

    batches: int = 0
    samples: int = 0
    steps: int = 0
    loss: float = 0.0
    score_loss: float = 0.0
    global_loss: float = 0.0
    grad_norm: float = 0.0
    seconds: float = 0.0
    lr: float = 0.0

    def add(self, samples: int, loss: float, score: float, single: float) -> None:
        """Count one batch."""
        self.batches += 1
        self.samples += samples
        self.loss += loss
        self.score_loss += score
        self.global_loss += single


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean losses over its batches (`score_loss` is that of the final score, before train.global_loss times
    `global_loss` is added), the mean norm of the gradient before clipping, `lr` of its last step (a
    tuned encoder's is lower), training time without dev, and the dev metrics."""

    epoch: int
    loss: float
    score_loss: float
    global_loss: float
    lr: float
    grad_norm: float
    seconds: float
    samples_per_second: float
    dev: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, epoch: int, meter: Meter, dev: dict[str, float]) -> EpochRecord:
        """The record of an epoch whose sums are in `meter`."""
        batches, steps = max(1, meter.batches), max(1, meter.steps)
        return cls(
            epoch=epoch,
            loss=meter.loss / batches,
            score_loss=meter.score_loss / batches,
            global_loss=meter.global_loss / batches,
            lr=meter.lr,
            grad_norm=meter.grad_norm / steps,
            seconds=meter.seconds,
            samples_per_second=meter.samples / meter.seconds if meter.seconds else 0.0,
            dev=dev,
        )


@dataclass(frozen=True)
class FitResult:
    """The model that was handed in holds the best weights now; `best_weights` holds them on disk (safetensors).

    best_epoch counts from 0; stopped_early: train.patience ended it before train.epochs.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    history: list[EpochRecord]
    best_weights: Path
    stopped_early: bool = False

"""Figures of a training: the running sums of an epoch, a record of each epoch, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Meter:
    """Sums over the steps of an epoch so far, and the last step's lr.

    It is saved inside an epoch, so that a resumed epoch reports all of it.
    """

    samples: int = 0
    steps: int = 0
    loss: float = 0.0
    score_loss: float = 0.0
    global_loss: float = 0.0
    grad_norm: float = 0.0
    seconds: float = 0.0
    lr: float = 0.0

    def add(self, samples: int, loss: float, score_loss: float, global_loss: float, grad_norm: float) -> None:
        """Add one step on a batch of `samples` captions."""
        self.samples += samples
        self.steps += 1
        self.loss += loss
        self.score_loss += score_loss
        self.global_loss += global_loss
        self.grad_norm += grad_norm


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
    def from_meter(cls, epoch: int, meter: Meter, dev: dict[str, float]) -> EpochRecord:
        """Return the record of an epoch from its sums."""
        steps = max(1, meter.steps)
        return cls(
            epoch=epoch,
            loss=meter.loss / steps,
            score_loss=meter.score_loss / steps,
            global_loss=meter.global_loss / steps,
            lr=meter.lr,
            grad_norm=meter.grad_norm / steps,
            seconds=meter.seconds,
            samples_per_second=meter.samples / meter.seconds if meter.seconds else 0.0,
            dev=dev,
        )


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`. best_epoch counts from 0; best_weights is the file with the weights of that epoch."""

    best_epoch: int
    best_metrics: dict[str, float]
    history: list[EpochRecord]
    best_weights: Path

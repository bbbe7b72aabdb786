"""Figures of a training: running sums of an epoch, the record of an epoch, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Meter:
    """Sums over the steps of the current epoch, and the learning rate of the last step.

    Part of the checkpoint, so that the record of a resumed epoch covers the whole epoch.
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
    """Figures of one epoch.

    Attributes:
        epoch: number, from 0.
        loss: mean over the batches of score_loss + train.global_loss * global_loss.
        score_loss: mean loss of the final score.
        global_loss: mean loss of the global head.
        lr: learning rate of the last step; a tuned encoder's is lower.
        grad_norm: mean norm of the gradient before clipping.
        seconds: training time, without the dev evaluation.
        samples_per_second: captions per second of training time.
        dev: dev metrics.
    """

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
        """Create the record of an epoch from its sums."""
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
    """The result of `fit`.

    Attributes:
        best_epoch: number of the best epoch, from 0.
        best_metrics: its dev metrics.
        history: all epochs.
        best_weights: file with the weights of the best epoch.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    history: list[EpochRecord]
    best_weights: Path

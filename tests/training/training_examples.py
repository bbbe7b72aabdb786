"""A small data set that a tiny model can learn, and helpers to train on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Dataset, Split
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.model.build import build_model
from hire_model.model.hire import Hire
from hire_model.settings import Settings, resolve
from hire_model.training.distributed import seed_everything
from hire_model.training.loop import fit
from hire_model.training.record import FitResult

NAMES = ["ball", "cat", "tree", "house", "car", "dog", "bird", "chair"]


def write_dataset(out: Path, images: int = 26, captions: Callable[[int], int] = lambda i: 3) -> Path:
    """Write images whose region features encode the object shown; each caption names three objects of its image."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(NAMES), 12)).astype(np.float32)
    facts: dict[str, Any] = {
        "feature_dim": 12,
        "feature_extractor": "test",
        "classes": NAMES,
        "predicates": ["on", "by"],
    }
    with DatasetWriter(out, name="things", **facts) as writer:
        for index in range(images):
            count = int(rng.integers(3, 7))
            things = rng.integers(len(NAMES), size=count)
            corner = rng.random((count, 2)) * 0.6
            writer.add(
                ImageRecord(
                    image_id=f"image {index}",
                    split="train" if index % 4 else "dev",
                    features=(directions[things] + 0.1 * rng.normal(size=(count, 12))).astype(np.float16),
                    captions=[" and ".join(NAMES[i] for i in rng.choice(things, 3)) for _ in range(captions(index))],
                    boxes=np.concatenate([corner, corner + 0.3], axis=1).astype(np.float32),
                    classes=things.astype(np.int32),
                    # Each label and each inverse shares a row with another one. Otherwise its weight cancels in the
                    # mean over neighbours, and its gradient is only rounding error.
                    relations=[(0, 0, 1, 0.9), (1, 1, 2, 0.5), (0, 1, 2, 0.7), (2, 0, 0, 0.6)],
                )
            )
    return out


@dataclass
class TrainingExample:
    """Settings, data and a new model for each test, and `fit` with a simple dev metric."""

    folder: Path
    out: Path

    def settings(self, **train: Any) -> Settings:
        defaults = {"epochs": 4, "batch": 8, "lr": 2e-3, "threads": 1, "device": "cpu", "out": self.out}
        overrides = {
            "model.preset": "tiny",
            "model.dropout": train.pop("dropout", 0.1),
            "data.workers": train.pop("workers", 0),
        }
        return resolve(
            overrides=overrides | {f"train.{k}": v for k, v in (defaults | train).items()}, environ={}
        ).settings

    def split(self, name: str = "train") -> Split:
        return Dataset.open(self.folder).split(name)

    def model(self, settings: Settings) -> Hire:
        seed_everything(settings.train.seed)
        return build_model(settings.model, self.split())

    def bank(self, model: Hire, name: str = "train") -> CaptionBank:
        return CaptionBank.from_lists(model.vocabulary.encode(self.split(name).texts))

    def dev(self, model: Hire) -> dict[str, float]:
        """Return as `rsum` the mean score of true pairs minus the mean score of all pairs, times 100."""
        assert not model.training
        split, bank = self.split("dev"), self.bank(model, "dev")
        images = model.encode_image(collate_regions([split.regions(i) for i in range(len(split.images))]))
        scores = model.score(images, model.encode_text(bank.tokens(range(len(bank))))).total
        return {"rsum": float(scores[split.owner, range(len(bank))].mean() - scores.mean()) * 100}

    def fit(self, settings: Settings | None = None, model: Hire | None = None, **options: Any) -> FitResult:
        settings = settings or self.settings()
        model = model or self.model(settings)
        options = {"dev": self.dev, "digest": "d1"} | options
        return fit(model, self.split(), self.bank(model), settings, out=settings.train.out, **options)

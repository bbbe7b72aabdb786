"""A small model and its galleries, for the tests of galleries and search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import model_examples
import torch

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.gallery.store import Gallery
from hire_model.model.build import build_model
from hire_model.model.hire import Hire


def make_model(split: Split, seed: int = 0, **changes: object) -> Hire:
    """Build a model for the data of `split`, its zero-initialised parts filled in like those of a trained model."""
    torch.manual_seed(seed)
    model = build_model(model_examples.make_settings(**changes), split)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model.eval()


def open_split(dataset: Path, name: str = "") -> Split:
    """Open all images of a data set, or those of one split."""
    return Dataset.open(dataset).split(name)


def make_gallery(model: Hire, split: Split, out: Path, **options: Any) -> Gallery:
    """Build a gallery and open it."""
    build(model, split, out, **options)
    return Gallery.open(out)

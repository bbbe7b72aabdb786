"""A small model and galleries of it, for the tests of galleries and of searching in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import model_examples
import torch

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.gallery.format import Gallery
from hire_model.model.build import build_model
from hire_model.model.hire import Hire


def model_of(split: Split, seed: int = 0, **changes: object) -> Hire:
    """A model for the data of `split` whose zero-initialised parts are filled in, as a trained one's are."""
    torch.manual_seed(seed)
    model = build_model(model_examples.settings(**changes), split)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model.eval()


def split_of(dataset: Path, name: str = "") -> Split:
    """Every image of the data set, or those of one split."""
    return Dataset.open(dataset).split(name)


def gallery_of(model: Hire, split: Split, out: Path, **options: Any) -> Gallery:
    """Build and open."""
    build(model, split, out, **options)
    return Gallery.open(out)

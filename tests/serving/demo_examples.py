"""An untrained model and a gallery with captions and pictures, for the tests of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gallery_examples
import picture_examples

from hire_model.data.store import Split
from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.service.service import Service
from serving.demo import GALLERY


@dataclass(frozen=True)
class Example:
    model: Path
    folder: Path
    gallery: Gallery
    service: Service


def save_untrained_model(folder: Path, dataset: Path, seed: int = 0) -> Path:
    """Save an untrained model and return its folder. Each seed gives another model."""
    return artifact.save(gallery_examples.make_model(gallery_examples.open_split(dataset), seed), folder)


def make_example(folder: Path, dataset: Path) -> Example:
    """Save a model and a gallery of relational scenes in `folder`, and open both."""
    return _make_example(folder, save_untrained_model(folder / "model", dataset), gallery_examples.open_split(dataset))


def make_picture_example(folder: Path) -> Example:
    """Save a model that reads pictures and a gallery of imported pictures in `folder`, and open both."""
    data = picture_examples.import_pictures(folder / "data", 6)
    return _make_example(folder, picture_examples.save_model(data, folder / "model"), data.split(""))


def _make_example(folder: Path, saved: Path, split: Split) -> Example:
    model = artifact.load(saved)
    gallery = gallery_examples.make_gallery(model, split, folder / "gallery", captions=True, address=str(saved))
    service = Service.load(saved)
    service.galleries.add(GALLERY, gallery)
    return Example(saved, folder / "gallery", gallery, service)

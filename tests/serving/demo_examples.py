"""An untrained model and a gallery of relational scenes, with captions and pictures, for the demo page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gallery_examples

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


def model_in(place: Path, dataset: Path, seed: int = 0) -> Path:
    """The folder of a model that nobody trained; another for another seed."""
    return artifact.save(gallery_examples.make_model(gallery_examples.open_split(dataset), seed), place)


def example_in(place: Path, dataset: Path) -> Example:
    saved, split = model_in(place / "model", dataset), gallery_examples.open_split(dataset)
    model = artifact.load(saved)
    gallery = gallery_examples.make_gallery(model, split, place / "gallery", captions=True, address=str(saved))
    service = Service.load(saved)
    service.galleries.add(GALLERY, gallery)
    return Example(saved, place / "gallery", gallery, service)

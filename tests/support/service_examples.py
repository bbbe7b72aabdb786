"""A service with a small model and a gallery, and requests for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gallery_examples

from hire_model.data.store import ImageRegions, Split
from hire_model.model import artifact
from hire_model.service.parsing import Limits
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service

GALLERY = "scenes"


def make_service(folder: Path, split: Split, limits: Limits | None = None) -> Service:
    """Save an untrained model below `folder`, with a gallery 'scenes' of `split`, and load the service."""
    model = gallery_examples.make_model(split)
    saved = artifact.save(model, folder / "model")
    gallery_examples.make_gallery(model, split, folder / "galleries" / GALLERY, captions=True)
    return Service.load(
        saved, version="7", run_id="abc", galleries=folder / "galleries", limits=limits or Limits(pairs=400)
    )


def image(regions: ImageRegions) -> dict[str, Any]:
    """Return an image in the format of a request."""
    return json.loads(serialize_image(regions))


def stored(split: Split, index: int) -> dict[str, str]:
    """Return a reference to image `index` in the gallery."""
    return {"gallery": GALLERY, "id": split.image_id(index)}


def pairs(split: Split, count: int) -> dict[str, Any]:
    """Return a request for `count` pairs."""
    return {"pairs": [{"image": image(split.regions(i)), "text": split.texts[i]} for i in range(count)]}

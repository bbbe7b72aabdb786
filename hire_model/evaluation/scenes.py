"""An image as the pages show it: its picture, made small, and the boxes of its regions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hire_model.data.store import Split

SIDE = 420  # pixels of the longer side; about 30 kB per picture


@dataclass(frozen=True)
class Box:
    """A region's box in pixels of the shown picture; `label` is its class and number."""

    region: int
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scene:
    """An image as shown on a page. `uri` is its picture as a data: URL; None for an empty canvas."""

    image: int
    name: str
    uri: str | None
    width: int
    height: int
    boxes: tuple[Box, ...]


def load_scene(split: Split, image: int, path: Path | None = None) -> Scene:
    """Load an image of the split for display, with the picture `path` if it is set.

    Without a readable picture the scene has an empty canvas.
    """
    path = path or split.picture(image)
    picture = _shrink_to_jpeg(path) if path else None
    uri, width, height = picture or (None, *_fit_canvas(split, image))
    labels, boxes = label_regions(split, image), []
    for i, (x1, y1, x2, y2) in enumerate(split.dataset.layout(int(split.images[image])).boxes):
        if np.isfinite([x1, y1, x2, y2]).all():
            corner = round(float(x1 * width), 1), round(float(y1 * height), 1)
            size = round(float((x2 - x1) * width), 1), round(float((y2 - y1) * height), 1)
            boxes.append(Box(i, labels[i], *corner, *size))
    boxes.sort(key=lambda box: -box.width * box.height)  # small boxes are drawn last, so that the mouse reaches them
    return Scene(image, split.image_id(image), uri, width, height, tuple(boxes))


def label_regions(split: Split, image: int) -> list[str]:
    """Return a name for each region of an image: its class, or "region", and its number."""
    names = split.dataset.manifest.classes
    ids = split.dataset.layout(int(split.images[image])).classes
    return [f"{names[k]} {i}" if 0 <= k < len(names) else f"region {i}" for i, k in enumerate(ids)]


def _shrink_to_jpeg(path: Path) -> tuple[str, int, int] | None:
    """Return the picture as a data: URL, its width and its height; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), small.width, small.height


def _fit_canvas(split: Split, image: int) -> tuple[int, int]:
    """Return width and height of a canvas with the image's aspect ratio, or 4:3 if its size is unknown."""
    width, height = (int(side) for side in split.dataset.image_sizes[split.images[image]])
    if width <= 0 or height <= 0:
        return SIDE, SIDE * 3 // 4
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))

"""An image as the report shows it: a small picture, or a canvas where there is none, and its regions' boxes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hire_model.data.store import Split

SIDE = 420  # pixels of the longer side: enough to see, and about 30 kB each


@dataclass(frozen=True)
class Box:
    """A region's box in the picture's pixels, and its name: class and number."""

    region: int
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scene:
    """What is drawn of one image. `uri` is its picture as a data: address, None for an empty canvas."""

    image: int
    name: str
    uri: str | None
    width: int
    height: int
    boxes: tuple[Box, ...]


def load_scene(split: Split, image: int) -> Scene:
    """The split's image `image`; a picture that cannot be read becomes a canvas, as a report must not fail for it."""
    path = split.picture(image)
    found = _small_jpeg(path) if path else None
    uri, width, height = found or (None, *_canvas_size(split, image))
    labels, boxes = region_labels(split, image), []
    for i, (x1, y1, x2, y2) in enumerate(split.regions(image).boxes):
        if np.isfinite([x1, y1, x2, y2]).all():
            corner = round(float(x1 * width), 1), round(float(y1 * height), 1)
            size = round(float((x2 - x1) * width), 1), round(float((y2 - y1) * height), 1)
            boxes.append(Box(i, labels[i], *corner, *size))
    boxes.sort(key=lambda box: -box.width * box.height)  # small boxes above large ones, so that each can be pointed at
    return Scene(image, split.image_id(image), uri, width, height, tuple(boxes))


def region_labels(split: Split, image: int) -> list[str]:
    """A name for each region of an image: its class, if known, and its number."""
    names = split.dataset.manifest.classes
    kinds = split.regions(image).classes
    return [f"{names[kind]} {i}" if 0 <= kind < len(names) else f"region {i}" for i, kind in enumerate(kinds)]


def _small_jpeg(path: Path) -> tuple[str, int, int] | None:
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


def _canvas_size(split: Split, image: int) -> tuple[int, int]:
    width, height = (int(side) for side in split.dataset.image_sizes[split.images[image]])
    if width <= 0 or height <= 0:
        return SIDE, SIDE * 3 // 4
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))

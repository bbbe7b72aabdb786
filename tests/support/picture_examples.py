"""A data set imported from generated pictures, a small model for it, and requests with pictures."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import gallery_examples
from picture_files import encode, scene

from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.importers.base import Target
from hire_model.data.store import Dataset
from hire_model.model import artifact

FLOAT16 = 1e-3
"""Largest difference of two scores of a picture that was extracted twice: the network's last digits depend on the
number of threads, and features are rounded to float16."""
COLOURS = ("red", "green", "blue", "yellow", "black", "white")


def write_pictures(folder: Path, count: int) -> Path:
    """Write pictures of coloured boxes and their captions; return the captions file."""
    (folder / "pictures").mkdir(parents=True)
    lines = ["image,caption"]
    for seed in range(count):
        image, colour = scene(seed, 96, 64), COLOURS[seed % len(COLOURS)]
        image.paste(colour, (30, 20, 80, 60))
        (folder / "pictures" / f"{seed}.jpg").write_bytes(encode(image))
        lines += [f"{seed}.jpg,a large {colour} box number {seed}", f"{seed}.jpg,{colour} paint on picture {seed}"]
    (folder / "captions.csv").write_text("\n".join(lines), "utf-8")
    return folder / "captions.csv"


def import_pictures(folder: Path, count: int, detector: Path | None = None) -> Dataset:
    """Write pictures and import them with the grid extractor, or with a detector."""
    captions = write_pictures(folder, count)
    import_images(ImageImport(folder / "pictures", captions, detector=detector), Target(folder / "set"))
    return Dataset.open(folder / "set")


def save_model(data: Dataset, folder: Path, **changes: object) -> Path:
    """Save an untrained model for the data set, with its extractor, and return its folder."""
    return artifact.save(gallery_examples.make_model(data.split(""), **changes), folder, {}, data)  # type: ignore[arg-type]


def picture(content: bytes) -> dict[str, str]:
    """Return a picture in the format of a request."""
    return {"picture": base64.b64encode(content).decode()}


def pair(content: bytes, text: str = "a red box") -> dict[str, Any]:
    """Return a request for the score of a picture and a text."""
    return {"pairs": [{"image": picture(content), "text": text}]}

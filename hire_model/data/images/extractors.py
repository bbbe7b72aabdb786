"""Region extractors: a picture becomes boxes, classes, scores and features.

To add one, write a class with the members of `Extractor`, and let `open_extractor` return it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import JsonValue

from hire_model.data.images.backbone import FEATURE_DIM, Backbone
from hire_model.data.images.detector import YoloxDetector

MAX_REGIONS = 36
WHOLE_IMAGE = "whole image"  # class of the region that is the picture itself; grid cells have class -1
_LEVELS = (2, 3, 4)  # grids of 2 x 2, 3 x 3 and 4 x 4 cells
_SIDE = 448  # pixels; with it the features agree best with published RoIAlign features of the same network
_VERSION = 1  # raise it when the same picture and weights give other regions


@dataclass(frozen=True)
class PictureRegions:
    """Regions of one picture.

    boxes [r, 4] float32 x1 y1 x2 y2 as fractions; classes [r] int32, -1 unknown; scores [r] float32, NaN unknown;
    features [r, F] float16
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    features: np.ndarray


class Extractor(Protocol):
    """What an import needs of an extractor.

    name         method and network, for people
    digest       SHA-256 of the weights and of all that changes the result; features of two digests are never mixed
    feature_dim  numbers per region
    classes      names of the class ids
    kind         name in `recorded.KINDS`, which opens the same extractor again; empty if nothing can
    options      what `recorded.KINDS` needs besides the file
    file         ONNX file with the weights, copied into data sets and models; None if they are installed
    """

    kind: str
    options: dict[str, JsonValue]
    file: Path | None
    name: str
    digest: str
    feature_dim: int
    classes: tuple[str, ...]

    def extract(self, image: Image.Image) -> PictureRegions:
        """Return 1 to 36 regions of an upright RGB picture."""
        ...


class GridExtractor:
    """The whole image and the cells of grids of 2 x 2, 3 x 3 and 4 x 4: 30 regions. Needs no detector."""

    kind = "grid"

    def __init__(self) -> None:
        self.options: dict[str, JsonValue] = {}
        self.file: Path | None = None
        self.backbone = Backbone(_SIDE)
        self.name = "grid regions, EfficientNet-Lite0"
        self.digest = _digest(kind="grid", backbone=self.backbone.digest)
        self.feature_dim = FEATURE_DIM
        self.classes: tuple[str, ...] = (WHOLE_IMAGE,)

    def extract(self, image: Image.Image) -> PictureRegions:
        """Return the 30 regions; none has a score."""
        boxes = np.concatenate([_WHOLE, *map(make_cells, _LEVELS)])
        classes = np.full(len(boxes), -1, np.int32)
        classes[0] = 0
        features = self.backbone.pool(image, boxes)
        return PictureRegions(boxes, classes, np.full(len(boxes), np.nan, np.float32), features.astype(np.float16))


class DetectorExtractor:
    """The whole image, the boxes of a YOLOX detector, and grid cells where few boxes are found; at most 36 regions.

    A grid is added only if all its cells fit: with 10 boxes those of 2 x 2 and 3 x 3, not the 16 of 4 x 4.
    """

    kind = "yolox"

    def __init__(self, path: Path) -> None:
        self.options: dict[str, JsonValue] = {}
        self.file: Path | None = path
        self.detector = YoloxDetector(path)
        self.backbone = Backbone(_SIDE)
        self.name = f"{path.stem} boxes, EfficientNet-Lite0"
        self.digest = _digest(kind="yolox", backbone=self.backbone.digest, detector=self.detector.digest)
        self.feature_dim = FEATURE_DIM
        self.classes: tuple[str, ...] = (*self.detector.classes, WHOLE_IMAGE)

    def extract(self, image: Image.Image) -> PictureRegions:
        """Return the whole image, then the boxes from the best score down, then the cells."""
        found = self.detector.detect(image, MAX_REGIONS - 1)
        boxes = np.concatenate([_WHOLE, found.boxes])
        for level in _LEVELS:
            if len(boxes) + level * level <= MAX_REGIONS:
                boxes = np.concatenate([boxes, make_cells(level)])
        classes = np.full(len(boxes), -1, np.int32)
        scores = np.full(len(boxes), np.nan, np.float32)
        detected = slice(1, 1 + len(found.boxes))
        classes[0], classes[detected], scores[detected] = len(self.classes) - 1, found.classes, found.scores
        return PictureRegions(boxes, classes, scores, self.backbone.pool(image, boxes).astype(np.float16))


_WHOLE = np.array([[0, 0, 1, 1]], np.float32)


def make_cells(level: int) -> np.ndarray:
    """Return the level x level cells of a grid as boxes [level², 4], row by row."""
    rows, columns = np.divmod(np.arange(level * level), level)
    return (np.stack([columns, rows, columns + 1, rows + 1], axis=1) / level).astype(np.float32)


def _digest(**parts: str) -> str:
    facts = {"version": _VERSION, "side": _SIDE, "levels": _LEVELS, "regions": MAX_REGIONS, **parts}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_extractor(detector: Path | None) -> Extractor:
    """Return the grid extractor, or the one with the boxes of the ONNX file `detector`."""
    return GridExtractor() if detector is None else DetectorExtractor(detector)

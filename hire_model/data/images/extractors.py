"""Region extractors: a picture becomes boxes, classes, scores and features.

To add one, write a class with the members of `Extractor`, and let `open_extractor` return it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import JsonValue

from hire_model.data.images.backbone import FEATURE_DIM, Backbone
from hire_model.data.images.checkpoint_detectors import NEEDS_NAMES, CheckpointDetector, open_detector
from hire_model.data.images.checkpoints import locate, name_tower
from hire_model.data.images.detector import WHOLE_IMAGE, Found, YoloxDetector, select_objects
from hire_model.data.images.open_vocabulary import Owlv2Detector
from hire_model.data.images.patches import PatchBackbone
from hire_model.errors import DataError

MAX_REGIONS = 36
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
        boxes, classes, scores = lay_out_regions(None, self.classes)
        return PictureRegions(boxes, classes, scores, self.backbone.pool(image, boxes).astype(np.float16))


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
        boxes, classes, scores = lay_out_regions(found, self.classes)
        return PictureRegions(boxes, classes, scores, self.backbone.pool(image, boxes).astype(np.float16))


class CheckpointExtractor:
    """Boxes or features, or both, from checkpoints of transformers.

    | detector | backbone | regions | features |
    |---|---|---|---|
    | D-FINE, RT-DETRv2, Grounding DINO | none | the 36 best queries | the states of the queries |
    | OWLv2 | none | as those of `DetectorExtractor` | embeddings of its patches; their means for the other regions |
    | checkpoint or YOLOX | checkpoint | as those of `DetectorExtractor` | means of patches |
    | none | checkpoint | as those of `GridExtractor` | means of patches |

    Args:
        detector: a checkpoint (see `open_checkpoint`), an ONNX file of a YOLOX detector, or empty for the grid.
        backbone: a checkpoint, or empty for the states of the detector's queries.
        tower: append the backbone's embedding of the picture; see `PatchBackbone`.
        classes: names that OWLv2 or Grounding DINO detect.
    """

    kind = "checkpoint"

    def __init__(self, detector: str, backbone: str, tower: bool = False, classes: Sequence[str] = ()) -> None:
        self.detector: CheckpointDetector | YoloxDetector | None = None
        self.file = Path(detector) if detector and is_onnx_file(detector) else None
        if detector:
            self.detector = YoloxDetector(self.file) if self.file else open_detector(detector, classes)
        checkpoints = {"detector": "" if self.file else detector, "backbone": backbone}
        self.options: dict[str, JsonValue] = {key: locate(name) for key, name in checkpoints.items()} | {"tower": tower}
        if classes:
            self.options["classes"] = list(classes)
        self.backbone = PatchBackbone(backbone, tower) if backbone else None
        regions = "grid" if self.detector is None else self.detector.name
        parts = {"kind": "checkpoint", "detector": "" if self.detector is None else self.detector.digest}
        self.classes: tuple[str, ...] = () if self.detector is None else self.detector.classes
        if self.backbone is None:
            assert self.detector is not None and not isinstance(self.detector, YoloxDetector)
            self.name, self.feature_dim = f"{regions} queries", self.detector.feature_dim
            if isinstance(self.detector, Owlv2Detector):
                self.name, self.classes = f"{regions} patches", (*self.classes, WHOLE_IMAGE)
        else:
            self.name, self.feature_dim = f"{regions} boxes, {self.backbone.name} patches", self.backbone.feature_dim
            self.classes = (*self.classes, WHOLE_IMAGE)
            parts |= {"backbone": self.backbone.digest, "tower": str(tower)}
            if tower:
                self.name += f", {name_tower(self.backbone.digest)}"
        if classes:
            self.name += f", {len(classes)} named classes"
        self.digest = _digest(**parts)

    def extract(self, image: Image.Image) -> PictureRegions:
        """Return the regions as the table of the class says; those of a detector from the best score down."""
        if self.backbone is None and not isinstance(self.detector, Owlv2Detector):
            assert self.detector is not None
            found = self.detector.detect(image, MAX_REGIONS)
            assert found.features is not None
            return PictureRegions(found.boxes, found.classes, found.scores, found.features.astype(np.float16))
        found_objects = None
        if self.detector is not None:
            found_objects = select_objects(self.detector.detect(image), MAX_REGIONS - 1)
        boxes, classes, scores = lay_out_regions(found_objects, self.classes)
        if self.backbone is not None:
            features = self.backbone.pool(image, boxes)
        else:
            assert found_objects is not None and found_objects.patches is not None
            features = found_objects.patches.pool(boxes)
            features[1 : 1 + len(found_objects.boxes)] = found_objects.features
        return PictureRegions(boxes, classes, scores, features.astype(np.float16))


_WHOLE = np.array([[0, 0, 1, 1]], np.float32)


def lay_out_regions(found: Found | None, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, classes and scores of the whole image, then of `found`, then of the cells that fit.

    The whole image has the last of `classes`, a cell has none; both have no score.
    """
    boxes = _WHOLE if found is None else np.concatenate([_WHOLE, found.boxes])
    detected = slice(1, len(boxes))
    for level in _LEVELS:
        if len(boxes) + level * level <= MAX_REGIONS:
            boxes = np.concatenate([boxes, make_cells(level)])
    ids, scores = np.full(len(boxes), -1, np.int32), np.full(len(boxes), np.nan, np.float32)
    ids[0] = len(classes) - 1
    if found is not None:
        ids[detected], scores[detected] = found.classes, found.scores
    return boxes, ids, scores


def make_cells(level: int) -> np.ndarray:
    """Return the level x level cells of a grid as boxes [level², 4], row by row."""
    rows, columns = np.divmod(np.arange(level * level), level)
    return (np.stack([columns, rows, columns + 1, rows + 1], axis=1) / level).astype(np.float32)


def _digest(**parts: str) -> str:
    facts = {"version": _VERSION, "side": _SIDE, "levels": _LEVELS, "regions": MAX_REGIONS, **parts}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_onnx_file(detector: str) -> bool:
    """Return whether `detector` names a file, not a checkpoint."""
    return detector.endswith(".onnx") or Path(detector).expanduser().is_file()


def open_extractor(
    detector: str | Path | None, backbone: str = "", tower: bool = False, classes: Sequence[str] = ()
) -> Extractor:
    """Return the extractor of the options of `hire data import images`; see `CheckpointExtractor`."""
    name = str(detector or "")
    if classes and (not name or is_onnx_file(name)):
        raise DataError(f"--classes needs another --detector. {NEEDS_NAMES}")
    if tower and not backbone:
        raise DataError("--tower needs --backbone with a checkpoint of CLIP or SigLIP.")
    if backbone or (name and not is_onnx_file(name)):
        return CheckpointExtractor(name, backbone, tower, classes)
    return DetectorExtractor(Path(name)) if name else GridExtractor()

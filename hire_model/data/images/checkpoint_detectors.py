"""Open any detector of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from hire_model.data.images.checkpoints import choose_class, open_checkpoint
from hire_model.data.images.detector import Found
from hire_model.data.images.open_vocabulary import GroundingDetector, Owlv2Detector
from hire_model.data.images.queries import QUERY_TYPES, QueryDetector
from hire_model.errors import DataError

NEEDS_NAMES = "Expected --classes with a checkpoint of OWLv2 or Grounding DINO as --detector."


class CheckpointDetector(Protocol):
    """What `CheckpointExtractor` needs of a detector; see `QueryDetector`."""

    name: str
    digest: str
    classes: tuple[str, ...]
    feature_dim: int

    def detect(self, image: Image.Image, limit: int | None = None) -> Found:
        """Return the `limit` best detections with their features, best first."""
        ...


def open_detector(name: str, classes: Sequence[str] = ()) -> CheckpointDetector:
    """Open a detector of transformers; see `open_checkpoint`.

    Raises:
        DataError: it cannot be used, or `classes` are missing or superfluous.
    """
    checkpoint = open_checkpoint(name)
    named: dict[str, type] = {"owlv2": Owlv2Detector, "grounding-dino": GroundingDetector}
    chosen = choose_class(checkpoint, dict.fromkeys(QUERY_TYPES, QueryDetector) | named, "--detector")
    if chosen is QueryDetector:
        if classes:
            raise DataError(f"--classes: {checkpoint.name} has classes of its own. {NEEDS_NAMES}")
        return QueryDetector(checkpoint)
    if not classes:
        raise DataError(
            f"--detector {checkpoint.name}: detects what you name. Add --classes 'dog, red ball' or a file."
        )
    detector: CheckpointDetector = chosen(checkpoint, classes)
    return detector

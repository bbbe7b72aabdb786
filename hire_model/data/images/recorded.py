"""Describe the extractor of a data set, and open the same one again for new pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from hire_model.data.images.extractors import CheckpointExtractor, DetectorExtractor, Extractor, GridExtractor
from hire_model.data.schema import EXTRACTOR, ExtractorFacts
from hire_model.errors import DataError

KINDS: Final[dict[str, Callable[[ExtractorFacts, Path], Extractor]]] = {
    "grid": lambda facts, folder: GridExtractor(),
    "yolox": lambda facts, folder: DetectorExtractor(folder / EXTRACTOR),
    "checkpoint": lambda facts, folder: CheckpointExtractor(
        str(folder / EXTRACTOR) if facts.file else str(facts.options["detector"]),
        str(facts.options["backbone"]),
        bool(facts.options["tower"]),
        [str(name) for name in cast(list[str], facts.options.get("classes", []))],
    ),
}
"""By `Extractor.kind`: a function of the recorded facts and the folder that has extractor.onnx."""


def describe_extractor(extractor: Extractor) -> ExtractorFacts | None:
    """Return what `open_recorded` needs to open the extractor again, or None if it cannot."""
    if extractor.kind not in KINDS:
        return None
    return ExtractorFacts.record(extractor, extractor.file is not None)


def open_recorded(facts: ExtractorFacts, folder: Path) -> Extractor:
    """Open the extractor that `facts`, in the manifest or the config of `folder`, describe.

    Raises:
        DataError: this release does not have it, a package is missing, or its weights or settings differ.
    """
    if facts.kind not in KINDS:
        raise DataError(
            f"{folder}: its pictures were extracted by '{facts.name}' (kind '{facts.kind}'), which this release does "
            f"not have. Expected one of {', '.join(KINDS)}. Install a newer release."
        )
    extractor = KINDS[facts.kind](facts, folder)
    if extractor.digest != facts.digest:
        raise DataError(
            f"{folder}: its pictures were extracted by '{facts.name}' with digest {facts.digest[:16]}, but the one "
            f"installed here has {extractor.digest[:16]}: other weights or settings, so other features. Install the "
            "packages that the model was trained with."
        )
    return extractor

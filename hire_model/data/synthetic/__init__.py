"""Generate relational scenes from a seed: pictures, captions, regions and relations, without a download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hire_model.data.schema import Manifest
from hire_model.data.synthetic.captions import Caption, write_captions
from hire_model.data.synthetic.detector import EXTRACTOR, FEATURE_DIM, Detections, Faults, detect
from hire_model.data.synthetic.drawing import draw_scene
from hire_model.data.synthetic.large import sample_large_pair
from hire_model.data.synthetic.sampling import sample_pair
from hire_model.data.synthetic.world import CLASSES, HEIGHT, PREDICATES, WIDTH, Rng, Scene
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError
from hire_model.progress import show_progress

__all__ = ["Faults", "generate", "generate_scenes"]

TWIN_SHARE = 0.6
# One block of 20 images: 8 single scenes (False) and 6 pairs of twins (True).
_BLOCK = (False, True, True, False, False, True, False, False, True, True, False, False, True, False)


def generate(
    out: str | Path,
    *,
    train: int = 4000,
    dev: int = 200,
    test: int = 200,
    seed: int = 0,
    large: bool = False,
    overwrite: bool = False,
    faults: Faults | None = None,
) -> Manifest:
    """Write a data set of relational scenes with five captions each to `out`, and return its manifest.

    The same arguments give the same digest.

    Args:
        out: folder of the data set
        train, dev, test: number of images of each split
        seed: seed of all random numbers
        large: make scenes of 15 to 36 objects instead of 3 to 11
        overwrite: replace an existing data set
        faults: error rates of the simulated detector, default `Faults()`

    Raises:
        DataError: `out` exists and `overwrite` is False, or a number of images is negative.
    """
    sizes = {"train": train, "dev": dev, "test": test}
    for name, size in sizes.items():
        if size < 0:
            raise DataError(f"{name}={size}: expected a number of images, at least 0.")
    faults = faults or Faults()
    with DatasetWriter(
        out,
        name="large relational scenes" if large else "relational scenes",
        feature_dim=FEATURE_DIM,
        feature_extractor=EXTRACTOR,
        classes=tuple(CLASSES),
        predicates=PREDICATES,
        source=f"hire data synth{' --large' if large else ''}, seed {seed}; faults of the detector: {faults}",
        licence="Apache-2.0",
        overwrite=overwrite,
    ) as writer:
        scenes = show_progress(generate_scenes(sizes, seed, large), "drawing scenes", sum(sizes.values()))
        for split, image_id, scene, captions, rng in scenes:
            picture = f"{image_id}.png"
            draw_scene(scene).save(writer.pictures / picture, compress_level=1)
            writer.add(_make_record(image_id, split, picture, captions, detect(rng, scene, faults)))
    assert writer.manifest is not None
    return writer.manifest


def generate_scenes(
    sizes: dict[str, int], seed: int, large: bool = False
) -> Iterator[tuple[str, str, Scene, list[Caption], Rng]]:
    """Yield split, image id, scene, captions and random generator of each image.

    Twins follow each other, and their ids differ only in the last letter, a or b. No scene is repeated.
    """
    seen: set[object] = set()
    for number, (split, size) in enumerate(sizes.items()):
        written = group = 0
        while written < size:
            twin = _BLOCK[group % len(_BLOCK)] and size - written > 1
            rng = np.random.default_rng([seed, number, group])
            members = _sample_group(rng, twin, seen, large)
            for letter, (scene, captions) in zip("ab", members, strict=False):
                yield split, f"{split}-{group:06d}{letter if twin else ''}", scene, captions, rng
            written, group = written + len(members), group + 1


def _sample_group(rng: Rng, twin: bool, seen: set[object], large: bool) -> list[tuple[Scene, list[Caption]]]:
    """Return one scene or a pair of twins with their captions. No scene is in `seen`, to which they are added."""
    while True:
        pair = (sample_large_pair if large else sample_pair)(rng, twin)
        scenes = [pair.scene] + ([pair.twin] if pair.twin else [])
        if any(scene.key in seen for scene in scenes):
            continue
        try:
            members = [(s, write_captions(rng, s, scenes[1 - i] if twin else None)) for i, s in enumerate(scenes)]
        except ValueError:
            continue
        seen.update(scene.key for scene in scenes)
        return members


def _make_record(
    image_id: str, split: str, picture: str, captions: list[Caption], detections: Detections
) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        split=split,
        features=detections.features,
        captions=[caption.text for caption in captions],
        width=WIDTH,
        height=HEIGHT,
        boxes=detections.boxes,
        classes=detections.classes,
        scores=detections.scores,
        relations=detections.relations,
        picture=picture,
    )

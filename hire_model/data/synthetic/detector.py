"""Simulate a detector and a scene-graph generator with given error rates."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hire_model.data.synthetic.relations import find_facts
from hire_model.data.synthetic.world import CLASSES, COLOURS, FACINGS, HEIGHT, PREDICATES, SIZES, WIDTH, Rng, Scene
from hire_model.errors import DataError

FEATURE_DIM = 128
EXTRACTOR = "relational scenes, fixed projection 1 of class, colour, size and facing"
_PROJECTION_SEED = 20240618  # do not change: models must work on data sets that are generated later
_STRENGTH = {"class": 1.0, "colour": 0.8, "size": 0.4, "facing": 0.5}
_CLASS_IDS = {name: i for i, name in enumerate(CLASSES)}
_PREDICATE_IDS = {name: i for i, name in enumerate(PREDICATES)}


@dataclass(frozen=True)
class Faults:
    """Error rates of the detector and the scene-graph generator, 0-1 except `background` and `noise`, 0-10.

    missed       rate of objects that are not detected
    shifted      rate of boxes with each side shifted by up to a quarter of the box size
    jitter       standard deviation of the error of the other boxes, as a fraction of their size
    wrong_class  rate of objects detected as a similar class, in feature and class id
    lost         rate of relations between detected objects that are not found
    false        number of false relations, as a fraction of the true ones
    duplicates   rate of objects that are detected twice
    background   mean number of background regions per image
    noise        standard deviation of the noise of a feature; that of the signal is about 1
    """

    missed: float = 0.04
    shifted: float = 0.1
    jitter: float = 0.02
    wrong_class: float = 0.04
    lost: float = 0.12
    false: float = 0.15
    duplicates: float = 0.05
    background: float = 0.7
    noise: float = 0.6

    def __post_init__(self) -> None:
        for rate in fields(self):
            value, highest = getattr(self, rate.name), 10.0 if rate.name in ("background", "noise") else 1.0
            if not 0 <= value <= highest:
                raise DataError(f"faults.{rate.name}={value}: expected a number from 0 to {highest:g}.")

    def __str__(self) -> str:
        """Return the rates as text: "missed 0.04, shifted 0.1, ..."."""
        return ", ".join(f"{rate.name.replace('_', ' ')} {getattr(self, rate.name):g}" for rate in fields(self))

    @classmethod
    def none(cls) -> Faults:
        """Return rates of 0: each object once, exact boxes, features without noise, all relations."""
        return cls(**{rate.name: 0.0 for rate in fields(cls)})


@dataclass(frozen=True)
class Detections:
    """The detected regions of one image.

    features   [r, F]
    boxes      [r, 4] fractions
    classes    [r]
    scores     [r]
    relations  (subject, predicate, object, score) each
    slots      [r] slot that the region shows, -1 for background
    """

    features: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    relations: list[tuple[int, int, int, float]]
    slots: np.ndarray


def _make_projection() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(_PROJECTION_SEED)
    sizes = {"class": len(CLASSES), "colour": len(COLOURS), "size": len(SIZES), "facing": len(FACINGS)}
    return {name: _STRENGTH[name] * rng.standard_normal((count, FEATURE_DIM)) for name, count in sizes.items()}


_PROJECTION = _make_projection()


def encode_appearance(look: tuple[str, str, str, str]) -> np.ndarray:
    """Return the feature of a region without noise, [F] float64. `look`: class, colour, size, facing."""
    cls, colour, size, facing = look
    parts = _PROJECTION
    return (
        parts["class"][_CLASS_IDS[cls]]
        + parts["colour"][COLOURS.index(colour)]
        + parts["size"][SIZES.index(size)]
        + parts["facing"][FACINGS.index(facing)]
    )


def detect(rng: Rng, scene: Scene, faults: Faults) -> Detections:
    """Return regions and relations of `scene` with simulated errors. Regions are in random order."""
    seen = [i for i in scene.present if rng.random() >= faults.missed] or list(scene.present[:1])
    slots = seen + [i for i in seen if rng.random() < faults.duplicates] + [-1] * int(rng.poisson(faults.background))
    slots = [slots[i] for i in rng.permutation(len(slots))]
    regions = [_detect_region(rng, scene, i, faults) for i in slots]
    names, features, boxes, scores = zip(*regions, strict=True)
    noise = faults.noise * rng.standard_normal((len(slots), FEATURE_DIM))
    return Detections(
        features=np.stack(features) + noise,
        boxes=np.stack(boxes).astype(np.float32),
        classes=np.array([_CLASS_IDS[name] for name in names]),
        scores=np.array(scores, np.float32),
        relations=_detect_relations(rng, scene, slots, faults),
        slots=np.array(slots),
    )


def _detect_region(rng: Rng, scene: Scene, slot: int, faults: Faults) -> tuple[str, np.ndarray, np.ndarray, float]:
    """Return class, feature, box and score of one region. A slot below 0 is background."""
    if slot < 0:
        corner, size = rng.uniform(0, 0.7, 2), rng.uniform(0.08, 0.3, 2)
        feature = rng.standard_normal(FEATURE_DIM)
        return str(rng.choice(list(CLASSES))), feature, np.concatenate([corner, corner + size]), float(rng.beta(2, 5))
    cls, *rest = scene.find_appearance(slot)
    wrong = rng.random() < faults.wrong_class
    if wrong:
        group = CLASSES[cls].look_group
        others = [c.name for c in CLASSES.values() if c.name != cls and c.look_group == group] or list(CLASSES)
        cls = str(rng.choice(others))
    score = float(rng.beta(4, 3) if wrong else rng.beta(8, 2))
    box = np.array(scene.boxes[slot]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return cls, encode_appearance((cls, *rest)), _shift_box(rng, box, faults), score  # type: ignore[arg-type]


def _shift_box(rng: Rng, box: np.ndarray, faults: Faults) -> np.ndarray:
    """Return the box with an error proportional to its size, clipped to the picture."""
    error = rng.uniform(-0.25, 0.25, 4) if rng.random() < faults.shifted else rng.normal(0, 1, 4) * faults.jitter
    return np.clip(box + np.tile(box[2:] - box[:2], 2) * error, 0, 1)


def _detect_relations(rng: Rng, scene: Scene, slots: list[int], faults: Faults) -> list[tuple[int, int, int, float]]:
    """Return relations between regions. If an object was detected twice, its relations belong to the first region."""
    regions = {slot: i for i, slot in reversed(list(enumerate(slots))) if slot >= 0}
    relations = []
    for subject, predicate, object_ in sorted(find_facts(scene)):
        if predicate in _PREDICATE_IDS and subject in regions and object_ in regions and rng.random() >= faults.lost:
            score = float(rng.beta(6, 2)) if faults.lost else 1.0
            relations.append((regions[subject], _PREDICATE_IDS[predicate], regions[object_], score))
    if len(slots) > 1:
        for _ in range(int(rng.poisson(faults.false * len(relations)))):
            subject, object_ = (int(i) for i in rng.choice(len(slots), 2, replace=False))
            relations.append((subject, int(rng.integers(len(PREDICATES))), object_, float(rng.beta(2, 4))))
    return relations

"""What a detector and a scene-graph generator would make of a scene, with their faults at stated rates."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hire_model.data.synthetic.relations import find_facts
from hire_model.data.synthetic.world import CLASSES, COLOURS, FACINGS, HEIGHT, PREDICATES, SIZES, WIDTH, Rng, Scene
from hire_model.errors import DataError

FEATURE_DIM = 128
EXTRACTOR = "relational scenes, fixed projection 1 of class, colour, size and facing"
_PROJECTION_SEED = 20240618  # never changed: a model trained on one generated set must work on the next
_STRENGTH = {"class": 1.0, "colour": 0.8, "size": 0.4, "facing": 0.5}
_CLASS_IDS = {name: i for i, name in enumerate(CLASSES)}
_PREDICATE_IDS = {name: i for i, name in enumerate(PREDICATES)}


@dataclass(frozen=True)
class Faults:
    """How often the detector and the scene-graph generator err. All rates in 0-1 except where said.

    missed       an object is not detected
    shifted      a box has each side off by up to a quarter of its size
    jitter       standard deviation of the error of the other boxes, as a share of their size
    wrong_class  an object is taken for another of its kind, in feature as well as in class
    lost         a relation between detected objects is not found
    false        false relations, as a share of the true ones
    duplicates   an object is detected twice
    background   regions of nothing per image, on average
    noise        standard deviation of a feature's noise, where the signal's is about 1
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
            value, most = getattr(self, rate.name), 1.0 if rate.name not in ("background", "noise") else 10.0
            if not 0 <= value <= most:
                raise DataError(f"faults.{rate.name}={value}: expected a number from 0 to {most:g}.")

    def __str__(self) -> str:
        """For people: "missed 0.04, shifted 0.1, ..."."""
        return ", ".join(f"{rate.name.replace('_', ' ')} {getattr(self, rate.name):g}" for rate in fields(self))

    @classmethod
    def none(cls) -> Faults:
        """No faults at all: each object once, its exact box, a feature without noise, all relations."""
        return cls(**{rate.name: 0.0 for rate in fields(cls)})


@dataclass(frozen=True)
class Detections:
    """Regions of one image: features [r, F], boxes [r, 4] fractions, classes [r], scores [r], relations, and for each
    region the slot that it shows, -1 for background."""

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
    """[F] float64, what a region looks like without noise. `look`: class, colour, size, facing."""
    cls, colour, size, facing = look
    parts = _PROJECTION
    return (
        parts["class"][_CLASS_IDS[cls]]
        + parts["colour"][COLOURS.index(colour)]
        + parts["size"][SIZES.index(size)]
        + parts["facing"][FACINGS.index(facing)]
    )


def detect(rng: Rng, scene: Scene, faults: Faults) -> Detections:
    """Regions and relations of `scene`, in an order that tells nothing."""
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
    """Class, feature, box and score of one region."""
    if slot < 0:
        corner, size = rng.uniform(0, 0.7, 2), rng.uniform(0.08, 0.3, 2)
        feature = rng.standard_normal(FEATURE_DIM)
        return str(rng.choice(list(CLASSES))), feature, np.concatenate([corner, corner + size]), float(rng.beta(2, 5))
    cls, *rest = scene.appearance(slot)
    wrong = rng.random() < faults.wrong_class
    if wrong:
        kind = CLASSES[cls].looks_like
        others = [c.name for c in CLASSES.values() if c.name != cls and c.looks_like == kind] or list(CLASSES)
        cls = str(rng.choice(others))
    score = float(rng.beta(4, 3) if wrong else rng.beta(8, 2))
    box = np.array(scene.boxes[slot]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return cls, encode_appearance((cls, *rest)), _shift_box(rng, box, faults), score  # type: ignore[arg-type]


def _shift_box(rng: Rng, box: np.ndarray, faults: Faults) -> np.ndarray:
    """The box as found: with an error that scales with its size, cut off at the picture's border."""
    error = rng.uniform(-0.25, 0.25, 4) if rng.random() < faults.shifted else rng.normal(0, 1, 4) * faults.jitter
    return np.clip(box + np.tile(box[2:] - box[:2], 2) * error, 0, 1)


def _detect_relations(rng: Rng, scene: Scene, slots: list[int], faults: Faults) -> list[tuple[int, int, int, float]]:
    """Found relations between regions; of an object that was detected twice the first region takes them."""
    regions = {slot: i for i, slot in reversed(list(enumerate(slots))) if slot >= 0}
    found = []
    for subject, predicate, object_ in sorted(find_facts(scene)):
        if predicate in _PREDICATE_IDS and subject in regions and object_ in regions and rng.random() >= faults.lost:
            score = float(rng.beta(6, 2)) if faults.lost else 1.0
            found.append((regions[subject], _PREDICATE_IDS[predicate], regions[object_], score))
    if len(slots) > 1:
        for _ in range(int(rng.poisson(faults.false * len(found)))):
            subject, object_ = (int(i) for i in rng.choice(len(slots), 2, replace=False))
            found.append((subject, int(rng.integers(len(PREDICATES))), object_, float(rng.beta(2, 4))))
    return found

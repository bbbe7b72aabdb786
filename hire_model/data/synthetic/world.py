"""Classes, colours, predicates and scenes of the generated data.

A scene has columns, slots, and the entity in each slot. The slots determine all positions and therefore all relations.
A twin is the same scene with two entities, two columns or two colours exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BRIGHT = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white")
COATS = ("brown", "black", "white", "grey")
WOODS = ("brown", "white", "green", "red")
LEAVES = ("green", "orange")
COLOURS = tuple(dict.fromkeys(BRIGHT + COATS))
SIZES = ("normal", "small", "big")
FACINGS = ("front", "left", "right")


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects.

    width, height  normal size in pixels of a 320 x 240 picture
    palette        possible colours
    words          words for it in captions
    look_group     group of classes that the detector confuses
    turns          whether it can face left or right
    """

    name: str
    width: int
    height: int
    palette: tuple[str, ...]
    words: tuple[str, ...]
    look_group: str
    turns: bool = False


_ALL = (
    ObjectClass("man", 42, 106, BRIGHT, ("man", "man", "guy", "gentleman"), "person", True),
    ObjectClass("woman", 40, 100, BRIGHT, ("woman", "woman", "lady"), "person", True),
    ObjectClass("boy", 32, 76, BRIGHT, ("boy", "boy", "young boy"), "person", True),
    ObjectClass("girl", 32, 74, BRIGHT, ("girl", "girl", "young girl"), "person", True),
    ObjectClass("dog", 56, 40, COATS, ("dog", "dog", "hound"), "animal", True),
    ObjectClass("cat", 42, 34, COATS, ("cat", "cat", "kitty"), "animal", True),
    ObjectClass("horse", 94, 78, COATS, ("horse", "horse", "pony"), "animal", True),
    ObjectClass("bird", 32, 24, BRIGHT, ("bird",), "flying", True),
    ObjectClass("hat", 32, 16, BRIGHT, ("hat", "cap"), "worn"),
    ObjectClass("scarf", 26, 20, BRIGHT, ("scarf",), "worn"),
    ObjectClass("ball", 21, 21, BRIGHT, ("ball",), "round"),
    ObjectClass("umbrella", 54, 56, BRIGHT, ("umbrella", "umbrella", "parasol"), "stick"),
    ObjectClass("balloon", 22, 50, BRIGHT, ("balloon",), "round"),
    ObjectClass("cup", 17, 18, BRIGHT, ("cup", "mug"), "small"),
    ObjectClass("book", 24, 19, BRIGHT, ("book",), "small"),
    ObjectClass("flag", 32, 52, BRIGHT, ("flag", "banner"), "stick"),
    ObjectClass("bag", 24, 27, BRIGHT, ("bag", "handbag"), "small"),
    ObjectClass("kite", 36, 42, BRIGHT, ("kite",), "flying"),
    ObjectClass("table", 88, 50, WOODS, ("table", "table", "desk"), "wood"),
    ObjectClass("bench", 92, 50, WOODS, ("bench",), "wood"),
    ObjectClass("box", 36, 30, BRIGHT, ("box", "crate"), "small"),
    ObjectClass("car", 104, 48, BRIGHT, ("car", "car", "automobile"), "vehicle", True),
    ObjectClass("bike", 80, 50, BRIGHT, ("bike", "bicycle"), "vehicle", True),
    ObjectClass("tree", 70, 124, LEAVES, ("tree",), "plant"),
)
CLASSES: dict[str, ObjectClass] = {c.name: c for c in _ALL}
PEOPLE = ("man", "woman", "boy", "girl")
ADULTS = ("man", "woman")
HANDHELD = (
    "ball",
    "umbrella",
    "umbrella",
    "balloon",
    "cup",
    "book",
    "flag",
    "flag",
    "bag",
)  # repeated: chosen twice as often

# The classes that each kind of slot can hold.
SLOT_CLASSES: dict[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "animal": ("dog", "cat", "dog", "cat", "horse"),
    "runner": ("dog", "cat", "dog", "cat", "horse"),
    "mount": ("horse", "bike"),
    "table": ("table",),
    "bench": ("bench",),
    "big": ("car", "tree", "car", "tree", "bike"),
    "hand": HANDHELD,
    "head": ("hat",),
    "neck": ("scarf",),
    "saddle": PEOPLE,
    "seat": (*PEOPLE, "cat", "dog"),
    "top": ("cup", "book", "ball", "bag", "box", "cat", "hat"),
    "under": ("ball", "box", "cat", "dog"),
    "front": ("dog", "cat", "ball", "box", *PEOPLE),
    "behind": PEOPLE,
    "sky": ("bird", "kite", "balloon"),
}

# Predicates of detected relations, with the names of a generator that is trained on Visual Genome.
SEMANTIC = ("wears", "holds", "rides", "sits on", "looks at", "chases")
DETECTED_SPATIAL = ("on", "under", "in front of", "behind", "next to")
PREDICATES = SEMANTIC + DETECTED_SPATIAL
# Predicates that occur in captions, but not in detected relations: only the boxes show them.
BOX_ONLY = ("left of", "right of", "above", "below")

WIDTH, HEIGHT = 320, 240
_SCALE = {"small": 0.8, "normal": 1.0, "big": 1.2}
Box = tuple[float, float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Entity:
    """An object: class, colour (of the clothes, for people) and size."""

    cls: str
    colour: str
    size: str = "normal"


@dataclass(frozen=True)
class Column:
    """A position on the ground: centre x and base line in pixels, and the direction that its main entity faces."""

    x: float
    base: float
    facing: str


@dataclass(frozen=True)
class Slot:
    """A place for one entity.

    kind    role of the entity, a key of SLOT_CLASSES
    column  index of the column
    host    slot that this slot belongs to, None for a main slot
    dx      horizontal offset in pixels
    """

    kind: str
    column: int
    host: int | None = None
    dx: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Columns, slots and the entity in each slot (None: empty).

    backdrop  index of the colours of sky and ground
    zoom      factor on the size of all things: 1 in small scenes, less in large ones
    """

    columns: tuple[Column, ...]
    slots: tuple[Slot, ...]
    entities: tuple[Entity | None, ...]
    backdrop: int = 0
    zoom: float = 1.0

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The slots that are not empty."""
        return tuple(i for i, entity in enumerate(self.entities) if entity is not None)

    def get_entity(self, slot: int) -> Entity:
        """Return the entity in `slot`, which must not be empty."""
        entity = self.entities[slot]
        assert entity is not None
        return entity

    def find_facing(self, slot: int) -> str:
        """Return front, left or right. Only people can face the viewer; classes that do not turn always face front."""
        entity, side = self.get_entity(slot), self.columns[self.slots[slot].column].facing
        host = self.slots[slot].host
        if self.slots[slot].kind == "saddle" and host is not None:
            return self.find_facing(host)
        if not CLASSES[entity.cls].turns:
            return "front"
        return side if side != "front" or entity.cls in PEOPLE else "right"

    def find_appearance(self, slot: int) -> tuple[str, str, str, str]:
        """Return class, colour, size and facing: the content of a region feature."""
        entity = self.get_entity(slot)
        return entity.cls, entity.colour, entity.size, self.find_facing(slot)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Content of the scene without random offsets. Scenes with the same key are duplicates."""
        rows = []
        for i in self.present:
            slot = self.slots[i]
            rows.append((slot.kind, slot.column, -1 if slot.host is None else slot.host, *self.find_appearance(i)))
        return (len(self.columns), tuple(sorted(rows)))

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """x1, y1, x2, y2 in pixels of each filled slot. A box can exceed the picture slightly."""
        boxes: dict[int, Box] = {}
        for i in self.present:
            boxes[i] = self._compute_box(i, boxes)
        return boxes

    @cached_property
    def depths(self) -> dict[int, float]:
        """Base line in pixels under each filled slot. A larger value is closer to the viewer."""
        depths: dict[int, float] = {}
        for i in self.present:
            slot = self.slots[i]
            ground = self.columns[slot.column].base if slot.host is None else depths[slot.host]
            depths[i] = ground + {"front": 20.0, "behind": -20.0}.get(slot.kind, 0.0)
        return depths

    def _compute_box(self, i: int, boxes: dict[int, Box]) -> Box:
        slot, entity = self.slots[i], self.get_entity(i)
        column = self.columns[slot.column]
        shape = CLASSES[entity.cls]
        scale = _SCALE[entity.size] * (0.5 + self.depths[i] / 400) * self.zoom
        width, height = shape.width * scale, shape.height * scale
        host = boxes.get(slot.host) if slot.host is not None else None
        if slot.kind == "sky":
            return _make_box(column.x + slot.dx, 66.0, width, height)
        if host is None or slot.kind in ("front", "behind"):
            return _make_box(column.x + slot.dx, self.depths[i], width, height)
        assert slot.host is not None
        return _attach_box(slot, entity, self.find_facing(slot.host), self.get_entity(slot.host), host, width, height)


def compute_head_size(cls: str, box: Box) -> float:
    """Return the diameter in pixels of the head of a standing person with this box."""
    return (box[3] - box[1]) * (0.22 if cls in ADULTS else 0.3)


def compute_hand_position(facing: str, box: Box) -> tuple[float, float]:
    """Return the position in pixels of the holding hand of a person with this box."""
    side = -1 if facing == "left" else 1
    return (box[0] + box[2]) / 2 + side * 0.5 * (box[2] - box[0]), box[1] + 0.5 * (box[3] - box[1])


def _make_box(x: float, base: float, width: float, height: float) -> Box:
    return x - width / 2, base - height, x + width / 2, base


def _attach_box(slot: Slot, entity: Entity, facing: str, host: Entity, box: Box, width: float, height: float) -> Box:
    """Return the box of a thing that its host wears, holds or carries."""
    x, tall = (box[0] + box[2]) / 2, box[3] - box[1]
    if slot.kind in ("head", "neck"):
        head = compute_head_size(host.cls, box)
        if slot.kind == "head":
            return _make_box(x, box[1] + 0.36 * head, 1.5 * head, 0.75 * head)
        return _make_box(x, box[1] + 1.75 * head, 1.15 * head, 0.95 * head)
    if slot.kind == "hand":
        hand_x, hand_y = compute_hand_position(facing, box)
        if entity.cls in ("umbrella", "flag", "balloon"):
            reach = {"umbrella": 0.3, "flag": 0.4}.get(
                entity.cls, 0.0
            )  # the hand holds the stick, and the face stays visible
            return _make_box(hand_x + reach * width * (-1 if facing == "left" else 1), hand_y + 4, width, height)
        if entity.cls == "bag":
            return hand_x - width / 2, hand_y - 3, hand_x + width / 2, hand_y - 3 + height
        return _make_box(hand_x, hand_y + height / 2, width, height)
    if slot.kind == "saddle":
        return _make_box(x, box[1] + (0.62 if host.cls == "horse" else 0.5) * tall, width, 0.72 * height)
    if slot.kind == "seat":
        low = box[1] + 0.62 * tall if entity.cls not in PEOPLE else box[3] - 2
        return _make_box(x + slot.dx, low, width, 0.82 * height if entity.cls in PEOPLE else height)
    if slot.kind == "top":
        return _make_box(x + slot.dx, box[1] + 3, width, height)
    shrink = min(1.0, 0.62 * tall / height)
    return _make_box(x + slot.dx, box[3], width * shrink, height * shrink)

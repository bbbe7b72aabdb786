"""The world of relational scenes: classes, colours, predicates, and scenes made of columns with slots.

A scene is a frame (columns and slots) and a filling (the entity in each slot). Positions, and therefore all relations,
follow from the slots. A twin is the same frame with two contents, two columns or two colours exchanged.
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
    """One class of objects: its usual size in pixels of a 320 x 240 picture, its colours, and words for it.

    `looks_like` is the group within which the detector confuses classes; `turns` says that left and right differ.
    """

    name: str
    width: int
    height: int
    palette: tuple[str, ...]
    words: tuple[str, ...]
    looks_like: str
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
GROWN = ("man", "woman")
HANDY = ("ball", "umbrella", "umbrella", "balloon", "cup", "book", "flag", "flag", "bag")  # twice: drawn twice as often

# What each kind of slot takes. Where a kind depends on its host, the host's class comes after a colon.
ACCEPTS: dict[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "animal": ("dog", "cat", "dog", "cat", "horse"),
    "runner": ("dog", "cat", "dog", "cat", "horse"),
    "mount": ("horse", "bike"),
    "table": ("table",),
    "bench": ("bench",),
    "big": ("car", "tree", "car", "tree", "bike"),
    "hand": HANDY,
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

# Predicates that the scene-graph file may hold, as a generator trained on Visual Genome would name them.
SEMANTIC = ("wears", "holds", "rides", "sits on", "looks at", "chases")
DETECTED_SPATIAL = ("on", "under", "in front of", "behind", "next to")
PREDICATES = SEMANTIC + DETECTED_SPATIAL
# Predicates that captions speak of but only the boxes show.
BOX_ONLY = ("left of", "right of", "above", "below")

WIDTH, HEIGHT = 320, 240
_SCALE = {"small": 0.8, "normal": 1.0, "big": 1.2}
Box = tuple[float, float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Entity:
    """One object: its class, colour (of the clothes, for people) and size."""

    cls: str
    colour: str
    size: str = "normal"


@dataclass(frozen=True)
class Column:
    """A place on the ground: centre and base line in pixels, and where its occupant faces."""

    x: float
    base: float
    facing: str


@dataclass(frozen=True)
class Slot:
    """A role that an entity can take: its kind (a key of ACCEPTS), its column, the slot it belongs to, its offset."""

    kind: str
    column: int
    host: int | None = None
    dx: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Columns, slots and what fills them (None: empty); `mood` picks sky and ground."""

    columns: tuple[Column, ...]
    slots: tuple[Slot, ...]
    filling: tuple[Entity | None, ...]
    mood: int = 0

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The slots that hold something."""
        return tuple(i for i, entity in enumerate(self.filling) if entity is not None)

    def entity(self, slot: int) -> Entity:
        """What is in `slot`, which must not be empty."""
        entity = self.filling[slot]
        assert entity is not None
        return entity

    def facing(self, slot: int) -> str:
        """front, left or right; things without a front face front, and only people can face the viewer."""
        entity, side = self.entity(slot), self.columns[self.slots[slot].column].facing
        host = self.slots[slot].host
        if self.slots[slot].kind == "saddle" and host is not None:
            return self.facing(host)
        if not CLASSES[entity.cls].turns:
            return "front"
        return side if side != "front" or entity.cls in PEOPLE else "right"

    def appearance(self, slot: int) -> tuple[str, str, str, str]:
        """Class, colour, size and facing: all that a region's feature tells."""
        entity = self.entity(slot)
        return entity.cls, entity.colour, entity.size, self.facing(slot)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What the scene shows without its jitter: two scenes with one key are duplicates."""
        rows = []
        for i in self.present:
            slot = self.slots[i]
            rows.append((slot.kind, slot.column, -1 if slot.host is None else slot.host, *self.appearance(i)))
        return (len(self.columns), tuple(sorted(rows)))

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """x1, y1, x2, y2 in pixels of each filled slot; may stick out of the picture a little."""
        boxes: dict[int, Box] = {}
        for i in self.present:
            boxes[i] = self._box(i, boxes)
        return boxes

    @cached_property
    def depths(self) -> dict[int, float]:
        """Base line in pixels of what carries each filled slot: the larger, the nearer to the viewer."""
        depths: dict[int, float] = {}
        for i in self.present:
            slot = self.slots[i]
            ground = self.columns[slot.column].base if slot.host is None else depths[slot.host]
            depths[i] = ground + {"front": 20.0, "behind": -20.0}.get(slot.kind, 0.0)
        return depths

    def _box(self, i: int, boxes: dict[int, Box]) -> Box:
        slot, entity = self.slots[i], self.entity(i)
        column = self.columns[slot.column]
        shape = CLASSES[entity.cls]
        scale = _SCALE[entity.size] * (0.5 + self.depths[i] / 400)
        width, height = shape.width * scale, shape.height * scale
        host = boxes.get(slot.host) if slot.host is not None else None
        if slot.kind == "sky":
            return _make_box(column.x + slot.dx, 66.0, width, height)
        if host is None or slot.kind in ("front", "behind"):
            return _make_box(column.x + slot.dx, self.depths[i], width, height)
        assert slot.host is not None
        return _attach_box(slot, entity, self.facing(slot.host), self.entity(slot.host), host, width, height)


def compute_head_size(cls: str, box: Box) -> float:
    """Diameter in pixels of the head of a standing person with this box."""
    return (box[3] - box[1]) * (0.22 if cls in GROWN else 0.3)


def compute_hand_position(facing: str, box: Box) -> tuple[float, float]:
    """Where the holding hand of a person with this box is, in pixels."""
    side = -1 if facing == "left" else 1
    return (box[0] + box[2]) / 2 + side * 0.5 * (box[2] - box[0]), box[1] + 0.5 * (box[3] - box[1])


def _make_box(x: float, base: float, width: float, height: float) -> Box:
    return x - width / 2, base - height, x + width / 2, base


def _attach_box(slot: Slot, entity: Entity, facing: str, host: Entity, box: Box, width: float, height: float) -> Box:
    """The box of what a host wears, holds or carries."""
    x, tall = (box[0] + box[2]) / 2, box[3] - box[1]
    if slot.kind in ("head", "neck"):
        head = compute_head_size(host.cls, box)
        if slot.kind == "head":
            return _make_box(x, box[1] + 0.36 * head, 1.5 * head, 0.75 * head)
        return _make_box(x, box[1] + 1.75 * head, 1.15 * head, 0.95 * head)
    if slot.kind == "hand":
        hand_x, hand_y = compute_hand_position(facing, box)
        if entity.cls in ("umbrella", "flag", "balloon"):
            reach = {"umbrella": 0.3, "flag": 0.4}.get(entity.cls, 0.0)  # the stick is in the hand, the face in sight
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

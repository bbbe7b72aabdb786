"""What the world of relational scenes is made of: classes, colours, sizes, predicates and the words for them."""

from __future__ import annotations

from dataclasses import dataclass

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

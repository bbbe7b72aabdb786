"""Sample scenes and twins: pairs of scenes that differ in one relation or one attribute binding, and nothing else.

A scene has two or three columns, each with a unit (a person, a table ...) and the things that belong to it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hire_model.data.synthetic.relations import list_entity_relations
from hire_model.data.synthetic.world import ACCEPTS, CLASSES, PEOPLE, SIZES, WIDTH, Column, Entity, Rng, Scene, Slot

_UNITS = {"person": 0.38, "mount": 0.13, "table": 0.16, "bench": 0.12, "animal": 0.11, "big": 0.1}
_PARTS: dict[str, tuple[tuple[str, float, float], ...]] = {  # kind, chance of being filled, offset in pixels
    "person": (("hand", 0.65, 0), ("head", 0.32, 0), ("neck", 0.2, 0)),
    "saddle": (("head", 0.3, 0),),
    "mount": (("saddle", 1.0, 0),),
    "table": (("top", 0.8, -20), ("top", 0.4, 20), ("under", 0.4, 0)),
    "bench": (("seat", 0.85, -16), ("under", 0.25, 18)),
    "big": (("front", 0.5, 16), ("behind", 0.5, -32)),
}


def sample_scene(rng: Rng) -> Scene:
    """Draw one scene of two or three columns; it may hold as little as one object in each."""
    count = 2 if rng.random() < 0.35 else 3
    chase = int(rng.integers(count - 1)) if rng.random() < 0.2 else None
    columns = _sample_columns(rng, count, chase)
    frame = _Frame(rng)
    for c in range(count):
        kind = str(rng.choice(list(_UNITS), p=list(_UNITS.values())))
        frame.grow("runner" if chase is not None and c in (chase, chase + 1) else kind, c)
    if rng.random() < 0.3:
        frame.grow("sky", int(rng.integers(count)), dx=float(rng.uniform(-12, 12)))
    return Scene(columns, tuple(frame.slots), tuple(frame.filling), int(rng.integers(4)))


def _sample_columns(rng: Rng, count: int, chase: int | None) -> tuple[Column, ...]:
    facings = [str(rng.choice(["front", "left", "right"], p=[0.3, 0.35, 0.35])) for _ in range(count)]
    if chase is not None:
        facings[chase] = facings[chase + 1] = str(rng.choice(["left", "right"]))
    width = WIDTH / count
    columns = []
    for c in range(count):
        x, base = width * (c + 0.5) + rng.uniform(-8, 8), rng.uniform(192, 206)
        columns.append(Column(float(x), float(base), facings[c]))
    return tuple(columns)


class _Frame:
    """Slots and their filling while they are drawn; no two things share class and colour."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.slots: list[Slot] = []
        self.filling: list[Entity | None] = []
        self.taken: set[tuple[str, str]] = set()

    def grow(self, kind: str, column: int, host: int | None = None, chance: float = 1.0, dx: float = 0.0) -> None:
        """Append a slot, fill it with that chance, and do the same for the slots that belong to what is in it."""
        me = len(self.slots)
        self.slots.append(Slot(kind, column, host, dx))
        entity = self._entity(kind) if self.rng.random() < chance else None
        self.filling.append(entity)
        if entity is None:
            return
        parts = _PARTS.get(kind, ())
        if kind in ("seat", "behind") and entity.cls in PEOPLE:
            parts = _PARTS["person"][1:]  # dressed, but with nothing in hand, which would hide the bench or be hidden
        for part, odds, offset in parts:
            self.grow(part, column, me, odds, offset * float(self.rng.uniform(0.8, 1.2)))

    def _entity(self, kind: str) -> Entity | None:
        """Something that the slot takes and that is not there yet; None if its class has no colour left."""
        cls = str(self.rng.choice(ACCEPTS[kind]))
        free = [colour for colour in CLASSES[cls].palette if (cls, colour) not in self.taken]
        if not free:
            return None
        colour = str(self.rng.choice(free))
        self.taken.add((cls, colour))
        return Entity(cls, colour, str(self.rng.choice(SIZES, p=[0.6, 0.2, 0.2])))


# How often each kind of difference is tried first.
KINDS = {"sides": 0.3, "roles": 0.4, "colours": 0.3}
_ROLES = (("hand", "hand"), ("head", "head"), ("neck", "neck"), ("saddle", "person"), ("seat", "person"))
_PLACES = (("top", "under"), ("top", "hand"), ("front", "behind"), ("seat", "under"))


@dataclass(frozen=True)
class Pair:
    """A scene, its twin (None for a single scene) and the kind of difference."""

    scene: Scene
    twin: Scene | None = None
    kind: str = "single"


def sample_pair(rng: Rng, twin: bool) -> Pair:
    """Draw a scene, with a twin if asked for."""
    while True:
        scene = sample_scene(rng)
        if len(scene.present) < 3:
            continue
        if not twin:
            return Pair(scene)
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        options = [other for other in _OPTIONS[kind](scene) if _is_twin(scene, other, kind)]
        if options:
            return Pair(scene, options[int(rng.integers(len(options)))], kind)


def _is_twin(scene: Scene, other: Scene, kind: str) -> bool:
    """Same bag of appearances (same bag of classes and of colours, if colours were exchanged), other relations."""
    if kind == "colours":
        return True
    looks = [Counter(s.appearance(i) for i in s.present) for s in (scene, other)]
    return looks[0] == looks[1] and list_entity_relations(scene) != list_entity_relations(other)


def _list_side_swaps(scene: Scene) -> list[Scene]:
    return [_swap_columns(scene, c, c + 1) for c in range(len(scene.columns) - 1)]


def _list_role_swaps(scene: Scene) -> list[Scene]:
    found = []
    for a in range(len(scene.slots)):
        for b in range(len(scene.slots)):
            kinds = scene.slots[a].kind, scene.slots[b].kind
            if (kinds in _ROLES and a < b) or (kinds in _PLACES) or (kinds in _ROLES and kinds[0] != kinds[1]):
                pairs = _pair_slots(scene, a, b)
                if pairs and all(_can_swap(scene, x, y) for x, y in pairs):
                    found.append(_swap_contents(scene, pairs))
    return found


def _can_swap(scene: Scene, a: int, b: int) -> bool:
    first, second = scene.filling[a], scene.filling[b]
    for entity, slot in ((first, b), (second, a)):
        host = scene.slots[slot].host
        if entity is None:
            continue
        if entity.cls not in ACCEPTS[scene.slots[slot].kind] or (host is not None and scene.filling[host] is None):
            return False
    return first != second


def _pair_slots(scene: Scene, a: int, b: int) -> tuple[tuple[int, int], ...]:
    """The exchange of `a` and `b` together with what each wears; nothing if that cannot be done."""
    parts = [
        {slot.kind: i for i, slot in enumerate(scene.slots) if slot.host == top and scene.filling[i] is not None}
        for top in (a, b)
    ]
    slots = [{slot.kind: i for i, slot in enumerate(scene.slots) if slot.host == top} for top in (a, b)]
    pairs = [(a, b)]
    for kind in sorted(parts[0].keys() | parts[1].keys()):
        if kind not in slots[0] or kind not in slots[1]:
            return ()
        pairs.append((slots[0][kind], slots[1][kind]))
    return tuple(pairs)


def _list_colour_swaps(scene: Scene) -> list[Scene]:
    found = []
    for a in scene.present:
        for b in scene.present:
            first, second = scene.entity(a), scene.entity(b)
            if a >= b or first.colour == second.colour or first.cls == second.cls:
                continue
            if second.colour not in CLASSES[first.cls].palette or first.colour not in CLASSES[second.cls].palette:
                continue
            other = _swap_colours(scene, a, b)
            if len({(e.cls, e.colour) for e in other.filling if e}) == len(other.present):
                found.append(other)
    return found


def _swap_contents(scene: Scene, pairs: tuple[tuple[int, int], ...]) -> Scene:
    """The contents of each pair of slots exchanged; one of the two may be empty."""
    filling = list(scene.filling)
    for a, b in pairs:
        filling[a], filling[b] = filling[b], filling[a]
    return replace(scene, filling=tuple(filling))


def _swap_columns(scene: Scene, a: int, b: int) -> Scene:
    """The scene with all that stands in column `a` exchanged with all that stands in column `b`."""
    other = {a: b, b: a}
    slots = tuple(replace(slot, column=other.get(slot.column, slot.column)) for slot in scene.slots)
    return replace(scene, slots=slots)


def _swap_colours(scene: Scene, a: int, b: int) -> Scene:
    """The scene with the colours of the entities in slots `a` and `b` exchanged."""
    first, second = scene.entity(a), scene.entity(b)
    filling = list(scene.filling)
    filling[a], filling[b] = replace(first, colour=second.colour), replace(second, colour=first.colour)
    return replace(scene, filling=tuple(filling))


_OPTIONS = {"sides": _list_side_swaps, "roles": _list_role_swaps, "colours": _list_colour_swaps}

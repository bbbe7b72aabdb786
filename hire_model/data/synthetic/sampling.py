"""Sample scenes and twins: pairs of scenes that differ only in one relation or in which thing has which attribute.

A scene has two or three columns. Each has a main slot (a person, a table ...) and the slots that belong to it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hire_model.data.synthetic.relations import list_entity_relations
from hire_model.data.synthetic.world import (
    CLASSES,
    PEOPLE,
    SIZES,
    SLOT_CLASSES,
    WIDTH,
    Column,
    Entity,
    Rng,
    Scene,
    Slot,
)

_MAIN_SLOTS = {"person": 0.38, "mount": 0.13, "table": 0.16, "bench": 0.12, "animal": 0.11, "big": 0.1}
_PARTS: dict[str, tuple[tuple[str, float, float], ...]] = {  # kind, probability of being filled, offset in pixels
    "person": (("hand", 0.65, 0), ("head", 0.32, 0), ("neck", 0.2, 0)),
    "saddle": (("head", 0.3, 0),),
    "mount": (("saddle", 1.0, 0),),
    "table": (("top", 0.8, -20), ("top", 0.4, 20), ("under", 0.4, 0)),
    "bench": (("seat", 0.85, -16), ("under", 0.25, 18)),
    "big": (("front", 0.5, 16), ("behind", 0.5, -32)),
}


def sample_scene(rng: Rng) -> Scene:
    """Sample a scene of two or three columns with at least one object in each."""
    count = 2 if rng.random() < 0.35 else 3
    chase = int(rng.integers(count - 1)) if rng.random() < 0.2 else None
    columns = _sample_columns(rng, count, chase)
    builder = SceneBuilder(rng)
    for c in range(count):
        kind = str(rng.choice(list(_MAIN_SLOTS), p=list(_MAIN_SLOTS.values())))
        builder.add_slot("runner" if chase is not None and c in (chase, chase + 1) else kind, c)
    if rng.random() < 0.3:
        builder.add_slot("sky", int(rng.integers(count)), dx=float(rng.uniform(-12, 12)))
    return Scene(columns, tuple(builder.slots), tuple(builder.entities), int(rng.integers(4)))


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


class SceneBuilder:
    """Collect slots and their entities. No two entities have the same class and colour."""

    def __init__(self, rng: Rng, zoom: float = 1.0) -> None:
        self.rng, self.zoom = rng, zoom
        self.slots: list[Slot] = []
        self.entities: list[Entity | None] = []
        self.used: set[tuple[str, str]] = set()

    def add_slot(self, kind: str, column: int, host: int | None = None, chance: float = 1.0, dx: float = 0.0) -> None:
        """Append a slot, fill it with probability `chance`, and append the slots that belong to its entity."""
        index = len(self.slots)
        self.slots.append(Slot(kind, column, host, dx))
        entity = self._sample_entity(kind) if self.rng.random() < chance else None
        self.entities.append(entity)
        if entity is None:
            return
        parts = _PARTS.get(kind, ())
        if kind in ("seat", "behind") and entity.cls in PEOPLE:
            parts = _PARTS["person"][1:]  # nothing in the hand: it would hide the bench or be hidden
        for part, odds, offset in parts:
            self.add_slot(part, column, index, odds, self.zoom * offset * float(self.rng.uniform(0.8, 1.2)))

    def _sample_entity(self, kind: str) -> Entity | None:
        """Sample an entity for a slot of this kind. Return None if all colours of its class are used."""
        cls = str(self.rng.choice(SLOT_CLASSES[kind]))
        free = [colour for colour in CLASSES[cls].palette if (cls, colour) not in self.used]
        if not free:
            return None
        colour = str(self.rng.choice(free))
        self.used.add((cls, colour))
        return Entity(cls, colour, str(self.rng.choice(SIZES, p=[0.6, 0.2, 0.2])))


# Probability of each kind of difference between twins.
KINDS = {"sides": 0.3, "roles": 0.4, "colours": 0.3}
_ROLES = (("hand", "hand"), ("head", "head"), ("neck", "neck"), ("saddle", "person"), ("seat", "person"))
_PLACES = (("top", "under"), ("top", "hand"), ("front", "behind"), ("seat", "under"))


@dataclass(frozen=True)
class Pair:
    """A scene, its twin (None for a single scene) and the kind of difference (a key of KINDS)."""

    scene: Scene
    twin: Scene | None = None
    kind: str = "single"


def sample_pair(rng: Rng, twin: bool) -> Pair:
    """Sample a scene, with a twin if `twin` is True."""
    while True:
        scene = sample_scene(rng)
        if len(scene.present) < 3:
            continue
        if not twin:
            return Pair(scene)
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        options = [other for other in TWINS[kind](scene) if is_twin(scene, other, kind)]
        if options:
            return Pair(scene, options[int(rng.integers(len(options)))], kind)


def is_twin(scene: Scene, other: Scene, kind: str) -> bool:
    """Return whether `other` has the same multiset of appearances as `scene`, but different relations.

    After an exchange of colours this is true by construction, for classes and colours separately.
    """
    if kind == "colours":
        return True
    looks = [Counter(s.find_appearance(i) for i in s.present) for s in (scene, other)]
    return looks[0] == looks[1] and list_entity_relations(scene) != list_entity_relations(other)


def _list_side_swaps(scene: Scene) -> list[Scene]:
    return [_swap_columns(scene, c, c + 1) for c in range(len(scene.columns) - 1)]


def _list_role_swaps(scene: Scene) -> list[Scene]:
    swapped = []
    for a in range(len(scene.slots)):
        for b in range(len(scene.slots)):
            kinds = scene.slots[a].kind, scene.slots[b].kind
            if (kinds in _ROLES and a < b) or (kinds in _PLACES) or (kinds in _ROLES and kinds[0] != kinds[1]):
                pairs = _pair_slots(scene, a, b)
                if pairs and all(_can_swap(scene, x, y) for x, y in pairs):
                    swapped.append(_swap_entities(scene, pairs))
    return swapped


def _can_swap(scene: Scene, a: int, b: int) -> bool:
    first, second = scene.entities[a], scene.entities[b]
    for entity, slot in ((first, b), (second, a)):
        host = scene.slots[slot].host
        if entity is None:
            continue
        if entity.cls not in SLOT_CLASSES[scene.slots[slot].kind] or (
            host is not None and scene.entities[host] is None
        ):
            return False
    return first != second


def _pair_slots(scene: Scene, a: int, b: int) -> tuple[tuple[int, int], ...]:
    """Return the slots to exchange so that `a` and `b` swap together with their parts; empty if that is impossible."""
    parts = [
        {slot.kind: i for i, slot in enumerate(scene.slots) if slot.host == top and scene.entities[i] is not None}
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
    swapped = []
    for a in scene.present:
        for b in scene.present:
            first, second = scene.get_entity(a), scene.get_entity(b)
            if a >= b or first.colour == second.colour or first.cls == second.cls:
                continue
            if second.colour not in CLASSES[first.cls].palette or first.colour not in CLASSES[second.cls].palette:
                continue
            other = _swap_colours(scene, a, b)
            if len({(e.cls, e.colour) for e in other.entities if e}) == len(other.present):
                swapped.append(other)
    return swapped


def _swap_entities(scene: Scene, pairs: tuple[tuple[int, int], ...]) -> Scene:
    """Return the scene with the entities of each pair of slots exchanged. One of the two slots can be empty."""
    entities = list(scene.entities)
    for a, b in pairs:
        entities[a], entities[b] = entities[b], entities[a]
    return replace(scene, entities=tuple(entities))


def _swap_columns(scene: Scene, a: int, b: int) -> Scene:
    """Return the scene with the slots of columns `a` and `b` exchanged."""
    other = {a: b, b: a}
    slots = tuple(replace(slot, column=other.get(slot.column, slot.column)) for slot in scene.slots)
    return replace(scene, slots=slots)


def _swap_colours(scene: Scene, a: int, b: int) -> Scene:
    """Return the scene with the colours of the entities in slots `a` and `b` exchanged."""
    first, second = scene.get_entity(a), scene.get_entity(b)
    entities = list(scene.entities)
    entities[a], entities[b] = replace(first, colour=second.colour), replace(second, colour=first.colour)
    return replace(scene, entities=tuple(entities))


TWINS = {"sides": _list_side_swaps, "roles": _list_role_swaps, "colours": _list_colour_swaps}

"""Twins: a second scene that differs from the first in one relation or one attribute binding, and in nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hire_model.data.synthetic.relations import Fact, facts
from hire_model.data.synthetic.sampling import sample
from hire_model.data.synthetic.vocabulary import ACCEPTS, CLASSES
from hire_model.data.synthetic.world import Entity, Rng, Scene

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
        scene = sample(rng)
        if len(scene.present) < 3:
            continue
        if not twin:
            return Pair(scene)
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        options = [other for other in _OPTIONS[kind](scene) if _is_twin(scene, other, kind)]
        if options:
            return Pair(scene, options[int(rng.integers(len(options)))], kind)


def told(scene: Scene) -> frozenset[tuple[Entity, str, Entity]]:
    """The scene's relations with entities in the place of slots."""
    return frozenset((scene.entity(s), p, scene.entity(o)) for s, p, o in facts(scene))


def new_facts(scene: Scene, other: Scene) -> list[Fact]:
    """The facts of `scene` that do not hold in `other` of the same entities, in a fixed order."""
    known = told(other)
    return sorted((s, p, o) for s, p, o in facts(scene) if (scene.entity(s), p, scene.entity(o)) not in known)


def _is_twin(scene: Scene, other: Scene, kind: str) -> bool:
    """Same bag of appearances (same bag of classes and of colours, if colours were exchanged), other relations."""
    if kind == "colours":
        return True
    looks = [Counter(s.appearance(i) for i in s.present) for s in (scene, other)]
    return looks[0] == looks[1] and told(scene) != told(other)


def _sides(scene: Scene) -> list[Scene]:
    return [_swap_columns(scene, c, c + 1) for c in range(len(scene.columns) - 1)]


def _roles(scene: Scene) -> list[Scene]:
    found = []
    for a in range(len(scene.slots)):
        for b in range(len(scene.slots)):
            kinds = scene.slots[a].kind, scene.slots[b].kind
            if (kinds in _ROLES and a < b) or (kinds in _PLACES) or (kinds in _ROLES and kinds[0] != kinds[1]):
                pairs = _with_dress(scene, a, b)
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


def _with_dress(scene: Scene, a: int, b: int) -> tuple[tuple[int, int], ...]:
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


def _colours(scene: Scene) -> list[Scene]:
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


_OPTIONS = {"sides": _sides, "roles": _roles, "colours": _colours}

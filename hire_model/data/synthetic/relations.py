"""What is true of a scene: its relations, and whether a caption's claim holds.

A claim is a small pattern (things described by class, colour, size, and relations between them). It is true of a scene
if different entities can be found for its things such that every description and every relation fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hire_model.data.synthetic.world import PEOPLE, WIDTH, Box, Entity, Scene

Fact = tuple[int, str, int]
_OF_HOST = {"hand": "holds", "head": "wears", "neck": "wears"}  # the host is the subject
_ON_HOST = {"saddle": "rides", "seat": "sits on", "top": "on", "under": "under"}  # the host is the object
_MAIN = ("person", "animal", "runner", "mount", "table", "bench", "big")
_STANDING = (*_MAIN, "front", "behind")
_LOOSE = (*_STANDING, "saddle", "seat", "sky")
_APART = 0.12 * WIDTH  # centres nearer than this are neither left nor right of each other
_NEAR = 0.09 * WIDTH  # standing things with a smaller gap are next to each other


def find_facts(scene: Scene) -> frozenset[Fact]:
    """All relations (subject slot, predicate, object slot) that hold in `scene`."""
    found: set[Fact] = set()
    for i in scene.present:
        slot = scene.slots[i]
        if slot.host is not None and slot.kind in _OF_HOST:
            found.add((slot.host, _OF_HOST[slot.kind], i))
        elif slot.host is not None and slot.kind in _ON_HOST:
            found.add((i, _ON_HOST[slot.kind], slot.host))
    found.update(_find_gazes(scene))
    loose = [i for i in scene.present if scene.slots[i].kind in _LOOSE]
    for i, j in itertools.permutations(loose, 2):
        if not _carries(scene, i, j) and not _carries(scene, j, i):
            found.update((i, predicate, j) for predicate in _find_places(scene, i, j))
    return frozenset(found)


def list_entity_relations(scene: Scene) -> frozenset[tuple[Entity, str, Entity]]:
    """The scene's relations with entities in the place of slots."""
    return frozenset((scene.entity(s), p, scene.entity(o)) for s, p, o in find_facts(scene))


def find_new_facts(scene: Scene, other: Scene) -> list[Fact]:
    """The facts of `scene` that do not hold in `other` of the same entities, in a fixed order."""
    known = list_entity_relations(other)
    return sorted((s, p, o) for s, p, o in find_facts(scene) if (scene.entity(s), p, scene.entity(o)) not in known)


def _carries(scene: Scene, host: int, i: int) -> bool:
    """Whether `i` rides or sits on `host`, so that no more needs to be said of where the two are."""
    return scene.slots[i].host == host and scene.slots[i].kind in _ON_HOST


def _find_gazes(scene: Scene) -> Iterator[Fact]:
    """looks at and chases: towards the main thing of the column beside, in the direction that one faces."""
    main = {scene.slots[i].column: i for i in scene.present if scene.slots[i].kind in _MAIN}
    for c, i in main.items():
        kind, facing = scene.slots[i].kind, scene.facing(i)
        target = main.get(c + {"left": -1, "right": 1}.get(facing, 0))
        if target is None or target == i or kind not in ("person", "animal", "runner"):
            continue
        chases = kind == "runner" and scene.slots[target].kind == "runner"
        yield i, "chases" if chases else "looks at", target


def _find_places(scene: Scene, i: int, j: int) -> Iterator[str]:
    """Spatial predicates of `i` with respect to `j`, from boxes and depths alone."""
    a, b = scene.boxes[i], scene.boxes[j]
    kinds = scene.slots[i].kind, scene.slots[j].kind
    shift = (b[0] + b[2] - a[0] - a[2]) / 2
    if "sky" in kinds:
        if abs(shift) < _APART and kinds[0] == "sky" and a[3] <= b[1] + 4:
            yield "above"
        elif abs(shift) < _APART and kinds[1] == "sky" and b[3] <= a[1] + 4:
            yield "below"
        return
    if abs(shift) > _APART:
        yield "left of" if shift > 0 else "right of"
    if kinds[0] not in _STANDING or kinds[1] not in _STANDING:
        return
    gap, depth = _measure_gap(a, b), scene.depths[i] - scene.depths[j]
    if gap < 0 and abs(depth) >= 18:
        yield "in front of" if depth > 0 else "behind"
    elif gap < _NEAR and abs(depth) < 18:
        yield "next to"


def _measure_gap(a: Box, b: Box) -> float:
    """Horizontal distance between two boxes in pixels, negative where they overlap."""
    return max(a[0], b[0]) - min(a[2], b[2])


@dataclass(frozen=True)
class Mention:
    """How a claim describes one thing: any of `classes`, and the colour and size if they are said."""

    word: str
    classes: tuple[str, ...]
    colour: str | None = None
    size: str | None = None

    def fits(self, scene: Scene, slot: int) -> bool:
        """Whether the entity in `slot` is as described."""
        entity = scene.entity(slot)
        return entity.cls in self.classes and self.colour in (None, entity.colour) and self.size in (None, entity.size)

    @property
    def is_person(self) -> bool:
        """Whether only people fit."""
        return set(self.classes) <= set(PEOPLE)


@dataclass(frozen=True)
class Claim:
    """What a caption says: things, and relations (index, predicate, index) between them."""

    things: tuple[Mention, ...]
    relations: tuple[Fact, ...] = ()


def holds(claim: Claim, scene: Scene, known: frozenset[Fact] | None = None) -> bool:
    """Whether `claim` is true of `scene`; `known` are the scene's facts, if the caller has them."""
    known = find_facts(scene) if known is None else known
    return _match(claim, scene, known, ())


def _match(claim: Claim, scene: Scene, known: frozenset[Fact], chosen: tuple[int, ...]) -> bool:
    at = len(chosen)
    if at == len(claim.things):
        return True
    for slot in scene.present:
        if slot in chosen or not claim.things[at].fits(scene, slot):
            continue
        trial = (*chosen, slot)
        edges = ((s, p, o) for s, p, o in claim.relations if max(s, o) == at)
        if all((trial[s], p, trial[o]) in known for s, p, o in edges) and _match(claim, scene, known, trial):
            return True
    return False

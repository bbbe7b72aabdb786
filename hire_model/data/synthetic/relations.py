"""Find the relations of a scene, and check whether the claim of a caption is true of it.

A claim is a pattern: things described by class, colour and size, and relations between them. It is true of a scene if
each thing can be assigned to a different entity such that all descriptions and relations match.
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
_APART = 0.12 * WIDTH  # things with closer centres are neither left nor right of each other
_NEAR = 0.09 * WIDTH  # things on the ground with a smaller gap are next to each other
_ROW = 22.0  # columns with closer base lines in pixels, and things with closer depths, are in one row
_FAR = 4.0  # in large scenes, things with centres further apart than _FAR * _APART have no spatial relation


def find_facts(scene: Scene) -> frozenset[Fact]:
    """Return all relations of `scene` as (subject slot, predicate, object slot)."""
    facts: set[Fact] = set()
    for i in scene.present:
        slot = scene.slots[i]
        if slot.host is not None and slot.kind in _OF_HOST:
            facts.add((slot.host, _OF_HOST[slot.kind], i))
        elif slot.host is not None and slot.kind in _ON_HOST:
            facts.add((i, _ON_HOST[slot.kind], slot.host))
    facts.update(_find_gazes(scene))
    loose = [i for i in scene.present if scene.slots[i].kind in _LOOSE]
    for i, j in itertools.permutations(loose, 2):
        if not _carries(scene, i, j) and not _carries(scene, j, i):
            facts.update((i, predicate, j) for predicate in _find_spatial_predicates(scene, i, j))
    return frozenset(facts)


def list_entity_relations(scene: Scene) -> frozenset[tuple[Entity, str, Entity]]:
    """Return the relations of the scene as (subject entity, predicate, object entity)."""
    return frozenset((scene.get_entity(s), p, scene.get_entity(o)) for s, p, o in find_facts(scene))


def find_new_facts(scene: Scene, other: Scene) -> list[Fact]:
    """Return the facts of `scene` that are false in `other`, a scene with the same entities, in a fixed order."""
    known = list_entity_relations(other)
    return sorted(
        (s, p, o) for s, p, o in find_facts(scene) if (scene.get_entity(s), p, scene.get_entity(o)) not in known
    )


def _carries(scene: Scene, host: int, i: int) -> bool:
    """Return whether `i` rides, sits on, or is on or under `host`; then the pair has no other spatial relation."""
    return scene.slots[i].host == host and scene.slots[i].kind in _ON_HOST


def _find_gazes(scene: Scene) -> Iterator[Fact]:
    """Yield "looks at" and "chases" relations: to the main thing of the next column in the direction of the face."""
    main = {scene.slots[i].column: i for i in scene.present if scene.slots[i].kind in _MAIN}
    for c, i in main.items():
        kind, facing = scene.slots[i].kind, scene.find_facing(i)
        beside = c + {"left": -1, "right": 1}.get(facing, 0)
        target = main.get(beside)
        if target is None or target == i or kind not in ("person", "animal", "runner"):
            continue
        if abs(scene.columns[c].base - scene.columns[beside].base) > _ROW:
            continue  # the last column of a row and the first one of the next
        chases = kind == "runner" and scene.slots[target].kind == "runner"
        yield i, "chases" if chases else "looks at", target


def _find_spatial_predicates(scene: Scene, i: int, j: int) -> Iterator[str]:
    """Yield the spatial predicates of `i` relative to `j`, derived from boxes and depths.

    In large scenes only things near each other are related, and left and right only within a row.
    """
    a, b = scene.boxes[i], scene.boxes[j]
    kinds = scene.slots[i].kind, scene.slots[j].kind
    shift, depth = (b[0] + b[2] - a[0] - a[2]) / 2, scene.depths[i] - scene.depths[j]
    apart, near, large = _APART * scene.zoom, _NEAR * scene.zoom, scene.zoom < 1
    if "sky" in kinds:
        if abs(shift) < apart and kinds[0] == "sky" and a[3] <= b[1] + 4:
            yield "above"
        elif abs(shift) < apart and kinds[1] == "sky" and b[3] <= a[1] + 4:
            yield "below"
        return
    if large and (abs(shift) > _FAR * apart or abs(depth) > 3 * _ROW):
        return
    if abs(shift) > apart and not (large and abs(depth) > _ROW):
        yield "left of" if shift > 0 else "right of"
    if kinds[0] not in _STANDING or kinds[1] not in _STANDING:
        return
    gap = _measure_gap(a, b)
    if gap < 0 and abs(depth) >= 18:
        yield "in front of" if depth > 0 else "behind"
    elif gap < near and abs(depth) < 18:
        yield "next to"


def _measure_gap(a: Box, b: Box) -> float:
    """Return the horizontal distance between two boxes in pixels, negative if they overlap."""
    return max(a[0], b[0]) - min(a[2], b[2])


@dataclass(frozen=True)
class Mention:
    """Description of one thing in a claim: any of `classes`, and colour and size unless they are None."""

    word: str
    classes: tuple[str, ...]
    colour: str | None = None
    size: str | None = None

    def matches(self, scene: Scene, slot: int) -> bool:
        """Return whether the entity in `slot` matches the description."""
        entity = scene.get_entity(slot)
        return entity.cls in self.classes and self.colour in (None, entity.colour) and self.size in (None, entity.size)

    @property
    def is_person(self) -> bool:
        """Whether the description matches only people."""
        return set(self.classes) <= set(PEOPLE)


@dataclass(frozen=True)
class Claim:
    """Meaning of a caption: things, and relations (index, predicate, index) between them."""

    things: tuple[Mention, ...]
    relations: tuple[Fact, ...] = ()


def is_true(claim: Claim, scene: Scene, known: frozenset[Fact] | None = None) -> bool:
    """Return whether `claim` is true of `scene`. `known`: the facts of the scene, to avoid computing them again."""
    known = find_facts(scene) if known is None else known
    return _match(claim, scene, known, ())


def _match(claim: Claim, scene: Scene, known: frozenset[Fact], chosen: tuple[int, ...]) -> bool:
    index = len(chosen)
    if index == len(claim.things):
        return True
    for slot in scene.present:
        if slot in chosen or not claim.things[index].matches(scene, slot):
            continue
        trial = (*chosen, slot)
        edges = ((s, p, o) for s, p, o in claim.relations if max(s, o) == index)
        if all((trial[s], p, trial[o]) in known for s, p, o in edges) and _match(claim, scene, known, trial):
            return True
    return False

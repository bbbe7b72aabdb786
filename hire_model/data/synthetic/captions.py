"""Captions as people might write them: a claim that is true of the scene, in one of many wordings."""

from __future__ import annotations

from dataclasses import dataclass

from hire_model.data.synthetic.relations import Claim, Fact, Mention, facts, holds
from hire_model.data.synthetic.twins import new_facts
from hire_model.data.synthetic.vocabulary import CLASSES, PEOPLE
from hire_model.data.synthetic.wording import sentence
from hire_model.data.synthetic.world import Entity, Rng, Scene

PER_IMAGE = 5
TELLING = 4  # of a twin's captions, so many are false of its sibling
_ANIMALS = ("dog", "cat", "horse", "bird")
_WEIGHT = {"left of": 0.35, "right of": 0.35, "next to": 0.4, "looks at": 0.8}
_TRIES = 200


@dataclass(frozen=True)
class Caption:
    """A text and what it claims."""

    text: str
    claim: Claim


def write(rng: Rng, scene: Scene, sibling: Scene | None) -> list[Caption]:
    """PER_IMAGE different captions, all true of `scene`; TELLING of them are false of `sibling` if there is one.

    Raises ValueError if the scene does not allow it, which the caller answers with another scene.
    """
    known = facts(scene)
    ordered = sorted(known)
    fresh = new_facts(scene, sibling) if sibling else ordered
    against = (sibling, facts(sibling)) if sibling else None
    captions: dict[str, Caption] = {}
    for _ in range(_TRIES):
        if len(captions) == PER_IMAGE:
            return [captions[text] for text in rng.permutation(sorted(captions))]
        telling = sibling is not None and len(captions) < TELLING
        claim = _claim(rng, scene, fresh if telling else ordered)
        if claim is None or not holds(claim, scene, known):
            continue
        if telling and against and holds(claim, *against):
            continue
        text = sentence(rng, claim)
        captions.setdefault(text, Caption(text, claim))
    raise ValueError("too little to say about this scene")


def _claim(rng: Rng, scene: Scene, among: list[Fact]) -> Claim | None:
    """A claim around one fact of `among`, with one more fact now and then; or two things side by side in words."""
    if not among:
        return None
    odds = [_WEIGHT.get(p, 1.0) for _, p, _ in among]
    subject, predicate, object_ = among[int(rng.choice(len(among), p=[o / sum(odds) for o in odds]))]
    if rng.random() < 0.1:
        things = [_mention(rng, scene.entity(i), 1.0) for i in (subject, object_)]
        return Claim(tuple(things))
    slots, relations = [subject, object_], [(0, predicate, 1)]
    further = _further(rng, scene, subject, object_, predicate) if rng.random() < 0.4 else None
    if further:
        slots.append(further[2] if further[2] not in slots else further[0])
        relations.append((slots.index(further[0]), further[1], slots.index(further[2])))
    return Claim(tuple(_mention(rng, scene.entity(i), 0.7) for i in slots), tuple(relations))


def _further(rng: Rng, scene: Scene, subject: int, object_: int, predicate: str) -> Fact | None:
    """Another fact that starts from the subject, or from the object, and leads to a third thing."""
    spatial = ("left of", "right of", "next to")
    more = [
        (s, p, o)
        for s, p, o in sorted(facts(scene))
        if s in (subject, object_) and o not in (subject, object_) and p not in spatial
    ]
    return more[int(rng.integers(len(more)))] if more else None


def _mention(rng: Rng, entity: Entity, colour_odds: float) -> Mention:
    """A description of `entity`: often with its colour, now and then with its size or with a wider word."""
    odds = colour_odds * (0.7 if entity.cls in PEOPLE and colour_odds < 1 else 1.0)
    colour = entity.colour if rng.random() < odds else None
    size = entity.size if entity.size != "normal" and rng.random() < 0.3 else None
    wide = rng.random() < 0.12
    if wide and entity.cls in PEOPLE:
        return Mention("person", PEOPLE, colour, size)
    if wide and entity.cls in _ANIMALS:
        return Mention("animal", _ANIMALS, colour, size)
    return Mention(str(rng.choice(CLASSES[entity.cls].words)), (entity.cls,), colour, size)

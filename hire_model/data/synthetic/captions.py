"""Write captions: choose a claim that is true of the scene, and one of many wordings for it."""

from __future__ import annotations

from dataclasses import dataclass

from hire_model.data.synthetic.relations import Claim, Fact, Mention, find_facts, find_new_facts, is_true
from hire_model.data.synthetic.world import CLASSES, PEOPLE, Entity, Rng, Scene

PER_IMAGE = 5
DISTINCTIVE = 4  # number of captions of a scene that are false of its twin
_ANIMALS = ("dog", "cat", "horse", "bird")
_WEIGHT = {"left of": 0.35, "right of": 0.35, "next to": 0.4, "looks at": 0.8}
_TRIES = 200


@dataclass(frozen=True)
class Caption:
    """A caption and the claim that it states."""

    text: str
    claim: Claim


def write_captions(rng: Rng, scene: Scene, twin: Scene | None) -> list[Caption]:
    """Return PER_IMAGE different captions that are true of `scene`. If it has a twin, DISTINCTIVE are false of it.

    Raise ValueError if the scene does not have enough facts; the caller then tries another scene.
    """
    known = find_facts(scene)
    ordered = sorted(known)
    new_facts = find_new_facts(scene, twin) if twin else ordered
    twin_facts = find_facts(twin) if twin else None
    captions: dict[str, Caption] = {}
    for _ in range(_TRIES):
        if len(captions) == PER_IMAGE:
            return [captions[text] for text in rng.permutation(sorted(captions))]
        distinctive = twin is not None and len(captions) < DISTINCTIVE
        claim = _make_claim(rng, scene, new_facts if distinctive else ordered, ordered)
        if claim is None or not is_true(claim, scene, known):
            continue
        if distinctive and twin and is_true(claim, twin, twin_facts):
            continue
        text = write_sentence(rng, claim)
        captions.setdefault(text, Caption(text, claim))
    raise ValueError("the scene has too few facts for its captions")


def _make_claim(rng: Rng, scene: Scene, among: list[Fact], known: list[Fact]) -> Claim | None:
    """Return a claim of one fact in `among`, sometimes with a second one in `known`, or of two things without one."""
    if not among:
        return None
    odds = [_WEIGHT.get(p, 1.0) for _, p, _ in among]
    subject, predicate, object_ = among[int(rng.choice(len(among), p=[o / sum(odds) for o in odds]))]
    if rng.random() < 0.1:
        things = [_make_mention(rng, scene.get_entity(i), 1.0) for i in (subject, object_)]
        return Claim(tuple(things))
    slots, relations = [subject, object_], [(0, predicate, 1)]
    second = _find_second_fact(rng, known, subject, object_) if rng.random() < 0.4 else None
    if second:
        slots.append(second[2] if second[2] not in slots else second[0])
        relations.append((slots.index(second[0]), second[1], slots.index(second[2])))
    return Claim(tuple(_make_mention(rng, scene.get_entity(i), 0.7) for i in slots), tuple(relations))


def _find_second_fact(rng: Rng, known: list[Fact], subject: int, object_: int) -> Fact | None:
    """Return a known fact of `subject` or `object_` whose object is a third thing, None if there is none."""
    spatial = ("left of", "right of", "next to")
    facts = [
        (s, p, o) for s, p, o in known if s in (subject, object_) and o not in (subject, object_) and p not in spatial
    ]
    return facts[int(rng.integers(len(facts)))] if facts else None


def _make_mention(rng: Rng, entity: Entity, colour_odds: float) -> Mention:
    """Return a description of `entity`, often with its colour, sometimes with its size or a more general word."""
    odds = colour_odds * (0.7 if entity.cls in PEOPLE and colour_odds < 1 else 1.0)
    colour = entity.colour if rng.random() < odds else None
    size = entity.size if entity.size != "normal" and rng.random() < 0.3 else None
    general = rng.random() < 0.12
    if general and entity.cls in PEOPLE:
        return Mention("person", PEOPLE, colour, size)
    if general and entity.cls in _ANIMALS:
        return Mention("animal", _ANIMALS, colour, size)
    return Mention(str(rng.choice(CLASSES[entity.cls].words)), (entity.cls,), colour, size)


# Complete sentences. {s} and {o} are noun phrases.
SENTENCES: dict[str, tuple[str, ...]] = {
    "wears": ("{s} wears {o}", "{s} is wearing {o}", "{s} wearing {o}", "{s} has {o} on", "{o} is worn by {s}"),
    "holds": (
        "{s} holds {o}",
        "{s} is holding {o}",
        "{s} carries {o}",
        "{s} carrying {o}",
        "{s} has {o} in hand",
        "{o} is held by {s}",
        "{o} in the hand of {s}",
    ),
    "rides": (
        "{s} rides {o}",
        "{s} is riding {o}",
        "{s} riding on {o}",
        "{o} is ridden by {s}",
        "{o} with {s} riding it",
    ),
    "sits on": ("{s} sits on {o}", "{s} is sitting on {o}", "{s} seated on {o}", "{o} with {s} sitting on it"),
    "looks at": ("{s} looks at {o}", "{s} is watching {o}", "{s} facing {o}", "{o} is being watched by {s}"),
    "chases": (
        "{s} chases {o}",
        "{s} is running after {o}",
        "{s} chasing {o}",
        "{o} is chased by {s}",
        "{o} flees from {s}",
    ),
    "on": ("{s} is on {o}", "{s} lies on top of {o}", "{o} with {s} on it", "on {o} there is {s}", "{s} on {o}"),
    "under": (
        "{s} is under {o}",
        "{s} beneath {o}",
        "{s} lies underneath {o}",
        "under {o} there is {s}",
        "{o} with {s} under it",
    ),
    "in front of": (
        "{s} is in front of {o}",
        "{s} stands before {o}",
        "in front of {o} there is {s}",
        "{s} in front of {o}",
    ),
    "behind": ("{s} is behind {o}", "{s} stands behind {o}", "behind {o} there is {s}", "{s} at the back of {o}"),
    "next to": ("{s} is next to {o}", "{s} beside {o}", "{s} near {o}", "next to {o} there is {s}"),
    "left of": (
        "{s} is to the left of {o}",
        "{s} on the left of {o}",
        "to the left of {o} there is {s}",
        "{s} left of {o}",
    ),
    "right of": (
        "{s} is to the right of {o}",
        "{s} on the right of {o}",
        "to the right of {o} there is {s}",
        "{s} right of {o}",
    ),
    "above": ("{s} is above {o}", "{s} in the air over {o}", "{s} flies above {o}", "above {o} there is {s}"),
    "below": ("{s} is below {o}", "{s} under {o} in the air", "below {o} there is {s}"),
}
# Phrases that follow a noun phrase ("a man in a red hat ..."), for the second relation of a caption.
FOLLOWS: dict[str, tuple[str, ...]] = {
    "wears": ("in {o}", "wearing {o}", "with {o} on"),
    "holds": ("with {o}", "holding {o}", "carrying {o}"),
    "rides": ("riding {o}", "on {o}"),
    "sits on": ("sitting on {o}", "seated on {o}"),
    "looks at": ("looking at {o}", "watching {o}"),
    "chases": ("chasing {o}", "running after {o}"),
    "on": ("on {o}", "on top of {o}"),
    "under": ("under {o}", "beneath {o}"),
    "in front of": ("in front of {o}", "before {o}"),
    "behind": ("behind {o}",),
    "above": ("above {o}", "over {o}"),
    "below": ("below {o}",),
}
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
PERSON_SIZE_WORDS = {"small": ("short", "small"), "big": ("tall", "big")}
COLOUR_WORDS = {"grey": ("grey", "gray"), "purple": ("purple", "violet")}
CLOTHES = ("in {a} shirt", "in {c}", "dressed in {c}", "in {c} clothes")
BOTH = ("{a} and {b}", "there is {a} and {b}", "{a} together with {b}", "one can see {a} and {b}")


def write_noun_phrase(rng: Rng, thing: Mention) -> str:
    """Return an indefinite noun phrase such as 'a small red ball' or 'a tall man in a blue shirt'."""
    words = []
    if thing.size:
        words.append(_pick(rng, (PERSON_SIZE_WORDS if thing.is_person else SIZE_WORDS)[thing.size]))
    colour = _pick(rng, COLOUR_WORDS.get(thing.colour, (thing.colour,))) if thing.colour else ""
    if colour and not thing.is_person:
        words.append(colour)
    phrase = " ".join([*words, thing.word])
    if colour and thing.is_person:
        phrase += " " + _pick(rng, CLOTHES).format(a=_add_article(colour), c=colour)
    return _add_article(phrase)


def _add_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def write_sentence(rng: Rng, claim: Claim) -> str:
    """Return one wording of `claim` with a capital and, half of the time, a full stop."""
    phrases = [write_noun_phrase(rng, thing) for thing in claim.things]
    if not claim.relations:
        order = rng.permutation(len(phrases))
        text = _pick(rng, BOTH).format(a=phrases[order[0]], b=phrases[order[1]])
    else:
        text = _write_relations(rng, claim, phrases)
    return text[0].upper() + text[1:] + _pick(rng, (".", ""))


def _write_relations(rng: Rng, claim: Claim, phrases: list[str]) -> str:
    subject, predicate, object_ = claim.relations[0]
    for owner, second, other in claim.relations[1:]:
        phrases[owner] += " " + _pick(rng, FOLLOWS[second]).format(o=phrases[other])
    pattern = _pick(rng, SENTENCES[predicate])
    return pattern.format(s=phrases[subject], o=phrases[object_])


def _pick(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]

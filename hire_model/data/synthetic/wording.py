"""Words for claims: noun phrases, verbs with their synonyms, active and passive, and the order in which it is said."""

from __future__ import annotations

from hire_model.data.synthetic.relations import Claim, Mention
from hire_model.data.synthetic.world import Rng

# {s} and {o} are noun phrases. First the sentences that stand alone ...
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
# ... then what can follow a noun phrase ("a man in a red hat ..."), the second half of a caption with two relations.
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


def noun_phrase(rng: Rng, thing: Mention) -> str:
    """An indefinite noun phrase such as 'a small red ball' or 'a tall man in a blue shirt'."""
    words = []
    if thing.size:
        words.append(_pick(rng, (PERSON_SIZE_WORDS if thing.is_person else SIZE_WORDS)[thing.size]))
    colour = _pick(rng, COLOUR_WORDS.get(thing.colour, (thing.colour,))) if thing.colour else ""
    if colour and not thing.is_person:
        words.append(colour)
    phrase = " ".join([*words, thing.word])
    if colour and thing.is_person:
        phrase += " " + _pick(rng, CLOTHES).format(a=_with_article(colour), c=colour)
    return _with_article(phrase)


def _with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(rng: Rng, claim: Claim) -> str:
    """One wording of `claim`, with a capital and, half of the time, a full stop."""
    phrases = [noun_phrase(rng, thing) for thing in claim.things]
    if not claim.relations:
        order = rng.permutation(len(phrases))
        text = _pick(rng, BOTH).format(a=phrases[order[0]], b=phrases[order[1]])
    else:
        text = _related(rng, claim, phrases)
    return text[0].upper() + text[1:] + _pick(rng, (".", ""))


def _related(rng: Rng, claim: Claim, phrases: list[str]) -> str:
    subject, predicate, object_ = claim.relations[0]
    for owner, second, other in claim.relations[1:]:
        phrases[owner] += " " + _pick(rng, FOLLOWS[second]).format(o=phrases[other])
    pattern = _pick(rng, SENTENCES[predicate])
    return pattern.format(s=phrases[subject], o=phrases[object_])


def _pick(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]

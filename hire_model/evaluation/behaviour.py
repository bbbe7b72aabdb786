"""Behaviour tests: does an image score its own caption above the same caption with its meaning changed?

Contrast captions are made from the text alone, by rule; none is true of its image:

    swap      subject and object of a relation exchanged    "a dog on a box" -> "a box on a dog"
    colour    two colours exchanged                         "a red hat on a blue car" -> "a blue hat on a red car"
    negation  the first determiner becomes "no"             "a man rides a horse" -> "no man rides a horse"
    shuffle   the words in another order                    "a man rides a horse" -> "horse a rides man a"

A bag of objects scores both captions alike, as they have the same words: as in ARO (Yuksekgonul et al., "When and why
vision-language models behave like bags-of-words", ICLR 2023), which takes its contrasts from annotations. Relations
that may hold both ways (next to, looking at) are never exchanged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from hire_model.data.store import Split
from hire_model.evaluation.bootstrap import bootstrap_share
from hire_model.evaluation.result import Interval
from hire_model.progress import show_progress
from hire_model.scoring.scorer import ImageTextPair, Scorer

TIE = 1e-5  # scores nearer than this differ by the order of a sum, and by nothing that the model knows
FEWEST = 20  # captions below which a share says nothing
_MOST = 500  # captions of a kind, spread over the split
_IMAGES_AT_ONCE = 32
_DRAWS = 1000


class Behaviour(BaseModel):
    """Share of captions, 0-100, whose own image scores them above their contrast by more than TIE; 95 % interval.

    A tie counts against the model: one that ignores the change gets 0, one that guesses 50.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    captions: int
    share: float
    interval: Interval


def measure_behaviour(scorer: Scorer, split: Split, most: int = _MOST) -> dict[str, Behaviour]:
    """The share of each kind of contrast (see `CONTRASTS`) that the split has at least FEWEST captions for.

    scorer: its predicates must be those of the split's data set.
    """
    contrasts = {kind: _choose_captions(split, kind, most) for kind in CONTRASTS}
    contrasts = {kind: found for kind, found in contrasts.items() if len(found) >= FEWEST}
    wins = {kind: {caption: False for caption in found} for kind, found in contrasts.items()}
    shown = sorted({int(split.owner[caption]) for found in contrasts.values() for caption in found})
    for images in _split_images(shown):
        asked = [
            (kind, caption, text)
            for kind, found in contrasts.items()
            for caption, text in found.items()
            if split.owner[caption] in images
        ]
        regions = {image: split.regions(image) for image in images}
        pairs: list[ImageTextPair] = []
        for _, caption, text in asked:
            own = regions[int(split.owner[caption])]
            pairs += [(own, split.texts[caption]), (own, text)]
        scores = scorer.predict(pairs).reshape(-1, 2)
        for (kind, caption, _), (true, changed) in zip(asked, scores, strict=True):
            wins[kind][caption] = bool(true > changed + TIE)
    return {kind: _summarise(found, split.owner) for kind, found in wins.items()}


def _choose_captions(split: Split, kind: str, most: int) -> dict[int, str]:
    """{caption: contrast} of at most `most` captions, evenly over the split."""
    found = {row: text for row, caption in enumerate(split.texts) if (text := CONTRASTS[kind](caption)) is not None}
    rows = list(found)
    if not rows:
        return {}
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))
    return {rows[place]: found[rows[place]] for place in chosen}


def _split_images(images: list[int]) -> Iterator[set[int]]:
    starts = range(0, len(images), _IMAGES_AT_ONCE)
    for start in show_progress(starts, "behaviour tests"):
        yield set(images[start : start + _IMAGES_AT_ONCE])


def _summarise(wins: dict[int, bool], owner: np.ndarray) -> Behaviour:
    """The share and its interval; the contrasts of one image are drawn together."""
    images, index = np.unique(owner[list(wins)], return_inverse=True)
    won = np.bincount(index, weights=np.array(list(wins.values()), float), minlength=len(images))
    interval = bootstrap_share(won, np.bincount(index, minlength=len(images)), _DRAWS, seed=0)
    return Behaviour(captions=len(wins), share=100 * float(won.sum()) / len(wins), interval=interval)


COLOURS: Final = "red|blue|green|yellow|orange|purple|violet|pink|white|brown|black|gr[ea]y|tan|beige|golden|silver"
_SHUFFLES = 20
_COLOUR = re.compile(rf"\b({COLOURS})\b(?=\s+([a-z]+))", re.I)
_DETERMINER = re.compile(r"\b(?:an?|(?<!to )(?<!on )the|some|one|two|three|four|five|several|many)\b", re.I)
_JOINED = re.compile(r"\s*(?:,|and|&)\s*(?:and\s)?\s*", re.I)
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.I)

# A noun phrase: an article and up to four words that cannot end one, with "in a red shirt" behind it.
_STOP = (
    "an?|the|is|are|was|were|has|have|in|on|of|at|to|by|with|and|or|while|as|that|who|which|there|it|its|his|her|their|into|onto"
    "|out|off|up|down|from|for|near|beside|next|around|along|across|through|towards?|outside|inside|against|between"
    "|before|after|during|dressed"
)
_PLACES = "left of|right of|on top of|in front of|at the back of|underneath|beneath|under|behind|above|below|over|on"
_DOES = "wears|holds|carries|rides|chases|runs|flees|pushes|pulls|throws|catches|kicks|eats|drinks|climbs|feeds|follows"
_STANDS = "sits|seated|stands|lies|lays|flies|jumps|leans|walks|plays|sleeps"
_NOUN_ING = "building|ring|king|string|swing|painting|railing|clothing|ceiling|wing|spring|sling|evening|morning"
_WORD = rf"(?!(?:{_STOP}|{_PLACES}|{_DOES}|{_STANDS}|(?!(?:{_NOUN_ING})\b)\w+ing)\b)[\w'-]+"
_DRESS = rf"(?:\s+(?:dressed\s+)?in(?:\s+an?)?(?:\s+{_WORD}){{1,2}})?"
_PHRASE = rf"(?:an?|the)(?:\s+{_WORD}){{1,4}}{_DRESS}"
_BY = r"\w+(?:ed|n|d)\s+by"  # worn by, chased by, held by
_VERB = (
    rf"(?:(?:{_DOES})(?:\s+(?:after|from|on))?|(?:wear|hold|carry|rid|chas|push|pull|throw|catch|kick|eat|drink|climb|feed"
    rf"|follow)ing(?:\s+on)?|running\s+after|in\s+the\s+hand\s+of|{_BY})"
)
_POSTURE = rf"(?:(?:{_STANDS}|\w+ing)\s+)?(?:in\s+the\s+air\s+)?"
_PLACE = rf"{_POSTURE}(?:(?:to|on|at)\s+the\s+)?(?:{_PLACES})"
_SWAP = re.compile(rf"\b({_PHRASE})(\s+(?:(?:is|are)\s+)?(?:{_VERB}|{_PLACE})\s+)({_PHRASE})(?=\W*$|[,.;]|\s)", re.I)
_TURNED = re.compile(
    rf"\b((?:(?:to|on)\s+the\s+)?(?:{_PLACES})\s+)({_PHRASE})(\s+there\s+is\s+)({_PHRASE})(?=\W*$|[,.;]|\s)", re.I
)
_MUTUAL = re.compile(r"\b(?:watched|looked|accompanied|joined)\b|\bnext\b", re.I)


def swap_roles(text: str) -> str | None:
    """Subject and object of the first relation exchanged; None where there is none that holds one way only."""
    if _MUTUAL.search(text):
        return None
    if found := _TURNED.search(text):
        before, first, between, second = found.groups()
        new = before + _match_case(second, first) + between + _match_case(first, second)
    elif found := _SWAP.search(text):
        first, between, second = found.groups()
        new = _match_case(second, first) + between + _match_case(first, second)
    else:
        return None
    return _reject_unchanged(text, text[: found.start()] + new + text[found.end() :])


def swap_colours(text: str) -> str | None:
    """The first two different colours that stand before different words, exchanged; None where there are no two."""
    found = list(_COLOUR.finditer(text))
    for place, first in enumerate(found):
        for second in found[place + 1 :]:
            one_thing = _JOINED.fullmatch(text[first.end() : second.start()])  # "a brown and black dog"
            if not one_thing and first[1].lower() != second[1].lower() and first[2].lower() != second[2].lower():
                head = _join_with_article(text[: first.start()], _match_case(second[1], first[1]))
                middle = _join_with_article(text[first.end() : second.start()], _match_case(first[1], second[1]))
                return head + middle + text[second.end() :]
    return None


def negate(text: str) -> str | None:
    """The first article or number becomes "no"; where there is none, "no" comes first."""
    if found := _DETERMINER.search(text):
        return text[: found.start()] + _match_case("no", found[0]) + text[found.end() :]
    return f"No {text[0].lower()}{text[1:]}" if text.strip() else None


def shuffle_words(text: str) -> str | None:
    """The words in another order, the same at every call; None where there are fewer than four different words."""
    words = text.rstrip(" .").split()
    if len({word.lower() for word in words}) < 4:
        return None
    order = random.Random(text)
    for _ in range(_SHUFFLES):
        mixed = order.sample(words, len(words))
        if [word.lower() for word in mixed] != [word.lower() for word in words]:
            return " ".join(mixed)
    return None


CONTRASTS: dict[str, Callable[[str], str | None]] = {
    "shuffle": shuffle_words,
    "swap": swap_roles,
    "colour": swap_colours,
    "negation": negate,
}


def _match_case(text: str, place: str) -> str:
    """`text` with a capital where what stood in its place had one."""
    return (text[0].upper() if place[0].isupper() else text[0].lower()) + text[1:]


def _join_with_article(before: str, word: str) -> str:
    """`before` and then `word`, with a or an between them as the word needs it."""
    if article := _ARTICLE.search(before):
        right = _match_case("an" if word[0].lower() in "aeiou" else "a", article[1])
        before = before[: article.start()] + right + article[2]
    return before + word


def _reject_unchanged(old: str, new: str) -> str | None:
    return new if new.lower() != old.lower() else None

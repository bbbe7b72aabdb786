"""Test behaviour: does an image score its own caption higher than the same caption with a changed meaning?

Contrast captions are made from the text by rules, so that they are false for the image:

    swap      subject and object of a relation exchanged    "a dog on a box" -> "a box on a dog"
    colour    two colours exchanged                         "a red hat on a blue car" -> "a blue hat on a red car"
    negation  the first determiner becomes "no"             "a man rides a horse" -> "no man rides a horse"
    shuffle   the words in another order                    "a man rides a horse" -> "horse a rides man a"

A bag-of-words model scores both captions equally, except for negation. The tests follow ARO (Yuksekgonul et al., "When
and why vision-language models behave like bags-of-words", ICLR 2023), which makes its contrasts from annotations.
Relations that may hold in both directions (next to, looking at) are never exchanged.
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

TIE = 1e-5  # smaller differences of scores are rounding errors
MIN_CAPTIONS = 20  # kinds with fewer captions are not reported
_MAX_CAPTIONS = 500  # per kind, spread over the split
_IMAGES_AT_ONCE = 32
_DRAWS = 1000


class Behaviour(BaseModel):
    """Share of captions (0-100) whose own image scores them above their contrast by more than TIE; 95 % interval.

    A tie counts against the model: a model that ignores the change gets 0, one that guesses gets 50.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    captions: int
    share: float
    interval: Interval


def measure_behaviour(scorer: Scorer, split: Split, max_captions: int = _MAX_CAPTIONS) -> dict[str, Behaviour]:
    """Measure each kind of contrast (see `CONTRASTS`) for which the split has at least MIN_CAPTIONS captions.

    scorer: its predicates must be those of the split's data set.
    """
    contrasts = {kind: _choose_captions(split, kind, max_captions) for kind in CONTRASTS}
    contrasts = {kind: texts for kind, texts in contrasts.items() if len(texts) >= MIN_CAPTIONS}
    wins = {kind: {caption: False for caption in texts} for kind, texts in contrasts.items()}
    all_images = sorted({int(split.owner[caption]) for texts in contrasts.values() for caption in texts})
    for images in _split_images(all_images):
        questions = [
            (kind, caption, text)
            for kind, texts in contrasts.items()
            for caption, text in texts.items()
            if split.owner[caption] in images
        ]
        regions = {image: split.regions(image) for image in images}
        pairs: list[ImageTextPair] = []
        for _, caption, text in questions:
            image_regions = regions[int(split.owner[caption])]
            pairs += [(image_regions, split.texts[caption]), (image_regions, text)]
        scores = scorer.predict(pairs).reshape(-1, 2)
        for (kind, caption, _), (true, changed) in zip(questions, scores, strict=True):
            wins[kind][caption] = bool(true > changed + TIE)
    return {kind: _summarise(kind_wins, split.owner) for kind, kind_wins in wins.items()}


def _choose_captions(split: Split, kind: str, max_captions: int) -> dict[int, str]:
    """Return {caption: contrast} of at most `max_captions` captions, spread evenly over the split."""
    contrasts = {row: text for row, caption in enumerate(split.texts) if (text := CONTRASTS[kind](caption)) is not None}
    rows = list(contrasts)
    if not rows:
        return {}
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), max_captions)).astype(int))
    return {rows[k]: contrasts[rows[k]] for k in chosen}


def _split_images(images: list[int]) -> Iterator[set[int]]:
    starts = range(0, len(images), _IMAGES_AT_ONCE)
    for start in show_progress(starts, "behaviour tests"):
        yield set(images[start : start + _IMAGES_AT_ONCE])


def _summarise(wins: dict[int, bool], owner: np.ndarray) -> Behaviour:
    """Compute the share of wins and its interval; the contrasts of an image are drawn together."""
    images, index = np.unique(owner[list(wins)], return_inverse=True)
    wins_per_image = np.bincount(index, weights=np.array(list(wins.values()), float), minlength=len(images))
    interval = bootstrap_share(wins_per_image, np.bincount(index, minlength=len(images)), _DRAWS, seed=0)
    return Behaviour(captions=len(wins), share=100 * float(wins_per_image.sum()) / len(wins), interval=interval)


COLOURS: Final = "red|blue|green|yellow|orange|purple|violet|pink|white|brown|black|gr[ea]y|tan|beige|golden|silver"
_SHUFFLES = 20
_COLOUR = re.compile(rf"\b({COLOURS})\b(?=\s+([a-z]+))", re.I)
_DETERMINER = re.compile(r"\b(?:an?|(?<!to )(?<!on )the|some|one|two|three|four|five|several|many)\b", re.I)
_JOINED = re.compile(r"\s*(?:,|and|&)\s*(?:and\s)?\s*", re.I)
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.I)

# A noun phrase: an article, one to four words that can be part of it, and possibly clothes such as "in a red shirt".
_STOP = (
    "an?|the|is|are|was|were|has|have|in|on|of|at|to|by|with|and|or|while|as|that|who|which|there|it|its|his|her|their|into|onto"
    "|out|off|up|down|from|for|near|beside|next|around|along|across|through|towards?|outside|inside|against|between"
    "|before|after|during|dressed"
)
_PLACES = "left of|right of|on top of|in front of|at the back of|underneath|beneath|under|behind|above|below|over|on"
_ACTIONS = (
    "wears|holds|carries|rides|chases|runs|flees|pushes|pulls|throws|catches|kicks|eats|drinks|climbs|feeds|follows"
)
_STATES = "sits|seated|stands|lies|lays|flies|jumps|leans|walks|plays|sleeps"
_NOUN_ING = "building|ring|king|string|swing|painting|railing|clothing|ceiling|wing|spring|sling|evening|morning"
_WORD = rf"(?!(?:{_STOP}|{_PLACES}|{_ACTIONS}|{_STATES}|(?!(?:{_NOUN_ING})\b)\w+ing)\b)[\w'-]+"
_DRESS = rf"(?:\s+(?:dressed\s+)?in(?:\s+an?)?(?:\s+{_WORD}){{1,2}})?"
_PHRASE = rf"(?:an?|the)(?:\s+{_WORD}){{1,4}}{_DRESS}"
_BY = r"\w+(?:ed|n|d)\s+by"  # worn by, chased by, held by
_VERB = (
    rf"(?:(?:{_ACTIONS})(?:\s+(?:after|from|on))?|(?:wear|hold|carry|rid|chas|push|pull|throw|catch|kick|eat|drink|climb|feed"
    rf"|follow)ing(?:\s+on)?|running\s+after|in\s+the\s+hand\s+of|{_BY})"
)
_POSTURE = rf"(?:(?:{_STATES}|\w+ing)\s+)?(?:in\s+the\s+air\s+)?"
_PLACE = rf"{_POSTURE}(?:(?:to|on|at)\s+the\s+)?(?:{_PLACES})"
_SWAP = re.compile(rf"\b({_PHRASE})(\s+(?:(?:is|are)\s+)?(?:{_VERB}|{_PLACE})\s+)({_PHRASE})(?=\W*$|[,.;]|\s)", re.I)
_INVERTED = re.compile(
    rf"\b((?:(?:to|on)\s+the\s+)?(?:{_PLACES})\s+)({_PHRASE})(\s+there\s+is\s+)({_PHRASE})(?=\W*$|[,.;]|\s)", re.I
)
_MUTUAL = re.compile(r"\b(?:watched|looked|accompanied|joined)\b|\bnext\b", re.I)


def swap_roles(text: str) -> str | None:
    """Exchange subject and object of the first relation; None if no relation holds in one direction only."""
    if _MUTUAL.search(text):
        return None
    if match := _INVERTED.search(text):
        before, first, between, second = match.groups()
        new = before + _match_case(second, first) + between + _match_case(first, second)
    elif match := _SWAP.search(text):
        first, between, second = match.groups()
        new = _match_case(second, first) + between + _match_case(first, second)
    else:
        return None
    return _reject_unchanged(text, text[: match.start()] + new + text[match.end() :])


def swap_colours(text: str) -> str | None:
    """Exchange the first two different colours that precede different words; None if there are none."""
    matches = list(_COLOUR.finditer(text))
    for number, first in enumerate(matches):
        for second in matches[number + 1 :]:
            same_object = _JOINED.fullmatch(text[first.end() : second.start()])  # "a brown and black dog"
            if not same_object and first[1].lower() != second[1].lower() and first[2].lower() != second[2].lower():
                head = _join_with_article(text[: first.start()], _match_case(second[1], first[1]))
                middle = _join_with_article(text[first.end() : second.start()], _match_case(first[1], second[1]))
                return head + middle + text[second.end() :]
    return None


def negate(text: str) -> str | None:
    """Replace the first article or number by "no"; without one, prepend "no"."""
    if match := _DETERMINER.search(text):
        return text[: match.start()] + _match_case("no", match[0]) + text[match.end() :]
    return f"No {text[0].lower()}{text[1:]}" if text.strip() else None


def shuffle_words(text: str) -> str | None:
    """Shuffle the words, with the same result at every call; None with fewer than four different words."""
    words = text.rstrip(" .").split()
    if len({word.lower() for word in words}) < 4:
        return None
    rng = random.Random(text)
    for _ in range(_SHUFFLES):
        shuffled = rng.sample(words, len(words))
        if [word.lower() for word in shuffled] != [word.lower() for word in words]:
            return " ".join(shuffled)
    return None


CONTRASTS: dict[str, Callable[[str], str | None]] = {
    "shuffle": shuffle_words,
    "swap": swap_roles,
    "colour": swap_colours,
    "negation": negate,
}


def _match_case(text: str, replaced: str) -> str:
    """Capitalise `text` if the text that it replaces is capitalised."""
    return (text[0].upper() if replaced[0].isupper() else text[0].lower()) + text[1:]


def _join_with_article(before: str, word: str) -> str:
    """Join `before` and `word`; an indefinite article at the end of `before` becomes "a" or "an" as the word needs."""
    if match := _ARTICLE.search(before):
        article = _match_case("an" if word[0].lower() in "aeiou" else "a", match[1])
        before = before[: match.start()] + article + match[2]
    return before + word


def _reject_unchanged(old: str, new: str) -> str | None:
    return new if new.lower() != old.lower() else None

"""Make false captions from the captions of a training split, by rules.

    exchange   two noun phrases exchange their places      "a dog on a box" -> "a box on a dog"
    relation   the words between two phrases are replaced  "a dog on a box" -> "a dog jumping over a box"
    attribute  a modifier moves to another phrase          "a black dog on a box" -> "a dog on a black box"

Phrases are found with word classes that are learned from the captions: only determiners, prepositions and conjunctions
are listed here. The rules of `hire_model/evaluation` share neither code nor word lists with these, and three of its
kinds (exchanged colours, word order, negation) are never made for training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np

Rng = np.random.Generator


def _make_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DETERMINERS: Final = _make_set("a an the his her its their two three four five six many several some another")
_PREPOSITIONS: Final = _make_set(
    "in on at with by of near behind under beneath over above below beside through across into onto from to toward"
    " towards around along against between inside outside down up off for"
)
_RELATION_BREAKS: Final = _make_set("and or but while as that who which was were of")
_BREAKS: Final = _make_set("and or but while as that who which is are was were")
AUXILIARIES: Final = _make_set("is are was were")
_SEPARATORS: Final = _BREAKS | {","}
_CLOSED: Final = _PREPOSITIONS | _BREAKS
_WORD: Final = re.compile(r"[\w'-]+|[^\w\s]")
_SHARE = 0.3  # a word is a noun, or a modifier, if at least this share of its occurrences is in the place of one
_LEAST = 3  # occurrences of a noun, a modifier or a relation
_LONGEST_RELATION = 4  # words
_ODDS: Final = {"exchange": 0.5, "relation": 0.3, "attribute": 0.2}


@dataclass(frozen=True)
class NounPhrase:
    """Words `first` to `last` of a caption, both included; `noun` is the position of the first noun."""

    first: int
    noun: int
    last: int


@dataclass(frozen=True)
class CaptionNegatives:
    """The words of the training captions that the rules use. Create it with `learn_words`.

    Attributes:
        nouns: words that end noun phrases.
        modifiers: words between a determiner and a noun.
        relations: texts between two neighbouring phrases, as words.
        odds: [relations] the odds of drawing each one, the root of its frequency.
    """

    nouns: frozenset[str]
    modifiers: frozenset[str]
    relations: tuple[tuple[str, ...], ...]
    odds: np.ndarray

    @cached_property
    def content(self) -> frozenset[str]:
        """Words that can be part of a noun phrase after its determiner."""
        return self.nouns | self.modifiers

    def make(self, text: str, rng: Rng) -> str | None:
        """Return a false caption made from `text` by a rule that is drawn with `rng`; None if no rule applies."""
        words = split_words(text)
        phrases = find_noun_phrases(words, self)
        rules = {"exchange": self._exchange, "relation": self._replace_relation, "attribute": self._move_modifier}
        order = rng.choice(list(_ODDS), len(_ODDS), replace=False, p=list(_ODDS.values()))
        for rule in order:
            changed = rules[rule](words, phrases, rng)
            if changed is not None and [w.lower() for w in changed] != [w.lower() for w in words]:
                return _join(changed, words[0])
        return None

    def _exchange(self, words: list[str], phrases: list[NounPhrase], rng: Rng) -> list[str] | None:
        """Exchange two phrases that more than a conjunction or a comma separates."""
        pairs = [
            (one, two)
            for number, one in enumerate(phrases)
            for two in phrases[number + 1 :]
            if any(word.lower() not in _SEPARATORS for word in words[one.last + 1 : two.first])
            and words[one.noun].lower() != words[two.noun].lower()
        ]
        if not pairs:
            return None
        one, two = pairs[int(rng.integers(len(pairs)))]
        first, second = words[one.first : one.last + 1], words[two.first : two.last + 1]
        return [*words[: one.first], *second, *words[one.last + 1 : two.first], *first, *words[two.last + 1 :]]

    def _replace_relation(self, words: list[str], phrases: list[NounPhrase], rng: Rng) -> list[str] | None:
        """Replace the words between two neighbouring phrases by another relation of the training captions."""
        places = [(one.last + 1, two.first) for one, two in find_relations(words, phrases)]
        if not places or len(self.relations) < 2:
            return None
        start, end = places[int(rng.integers(len(places)))]
        old = {word.lower() for word in words[start:end]}
        for number in rng.choice(len(self.relations), 8, p=self.odds):
            if not old & set(self.relations[number]):  # "sitting on" for "standing on" may be true as well
                return [*words[:start], *self.relations[number], *words[end:]]
        return None

    def _move_modifier(self, words: list[str], phrases: list[NounPhrase], rng: Rng) -> list[str] | None:
        """Move the word before a phrase's noun to a phrase that has none."""
        places = [
            (one.noun - 1, two.noun)
            for one in phrases
            for two in phrases
            if one.noun > one.first
            and words[one.noun - 1].lower() in self.modifiers
            and two.first == two.noun - 1
            and words[two.first].lower() in _DETERMINERS
            and words[one.noun].lower() != words[two.noun].lower()
        ]
        if not places:
            return None
        source, target = places[int(rng.integers(len(places)))]
        moved = [*words[:target], words[source], *words[target:]]
        del moved[source if source < target else source + 1]
        return moved


def _join(words: list[str], first: str) -> str:
    """Join `words`. If the old `first` word is capitalised, the new one is, and the old one no longer."""
    if first[:1].isupper():
        lowered = [word.lower() if word == first else word for word in words]
        words = [lowered[0][:1].upper() + lowered[0][1:], *lowered[1:]]
    return " ".join(words)


def learn_words(texts: Iterable[str]) -> CaptionNegatives:
    """Learn nouns, modifiers and relations from captions.

    A noun follows a determiner, with at most two words between, and precedes a preposition, a break or the end. A word
    whose form in -ing is frequent is a verb ("runs", "running"). A modifier stands between a determiner and a noun.
    """
    captions = [[word.lower() for word in split_words(text)] for text in texts]
    counts = Counter(word for words in captions for word in words)
    ends: Counter[str] = Counter()
    for words in captions:
        for position, word in enumerate(words):
            ends[word] += _ends_phrase(words, position + 1) and _follows_determiner(words, position)
    nouns = frozenset(
        word
        for word, count in ends.items()
        if count >= _LEAST and count >= _SHARE * counts[word] and not _is_closed(word) and not _is_verb(word, counts)
    )
    starts = _DETERMINERS | nouns
    inside = Counter(
        two
        for words in captions
        for one, two, three in zip(words, words[1:], words[2:], strict=False)
        if one in starts and three in nouns
    )
    modifiers = frozenset(
        word
        for word, count in inside.items()
        if count >= _LEAST and count >= _SHARE * counts[word] and word not in nouns and not _is_closed(word)
    )
    lexicon = CaptionNegatives(nouns, modifiers, (), np.empty(0))
    relations: Counter[tuple[str, ...]] = Counter()
    for words in captions:
        phrases = find_noun_phrases(words, lexicon)
        relations.update(tuple(words[one.last + 1 : two.first]) for one, two in find_relations(words, phrases))
    frequent = [(relation, count) for relation, count in relations.most_common() if count >= _LEAST]
    odds = np.sqrt([float(count) for _, count in frequent])
    return CaptionNegatives(nouns, modifiers, tuple(relation for relation, _ in frequent), odds / max(odds.sum(), 1))


def find_noun_phrases(words: list[str], lexicon: CaptionNegatives) -> list[NounPhrase]:
    """Find runs of an optional determiner, modifiers and nouns that end in a noun, from left to right."""
    phrases, position = [], 0
    while position < len(words):
        end = position + (words[position].lower() in _DETERMINERS)
        first_noun = last = -1
        while end < len(words) and words[end].lower() in lexicon.content:
            if words[end].lower() in lexicon.nouns:
                last = end
                first_noun = end if first_noun < 0 else first_noun
            end += 1
        if last >= 0:
            phrases.append(NounPhrase(position, first_noun, last))
        position = max(last + 1, position + 1)
    return phrases


def find_relations(words: list[str], phrases: list[NounPhrase]) -> list[tuple[NounPhrase, NounPhrase]]:
    """Return the neighbouring phrases with words between them that can be a relation."""
    return [(one, two) for one, two in pairwise(phrases) if _is_relation(words[one.last + 1 : two.first])]


def is_predicate(words: list[str]) -> bool:
    """Return whether words between two phrases name a relation: a preposition or a form of a verb, no determiner.

    Telegraphic captions also have adjectives there ("sun medium tree").
    """
    if any(word in _DETERMINERS for word in words):
        return False
    return any(word in _PREPOSITIONS or word.endswith(("ing", "ed", "s")) for word in words if word not in AUXILIARIES)


def split_words(text: str) -> list[str]:
    """Return the words and punctuation marks of a caption."""
    return _WORD.findall(text)


def _follows_determiner(words: list[str], position: int) -> bool:
    """Return whether a determiner precedes the word, with at most two words and no preposition or break between."""
    for before in reversed(words[max(0, position - 3) : position]):
        if before in _DETERMINERS or before in _CLOSED:
            return before in _DETERMINERS
    return False


def _ends_phrase(words: list[str], position: int) -> bool:
    return position == len(words) or words[position] in _CLOSED or not words[position][0].isalpha()


def _is_closed(word: str) -> bool:
    return word in _DETERMINERS or word in _CLOSED or not word[0].isalpha()


def _is_verb(word: str, counts: Counter[str]) -> bool:
    """Return whether the word ends in -ing, or its form in -ing is at least a quarter as frequent."""
    if word.endswith("ing"):
        return True
    stems = [word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ed")]
    forms = {form for stem in stems if stem for form in (stem, stem + stem[-1], stem.removesuffix("e"))}
    return max(counts[form + "ing"] for form in forms) >= counts[word] / 4


def _is_relation(between: list[str]) -> bool:
    """Return whether words between two phrases can be a relation: a few words, no comma, no conjunction or "of"."""
    return 0 < len(between) <= _LONGEST_RELATION and not any(
        word.lower() in _RELATION_BREAKS or not word[0].isalpha() for word in between
    )

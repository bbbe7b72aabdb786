"""Find the noun phrases of an English caption by closed word lists, and exchange two of them.

A phrase starts at a determiner or a number and ends before a preposition, a verb or a conjunction, or after a plural
noun. "A man in a blue shirt watches two dogs" has "A man", "a blue shirt" and "two dogs". Phrases without a determiner
("water", "children") are not found.

`hire_model/training/caption_negatives.py` makes the false captions of the training. It shares neither rules nor word
lists with this file, so that a model cannot learn the rules that it is tested with.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

from hire_model.evaluation.behaviour import COLOURS


def _make_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SINGULAR: Final = _make_set("a an another one this that each every")
_PLURAL: Final = _make_set("two three four five six seven several many some few these those both various")
_OPEN: Final = _make_set("the his her its their")
_STOP: Final = _make_set(
    # prepositions and particles
    "in on of at to by with from for into onto out off up down near beside besides next around along across through"
    " toward towards outside inside against between before after during over under underneath beneath behind above"
    " below past among amongst about without within upon atop away back alongside while as"
    # conjunctions, pronouns and auxiliaries
    " and or but that who which whom whose there it he she they him them himself herself itself themselves each other"
    " is are was were be been being has have had do does did can will would not very together"
    # frequent forms of irregular verbs
    " held worn ridden made seen taken given thrown done gone ran sat stood lay went"
)
_VERBS: Final = (
    "approach|attempt|balance|begin|bend|bite|blow|bounce|bowl|build|carry|catch|celebrate|chase|cheer|chew|clap|clean"
    "|climb|come|compete|cook|cover|crawl|cross|crouch|cut|dance|dig|display|dive|drag|draw|dress|drink|drive|eat|embrace"
    "|enjoy|enter|examine|exit|face|fall|feed|fetch|fight|flip|float|fly|follow|gather|gaze|get|give|go|grab|grind|hang"
    "|hike|hit|hold|hug|hurdle|jog|join|jump|kayak|kick|kiss|kneel|laugh|launch|lay|lead|lean|leap|leave|lick|lie|lift"
    "|listen|look|make|march|move|overlook|paddle|paint|pass|pedal|perform|pet|photograph|pick|play|point|pose|practice"
    "|prepare|pull|push|put|race|raise|reach|read|relax|rest|ride|rise|roll|row|run|sail|scream|shake|shoot|show|sing"
    "|sit|skate|skateboard|ski|skip|sleep|slide|smile|sniff|snowboard|speak|spin|splash|spray|squat|squirt|stand|stare"
    "|stick|stretch|stroll|surf|surround|swim|swing|tackle|take|talk|throw|toss|touch|try|tug|turn|twirl|use|wade|wait"
    "|walk|watch|wave|wear|wrestle|yell"
)
_VERB: Final = re.compile(rf"(?:{_VERBS})(?:s|es|ed)|(?:carr|tr|fl)ies|tries", re.I)
_NOUN_ING: Final = _make_set(
    "building ring king string swing painting railing clothing ceiling wing spring wedding evening morning"
)
_IRREGULAR: Final = _make_set("people men women children kids policemen firemen sheep")
_ALSO_PLURAL: Final = re.compile(r".{2,}[^suia]s")  # not "grass", "bus", "tennis", "canvas"
_WORD: Final = re.compile(r"[^\W\d_][\w'-]*")
_COLOURS: Final = re.compile(rf"\s*and\s+(?:{COLOURS}|striped|spotted|checkered)\b", re.I)
_PART: Final = re.compile(r"\s+of\b", re.I)
_LONGEST = 4  # words after the determiner
_MUTUAL: Final = re.compile(
    r"\W*(?:and|or|&|,|near|beside|by|next to|with|alongside|is|are)?\W*(?:and|near|beside|next to)?\W*", re.I
)
"""Text between two phrases whose relation holds in both directions, so that the exchange changes nothing."""


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: its characters `start` to `end` of the caption."""

    text: str
    start: int
    end: int


def find_phrases(text: str) -> list[Phrase]:
    """Return the noun phrases that start with a determiner or a number, from left to right.

    Phrases that "of" continues are left out ("a group of men", "the side of the boat").
    """
    words = list(_WORD.finditer(text))
    phrases, position = [], 0
    while position < len(words):
        end = (
            _find_end(text, words, position) if words[position][0].lower() in _SINGULAR | _PLURAL | _OPEN else position
        )
        if end > position and not _PART.match(text, words[end].end()):
            start, stop = words[position].start(), words[end].end()
            phrases.append(Phrase(text[start:stop], start, stop))
        position = end + 1
    return phrases


def _find_end(text: str, words: list[re.Match[str]], first: int) -> int:
    """Return the position of the last word of the phrase that starts at `first`; `first` if it has no noun."""
    singular, end = words[first][0].lower() in _SINGULAR, first
    for position in range(first + 1, min(first + 2 + _LONGEST, len(words))):
        word = words[position][0].lower()
        plural = word in _IRREGULAR or _ALSO_PLURAL.fullmatch(word) is not None
        if word == "and" and _COLOURS.match(text, words[end].end()):  # "a black and brown dog"
            continue
        if text[words[position - 1].end() : words[position].start()].strip() or word in _STOP | _SINGULAR | _OPEN:
            break
        if word.endswith("ing") and word not in _NOUN_ING:
            break
        if end > first and (_VERB.fullmatch(word) or (singular and plural)):
            break  # "a dog jumps": after "a" or "an", a noun has no plural
        end = position
        if plural and word not in _PLURAL:
            break
    return end


def swap_phrases(text: str) -> str | None:
    """Exchange two noun phrases; None if there are no two whose exchange changes the meaning.

    The pair is drawn at random with the text as the seed. Two phrases that only "and", a comma, "near", "next to" or
    "with" separates are never exchanged.
    """
    phrases = find_phrases(text)
    pairs = [
        (first, second)
        for number, first in enumerate(phrases)
        for second in phrases[number + 1 :]
        if first.text.lower() != second.text.lower() and not _MUTUAL.fullmatch(text[first.end : second.start])
    ]
    if not pairs:
        return None
    first, second = random.Random(text).choice(pairs)
    between = text[first.end : second.start]
    return (
        text[: first.start]
        + _match_case(second.text, first.text)
        + between
        + _match_case(first.text, second.text)
        + text[second.end :]
    )


def _match_case(text: str, replaced: str) -> str:
    """Capitalise `text` if the text that it replaces is capitalised."""
    return (text[0].upper() if replaced[0].isupper() else text[0].lower()) + text[1:]

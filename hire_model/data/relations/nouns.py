"""Find the classes of a data set that an English noun names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_IRREGULAR: Final = {"men": "man", "women": "woman", "children": "child", "people": "person", "buses": "bus"}
_PEOPLE: Final = (
    "man woman boy girl child kid baby toddler infant lady guy gentleman adult teenager player rider skier surfer"
    " snowboarder skateboarder biker cyclist climber runner swimmer dancer worker"
)
_PERSON: Final = frozenset(_PEOPLE.split())


class ClassFinder:
    """Finds classes by name: "two dogs" names "dog", "a ball" names "sports ball", "a girl" names "person".

    Args:
        classes: names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        names = [tuple(name.lower().split()) for name in classes]
        self._full = _index([(*name[:-1], make_singular(name[-1])) if name else () for name in names])
        self._last = _index([(make_singular(name[-1]),) if name else () for name in names])

    def find(self, words: Sequence[str]) -> tuple[int, ...]:
        """Return the classes that a phrase such as ["a", "soccer", "ball"] names; its last word is the noun.

        The longest class name that ends the phrase wins; else all classes with this last word; else "person", if the
        noun is a frequent word for one.
        """
        if not words:
            return ()
        phrase = (*(word.lower() for word in words[:-1]), make_singular(words[-1].lower()))
        for start in range(len(phrase)):
            if found := self._full.get(phrase[start:]):
                return found
        head = phrase[-1:]
        return self._last.get(head) or (self._full.get(("person",), ()) if head[0] in _PERSON else ())


def make_singular(noun: str) -> str:
    """Return the singular of an English noun in lower case, by rules: "boxes" -> "box"; "bus" and "grass" stay."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) and len(noun) > 3 else noun


def _index(names: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[int, ...]]:
    index: dict[tuple[str, ...], tuple[int, ...]] = {}
    for number, name in enumerate(names):
        if name:
            index[name] = (*index.get(name, ()), number)
    return index

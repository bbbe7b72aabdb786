"""Noun phrases of captions, and the exchange of two of them."""

from __future__ import annotations

import pytest

from hire_model.evaluation.phrases import find_phrases, swap_phrases


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A man in a blue shirt watches two dogs .", ["A man", "a blue shirt", "two dogs"]),
        ("A dog jumps over the fence", ["A dog", "the fence"]),
        ("Two dogs run through the grass", ["Two dogs", "the grass"]),
        ("A black and brown dog pokes his head above the water", ["A black and brown dog", "his head", "the water"]),
        ("A boy and a girl", ["A boy", "a girl"]),
        ("A man is painting a tall building", ["A man", "a tall building"]),
        ("A group of men at the side of the pool", ["the pool"]),
        ("Children playing in water", []),
    ],
)
def test_phrases_end_before_verbs_and_prepositions(text: str, phrases: list[str]) -> None:
    found = find_phrases(text)
    assert [phrase.text for phrase in found] == phrases
    assert all(text[phrase.start : phrase.end] == phrase.text for phrase in found)


def test_two_phrases_exchange_their_places_and_keep_the_case_of_the_sentence() -> None:
    assert swap_phrases("A little boy is watching the duck .") == "The duck is watching a little boy ."


def test_the_pair_depends_only_on_the_text() -> None:
    text = "A man in a blue shirt watches two dogs on the grass"
    assert swap_phrases(text) == swap_phrases(text)


@pytest.mark.parametrize(
    "text",
    [
        "A boy and a girl",
        "A boy is next to a girl",
        "A boy with a girl",
        "A boy , a girl",
        "A dog barks",
        "a dog on a dog",
        "",
    ],
)
def test_an_exchange_that_changes_no_meaning_is_refused(text: str) -> None:
    assert swap_phrases(text) is None

"""Contrast captions: the rules that change a caption, and that the result is false for relational scenes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.data.synthetic import generate_scenes
from hire_model.data.synthetic.relations import Claim, find_facts, is_true
from hire_model.evaluation.behaviour import CONTRASTS, negate, shuffle_words, swap_colours, swap_roles


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("A man rides a horse.", "A horse rides a man."),
        ("a dog on a box", "a box on a dog"),
        ("A man in a blue shirt is riding a horse", "A horse is riding a man in a blue shirt"),
        ("A red hat is worn by a woman", "A woman is worn by a red hat"),
        ("Under a brown table there is a cat.", "Under a cat there is a brown table."),
        ("To the left of a car there is a boy in red", "To the left of a boy in red there is a car"),
        ("A ball in the hand of a girl", "A girl in the hand of a ball"),
        ("Two dogs run; a cat chases the bird", "Two dogs run; the bird chases a cat"),
    ],
)
def test_subject_and_object_are_exchanged(text: str, changed: str) -> None:
    assert swap_roles(text) == changed


@pytest.mark.parametrize(
    "text", ["A dog next to a cat", "A man is being watched by a boy", "A dog", "", "a dog on a dog", "A man and a dog"]
)
def test_a_text_without_a_relation_in_one_direction_is_not_changed(text: str) -> None:
    assert swap_roles(text) is None


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("A red hat on a blue car", "A blue hat on a red car"),
        ("Red ball, blue box", "Blue ball, red box"),
        ("an orange bag on a white table", "a white bag on an orange table"),
        ("a red ball, a red box and a green cup", "a green ball, a red box and a red cup"),
        ("a brown and black dog", None),  # both colours belong to one dog
        ("a red ball beside a blue ball", None),
        ("a red ball", None),
    ],
)
def test_two_colours_are_exchanged(text: str, changed: str | None) -> None:
    assert swap_colours(text) == changed


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("A man rides a horse", "No man rides a horse"),
        ("two dogs run", "no dogs run"),
        ("To the left of a car there is a boy", "To the left of no car there is a boy"),
        ("Dogs run", "No dogs run"),
        ("", None),
    ],
)
def test_the_first_determiner_is_negated(text: str, changed: str | None) -> None:
    assert negate(text) == changed


@given(st.lists(st.text("abcdefg", min_size=1), min_size=0, max_size=12).map(" ".join))
def test_shuffling_keeps_the_words_and_changes_their_order(text: str) -> None:
    shuffled = shuffle_words(text)
    assert shuffled == shuffle_words(text), "differs between calls"
    if shuffled is None:
        assert len(set(text.split())) < 4
    else:
        assert sorted(shuffled.split()) == sorted(text.split()) and shuffled.split() != text.split()


@given(st.text(max_size=80))
def test_any_text_is_accepted_and_a_contrast_differs_from_it(text: str) -> None:
    for change in CONTRASTS.values():
        changed = change(text)
        assert changed is None or changed.lower() != text.lower()


def test_an_exchanged_relation_is_false_for_relational_scenes() -> None:
    """Of captions with one relation: exchanging it in the text exchanges it in the claim, and makes it false."""
    total = true = 0
    for _, _, scene, captions, _ in generate_scenes({"test": 120}, seed=5):
        facts = find_facts(scene)
        for caption in captions:
            claim = caption.claim
            changed = swap_roles(caption.text)
            if changed is None or len(claim.relations) != 1:
                continue
            subject, predicate, object_ = claim.relations[0]
            total += 1
            true += is_true(Claim(claim.things, ((object_, predicate, subject),)), scene, facts)
            assert sorted(_split_words(changed)) == sorted(_split_words(caption.text))
    assert total > 200
    assert true <= 0.01 * total  # not 0: "a person left of a person" may be true of another pair


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())

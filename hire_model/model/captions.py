"""Tokenise captions once; compute a pretrained encoder's states once and cache them on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from hire_model.data.loading import CaptionBank
from hire_model.errors import HireError
from hire_model.files import atomic_write, find_cache_folder
from hire_model.model.hire import Hire
from hire_model.model.text import PretrainedEncoder
from hire_model.model.vocabulary import Vocabulary
from hire_model.progress import show_progress

log = logging.getLogger(__name__)
_ENCODE_BLOCK = 128  # captions
_TOKENIZE_BLOCK = 16_384  # captions; the tokenizer's result for one takes kilobytes


def build_caption_bank(model: Hire, texts: Sequence[str], cache: Path | None = None) -> CaptionBank:
    """Build the caption bank of `texts` for `model`.

    Args:
        model: provides the tokenizer and the text encoder.
        texts: the captions.
        cache: folder for the states of a frozen encoder; default `find_cache_folder()`.

    Raises:
        HireError: the states cannot be written to or read from the cache.
    """
    bank = CaptionBank.from_lists(_tokenize(model.vocabulary, texts))
    return bank if isinstance(model.text, PretrainedEncoder) and model.text.tuned else add_states(model, bank, cache)


def add_states(model: Hire, bank: CaptionBank, cache: Path | None = None) -> CaptionBank:
    """Return `bank` with the states of the pretrained encoder as it is now; unchanged without such an encoder.

    A tuned encoder's states are valid until its next step: before training, for the closed-form start.
    """
    if not isinstance(model.text, PretrainedEncoder) or bank.states is not None:
        return bank
    return CaptionBank(bank.ids, bank.offsets, _load_states(model.text, bank, cache or find_cache_folder()))


def _tokenize(vocabulary: Vocabulary, texts: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _TOKENIZE_BLOCK):
        yield from vocabulary.encode(texts[start : start + _TOKENIZE_BLOCK])


def _load_states(text: PretrainedEncoder, bank: CaptionBank, cache: Path) -> np.memmap:
    """Return the states [all word pieces, H] float16, memory-mapped; computed first if they are not in the cache.

    The encoder's weights and the word pieces identify a file. If several processes need the same states, one computes
    them and the others wait.
    """
    key = hashlib.sha256(bank.ids.tobytes() + bank.offsets.tobytes())
    for name, tensor in text.encoder.state_dict().items():
        key.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache / f"states-{key.hexdigest()[:32]}.npy"
    shape = (int(bank.offsets[-1]), text.encoder.config.hidden_size)
    try:
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            log.info("Computing the text encoder's states of %d captions: %s", len(bank), path)
            with FileLock(path.with_suffix(".lock")):
                if not path.is_file():
                    _write_states(text, bank, path, shape)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise HireError(
            f"{path}: the text encoder's states ({2 * shape[0] * shape[1] / 1e6:,.0f} MB) cannot be written: "
            f"{error.strerror or error}. Free disk space, or set HIRE_CACHE to another folder."
        ) from error
    except ValueError as error:
        raise HireError(
            f"{path}: not a complete npy file: {error}. Delete it; the next run computes it again."
        ) from error


def _write_states(text: PretrainedEncoder, bank: CaptionBank, path: Path, shape: tuple[int, int]) -> None:
    """Encode all captions, those of similar length together, and write the states to `path` atomically.

    The file is written, not mapped: on a full disk, writing to a mapping kills the process.
    """
    order = np.argsort(-bank.lengths, kind="stable")  # longest first: a lack of memory shows at once
    blocks = [order[start : start + _ENCODE_BLOCK] for start in range(0, len(order), _ENCODE_BLOCK)]
    device, row_bytes = next(text.parameters()).device, 2 * shape[1]
    text.eval()
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        start = file.tell()
        for rows in show_progress(blocks, "text states"):
            with torch.inference_mode():
                states = text.encode(bank.tokens(rows).to(device)).half().cpu().numpy()
            for row, values in zip(rows, states, strict=True):
                file.seek(start + int(bank.offsets[row]) * row_bytes)
                file.write(values[: bank.lengths[row]].tobytes())

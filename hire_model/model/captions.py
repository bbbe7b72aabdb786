"""Captions as a model sees them: tokenised once; a frozen encoder's states are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from hire_model.data.loading import CaptionBank
from hire_model.errors import HireError
from hire_model.files import atomic_write
from hire_model.model.hire import Hire
from hire_model.model.text import Pretrained
from hire_model.model.vocabulary import Vocabulary
from hire_model.progress import show_progress

log = logging.getLogger(__name__)
_BLOCK = 128
_TOKENISED = 16_384  # captions at a time: what the tokenizer says of each takes kilobytes


def find_cache_folder() -> Path:
    """Where frozen states are kept: HIRE_CACHE, or the user's cache folder."""
    named = os.environ.get("HIRE_CACHE")
    return (
        Path(named).expanduser() if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hire"
    )


def build_caption_bank(model: Hire, texts: Sequence[str], cache: Path | None = None) -> CaptionBank:
    """The bank of `texts`. A frozen pretrained encoder's states come from `cache` (default: `find_cache_folder()`).

    Raises HireError where they cannot be kept there.
    """
    bank = CaptionBank.from_lists(_tokenize(model.vocabulary, texts))
    if isinstance(model.text, Pretrained) and not model.text.tuned:
        bank.states = _load_states(model.text, bank, cache or find_cache_folder())
    return bank


def _tokenize(vocabulary: Vocabulary, texts: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _TOKENISED):
        yield from vocabulary.encode(texts[start : start + _TOKENISED])


def _load_states(text: Pretrained, bank: CaptionBank, cache: Path) -> np.memmap:
    """[all word pieces, H] float16, mapped from disk; keyed by the encoder's weights and the word pieces.

    Of several processes that need the same states one computes them, and the others wait.
    """
    key = hashlib.sha256(bank.ids.tobytes() + bank.offsets.tobytes())
    for name, tensor in text.encoder.state_dict().items():
        key.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache / f"states-{key.hexdigest()[:32]}.npy"
    shape = (int(bank.offsets[-1]), text.encoder.config.hidden_size)
    try:
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            log.info("The frozen text encoder's states of %d captions go into %s", len(bank), path)
            with FileLock(path.with_suffix(".lock")):
                if not path.is_file():
                    _write_states(text, bank, path, shape)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise HireError(
            f"{path}: the frozen text encoder's states ({2 * shape[0] * shape[1] / 1e6:,.0f} MB) cannot be kept there: "
            f"{error.strerror or error}. Make room there, or name another folder in HIRE_CACHE."
        ) from error
    except ValueError as error:
        raise HireError(f"{path}: not a whole npy file: {error}. Delete it; it is computed anew.") from error


def _write_states(text: Pretrained, bank: CaptionBank, path: Path, shape: tuple[int, int]) -> None:
    """Run the encoder over all captions, those of similar length together, into `path`: whole or not at all.

    Written, not mapped: on a full disk a mapping kills the process.
    """
    order = np.argsort(-bank.lengths, kind="stable")  # the longest first: what does not fit shows at once
    blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
    device, row_bytes = next(text.parameters()).device, 2 * shape[1]
    text.eval()
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        begin = file.tell()
        for rows in show_progress(blocks, "text states"):
            with torch.inference_mode():
                found = text.encode(bank.tokens(rows).to(device)).half().cpu().numpy()
            for row, values in zip(rows, found, strict=True):
                file.seek(begin + int(bank.offsets[row]) * row_bytes)
                file.write(values[: bank.lengths[row]].tobytes())

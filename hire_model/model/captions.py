"""Captions as a model sees them: tokenised once; a frozen encoder's states are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hire_model.data.loading import CaptionBank
from hire_model.model.hire import Hire
from hire_model.model.text import Pretrained
from hire_model.progress import track

_BLOCK = 128


def cache_folder() -> Path:
    """Where frozen states are kept: HIRE_CACHE, or the user's cache folder."""
    named = os.environ.get("HIRE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hire"


def caption_bank(model: Hire, texts: Sequence[str], cache: Path | None = None) -> CaptionBank:
    """The bank of `texts`. A frozen pretrained encoder's states come from `cache` (default: `cache_folder()`)."""
    bank = CaptionBank.from_lists(model.vocabulary.encode(texts))
    if isinstance(model.text, Pretrained) and not model.text.tuned:
        bank.states = _cached_states(model.text, bank, cache or cache_folder())
    return bank


def _cached_states(text: Pretrained, bank: CaptionBank, cache: Path) -> np.ndarray:
    """[all word pieces, H] float16, mapped from disk; keyed by the encoder's weights and the word pieces."""
    key = hashlib.sha256(bank.ids.tobytes() + bank.offsets.tobytes())
    for name, tensor in text.encoder.state_dict().items():
        key.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache / f"states-{key.hexdigest()[:32]}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _compute_states(text, bank, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _compute_states(text: Pretrained, bank: CaptionBank, path: Path) -> None:
    """Run the encoder over all captions, those of similar length together, into an npy file."""
    shape = (int(bank.offsets[-1]), text.encoder.config.hidden_size)
    states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    order = np.argsort(bank.lengths, kind="stable")
    blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
    device = next(text.parameters()).device
    text.eval()
    for rows in track(blocks, "text states"):
        tokens = bank.tokens(rows).to(device)
        with torch.inference_mode():
            found = text.states(tokens).half().cpu().numpy()
        for row, values in zip(rows, found, strict=True):
            start, end = bank.offsets[row], bank.offsets[row + 1]
            states[start:end] = values[: end - start]
    states.flush()

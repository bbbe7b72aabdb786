"""Keep the scores of a long evaluation on disk until it ends: a repeated evaluation continues where it stopped.

Each finished block of captions is a file. Files are written atomically, so that a killed process leaves complete ones.
They have a checksum, that of npz, so that a damaged one is scored again. Their folder is named by a digest of all that
the scores depend on, so they are never used for another model or data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from hire_model import __version__
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.files import atomic_write, find_cache_folder, hold_folder, remove_unused
from hire_model.model import artifact
from hire_model.model.fused import library
from hire_model.model.hire import Hire

log = logging.getLogger(__name__)
MIN_PAIRS = 1_000_000
"""A matrix with fewer pairs takes seconds, so it is not kept."""

_WEEK_S = 7 * 24 * 3600
_NAME = re.compile(r"[0-9a-f]{32}")


class ScoreBlocks:
    """The finished blocks of one similarity matrix."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._writable = folder, True

    def fill(self, out: np.ndarray, blocks: Sequence[np.ndarray]) -> list[int]:
        """Copy the scores of all finished blocks into the matrix `out` [N, M]. Return the numbers of the other blocks.

        blocks: columns of each block. A file that is damaged or has another shape does not count.
        """
        missing = []
        for number, columns in enumerate(blocks):
            scores = self._read(number)
            if scores is not None and scores.shape == (len(out), len(columns)):
                out[:, columns] = scores
            else:
                missing.append(number)
        return missing

    def _read(self, number: int) -> np.ndarray | None:
        try:
            with np.load(self._name(number), allow_pickle=False) as archive:
                return archive["scores"]
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged zip can raise almost anything
            log.warning("%s: damaged (%s). This block is scored again.", self._name(number), error)
            return None

    def write(self, number: int, scores: np.ndarray) -> None:
        """Write the scores of a block. If that fails, log a warning: the evaluation can go on without its files."""
        if not self._writable:
            return
        try:
            with atomic_write(self._name(number)) as partial:
                np.savez(partial, scores=scores)
        except OSError as error:
            self._writable = False
            log.warning(
                "%s: scores cannot be kept: %s. The evaluation goes on, but if it is interrupted, it starts again "
                "there. Free disk space, or set HIRE_CACHE to another folder.",
                self.folder,
                error.strerror or error,
            )

    def _name(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


class KeptScores:
    """The matrices of one evaluation. Put all work that needs them into a `with` block: its end deletes their files.

    If the block ends with an error or Ctrl-C, or if the process is killed, the files stay. They are deleted by a
    repeated evaluation, or after a week without a new block.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = (cache or find_cache_folder()) / "scores"
        self._held: dict[Path, int] = {}

    def __enter__(self) -> KeptScores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for folder, handle in self._held.items():
            os.close(handle)
            if kind is None:
                _remove(folder)
        if kind is not None and any(list_blocks(folder) for folder in self._held):
            log.info("Finished scores are kept in %s. A repeated evaluation continues from them.", self._cache)

    def open(self, model: Hire, split: Split, bank: CaptionBank, block: int) -> ScoreBlocks | None:
        """Return the blocks of the matrix of a model, a split and its captions; None if it has fewer than MIN_PAIRS.

        block: captions in a block.
        """
        if len(split.images) * len(bank) < MIN_PAIRS:
            return None
        folder = self._cache / _make_key(model, split, bank, block)
        with suppress(OSError):  # `write` warns if a block cannot be kept
            folder.mkdir(parents=True, exist_ok=True)
            if folder not in self._held:
                self._held[folder] = hold_folder(folder)
        others = self._find_others()
        if done := len(list_blocks(folder)):
            log.info("Continuing an interrupted evaluation: %d blocks of captions are scored in %s.", done, folder)
        else:
            note = " The other folders there are of other models, data sets or splits." if others else ""
            log.info("Finished scores are kept in %s. Repeat an interrupted evaluation to continue.%s", folder, note)
        return ScoreBlocks(folder)

    def _find_others(self) -> list[Path]:
        """Return the folders of other matrices. Delete those that no evaluation has continued for a week."""
        found = []
        for folder in set(self._cache.glob("*/")) - set(self._held):
            if not _NAME.fullmatch(folder.name):  # not ours
                continue
            with suppress(FileNotFoundError):  # the end of its evaluation has deleted it
                if time.time() - folder.stat().st_mtime > _WEEK_S:
                    _remove(folder)
                else:
                    found.append(folder)
        return found


def list_blocks(folder: Path) -> list[Path]:
    """List the files of finished blocks."""
    return sorted(folder.glob("[0-9]*.npz"))


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):  # another evaluation of the same matrix has deleted it
        remove_unused(folder)


def _make_key(model: Hire, split: Split, bank: CaptionBank, block: int) -> str:
    """Return a digest of all that the blocks depend on."""
    device = next(model.parameters()).device.type
    facts = [
        __version__,
        torch.__version__,
        device,  # scores of torch and of the compiled kernel differ in their last digits
        device == "cpu" and library.load() is not None,
        artifact.digest(model),
        split.dataset.manifest.digest,
        block,
        *(hashlib.sha256(rows.tobytes()).hexdigest() for rows in (split.images, bank.ids, bank.offsets)),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

"""An opened segment of a gallery: its files mapped from disk, and a lock that keeps them while they are in use."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from hire_model.data.schema import FileFacts, Manifest, hash_file
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.files import hold_folder
from hire_model.gallery.format import CAPTIONS, IMAGES, REBUILD, VECTORS, SegmentFacts, StoreFacts, list_store_files
from hire_model.model.hire import Hire


class StoreFiles:
    """The records, lengths and summaries of the images or of the captions of one segment."""

    def __init__(self, folder: Path, name: str, facts: StoreFacts, anchored: bool = False) -> None:
        records, lengths, summary = (folder / file for file in list_store_files(name))
        self.facts = facts
        self.records = np.load(records, mmap_mode="r", allow_pickle=False)
        self.lengths = np.load(lengths, allow_pickle=False)
        self.summary = np.load(summary, mmap_mode="r", allow_pickle=False)
        self.vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False) if anchored else self.summary
        """[N, D] vectors that are searched for the shortlist."""
        self.sizes = count_numbers(name, facts, self.lengths.astype(np.int64))
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._descriptor = os.open(records, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def prefetch(self, rows: np.ndarray) -> None:
        """Start to read the records `rows` from disk, all at the same time.

        Without this, each record that is not in memory waits for the disk, and the system reads far around it: 1,000
        records took 1.3 s instead of 30 ms.
        """
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        offset, item = self.records.offset, self.records.itemsize
        starts = (offset + item * self._starts[rows]).tolist()
        for start, size in zip(starts, (item * self.sizes[rows]).tolist(), strict=True):
            os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)

    def read_equal(self, rows: np.ndarray) -> np.ndarray:
        """Return the records `rows` [n, size] float16, all of which must have the same number of fragments."""
        windows = np.lib.stride_tricks.sliding_window_view(self.records, int(self.sizes[rows[0]]))
        return windows[self._starts[rows]]

    def read_one(self, row: int) -> np.ndarray:
        """Return the record of one item [size] float16."""
        start = self._starts[row]
        return self.records[start : start + self.sizes[row]]

    def copy_records(self, rows: np.ndarray) -> np.ndarray:
        """Return the records `rows` one after the other, float16."""
        pieces = [self.records[start : start + size] for start, size in zip(self._starts[rows], self.sizes[rows])]  # noqa: B905
        return np.concatenate(pieces) if pieces else self.records[:0]


def count_numbers(name: str, facts: StoreFacts, fragments: np.ndarray) -> np.ndarray:
    """Return the size [N] of each item's record from its number of fragments [N]."""
    if name == IMAGES:  # regions, edges from each region to each, and shares
        return fragments * (facts.size + facts.shares) + facts.relations * fragments**2
    return fragments * (facts.size + facts.relations)  # words, and the roles of each word


def get_sizes(model: Hire, name: str) -> dict[str, int]:
    """Return `size`, `relations` and `shares` of the StoreFacts of the images or captions that `model` encodes."""
    kinds = model.interaction.relations.kinds if model.interaction.relations else 0
    relations = kinds if name == IMAGES else (model.roles.width if model.roles else 0)
    shares = name == IMAGES and model.settings.region_weights != "equal"
    return {"size": model.settings.pair_dim or model.settings.dim, "relations": relations, "shares": shares}


class Segment:
    """One segment, opened for reading. Its folder is not deleted while this object exists.

    Args:
        folder: of the segment.
        facts: from the gallery's manifest.
        data: the gallery's data set, for names of classes and predicates.

    Raises:
        HireError: if a file is missing or does not match its SHA-256.
    """

    def __init__(self, folder: Path, facts: SegmentFacts, data: Manifest) -> None:
        self.folder, self.facts = folder, facts
        try:
            weakref.finalize(self, os.close, hold_folder(self.folder))
            for name, file in facts.files.items():
                _check_file(self.folder / name, file)
            self.images = StoreFiles(self.folder, IMAGES, facts.images, facts.vector_size > 0)
            self.captions = StoreFiles(self.folder, CAPTIONS, facts.captions) if facts.captions else None
        except FileNotFoundError as error:
            raise HireError(f"{error.filename}: missing from the gallery. {REBUILD}") from error
        self.tables = Dataset(self.folder, data)

    def matches(self, facts: SegmentFacts) -> bool:
        """Return whether `facts` describe the files of this segment; only the removed rows may differ."""
        return self.facts.model_copy(update={"removed": ()}) == facts.model_copy(update={"removed": ()})


def _check_file(path: Path, facts: FileFacts) -> None:
    if path.stat().st_size != facts.bytes or hash_file(path) != facts:
        raise HireError(f"{path}: its SHA-256 differs from manifest.json: damaged or replaced. {REBUILD}")

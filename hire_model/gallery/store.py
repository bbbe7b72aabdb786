"""One side of a gallery, its images or its captions: encoded items on disk, mapped, and how their files are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.gallery.index import Index, Kind


class ShelfFacts(BaseModel):
    """One side of a gallery: N items, so many in a shard, and how the nearest are found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int
    fragments: int = Field(description="regions, or word pieces, of all items together")
    size: int = Field(description="P, numbers per fragment")
    relations: int = Field(description="K of images, 2Kd of captions; 0 where the model does not match relations")
    shard: int
    index: Kind


Items = TypeVar("Items", EncodedImages, EncodedTexts)


class Shelf(ABC, Generic[Items]):
    """One side of a gallery: N encoded items, mapped from disk."""

    def __init__(self, folder: Path, name: str, facts: ShelfFacts) -> None:
        self.facts = facts
        self._shards = [_mapped(path) for path in shard_paths(folder, name, facts.items, facts.shard)]
        self.lengths = np.load(folder / lengths_name(name), allow_pickle=False)
        self.summary = _mapped(folder / summary_name(name))
        self.index = Index.open(facts.index, self.summary, folder / index_name(name))
        self._sizes = self.record_size(self.lengths.astype(np.int64))
        firsts = np.cumsum(self._sizes) - self._sizes
        self._starts = firsts - np.repeat(firsts[:: facts.shard], facts.shard)[: facts.items]

    def __len__(self) -> int:
        return self.facts.items

    @abstractmethod
    def record_size(self, fragments: np.ndarray) -> np.ndarray:
        """Numbers in the records of items of so many fragments."""

    @abstractmethod
    def rows(self, rows: Sequence[int] | np.ndarray) -> Items:
        """The items `rows`, copied from disk, on the CPU, padded to the longest of them."""

    def _records(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each item its fragments [1, n, P], mask [1, n] and summary [1, D], and what else is in its record."""
        for row in np.asarray(rows, np.int64).tolist():
            start, count = self._starts[row], int(self.lengths[row])
            record = torch.from_numpy(self._shards[row // self.facts.shard][start : start + self._sizes[row]].copy())
            fragments, rest = record.tensor_split([count * self.facts.size])
            mask, summary = torch.ones(1, count, dtype=torch.bool), torch.from_numpy(self.summary[row : row + 1].copy())
            yield fragments.view(1, count, self.facts.size), mask, summary, rest


class ImageShelf(Shelf[EncodedImages]):
    """The images."""

    def record_size(self, fragments: np.ndarray) -> np.ndarray:
        """Regions, and edges from each to each."""
        return fragments * self.facts.size + self.facts.relations * fragments**2

    def rows(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """The images `rows`."""
        kinds, parts = self.facts.relations, []
        for regions, mask, summary, rest in self._records(rows):
            edges = rest.view(1, kinds, *2 * mask.shape[1:]) if kinds else None
            parts.append(EncodedImages(regions, mask, summary, edges))
        return EncodedImages.concatenate(parts)


class CaptionShelf(Shelf[EncodedTexts]):
    """The captions."""

    def record_size(self, fragments: np.ndarray) -> np.ndarray:
        """Words, and the roles of each."""
        return fragments * (self.facts.size + self.facts.relations)

    def rows(self, rows: Sequence[int] | np.ndarray) -> EncodedTexts:
        """The captions `rows`."""
        width, parts = self.facts.relations, []
        for words, mask, summary, rest in self._records(rows):
            roles = rest.view(*mask.shape, width) if width else None
            parts.append(EncodedTexts(words, mask, summary, roles))
        return EncodedTexts.concatenate(parts)


def shelf_files(name: str, facts: ShelfFacts) -> list[str]:
    """All files of a shelf."""
    indexed = [index_name(name)] if facts.index != "flat" else []
    shards = [path.name for path in shard_paths(Path(), name, facts.items, facts.shard)]
    return [*shards, lengths_name(name), summary_name(name), *indexed]


def shard_paths(folder: Path, name: str, items: int, shard: int) -> list[Path]:
    """The files of a shelf's records, in order."""
    return [folder / f"{name}-{number:05d}.npy" for number in range(-(-items // shard))]


def lengths_name(name: str) -> str:
    """The file of the fragments per item."""
    return f"{name}-lengths.npy"


def summary_name(name: str) -> str:
    """The file of the items' summaries."""
    return f"{name}-summary.npy"


def index_name(name: str) -> str:
    """The file of the index, where there is one."""
    return f"{name}.faiss"


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)

"""An opened gallery: its encoded images and captions, mapped from disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.schema import MANIFEST, hash_file
from hire_model.data.store import Dataset, ImageRegions
from hire_model.errors import HireError
from hire_model.gallery.format import (
    CAPTIONS,
    IMAGES,
    GalleryManifest,
    StoreFacts,
    index_name,
    lengths_name,
    shard_paths,
    summary_name,
)
from hire_model.gallery.index import Index
from hire_model.model import artifact
from hire_model.model.hire import Hire

Items = TypeVar("Items", EncodedImages, EncodedTexts)


class EncodedStore(ABC, Generic[Items]):
    """N encoded items of a gallery, all images or all captions, mapped from disk."""

    def __init__(self, folder: Path, name: str, facts: StoreFacts) -> None:
        self.facts = facts
        self._shards = [_map_array(path) for path in shard_paths(folder, name, facts.items, facts.shard)]
        self.lengths = np.load(folder / lengths_name(name), allow_pickle=False)
        self.summary = _map_array(folder / summary_name(name))
        self.index = Index.open(facts.index, self.summary, folder / index_name(name))
        self._sizes = self.count_numbers(self.lengths.astype(np.int64))
        firsts = np.cumsum(self._sizes) - self._sizes
        self._starts = firsts - np.repeat(firsts[:: facts.shard], facts.shard)[: facts.items]

    def __len__(self) -> int:
        return self.facts.items

    @abstractmethod
    def count_numbers(self, fragments: np.ndarray) -> np.ndarray:
        """Return how many numbers the record of an item has, given its `fragments`."""

    @abstractmethod
    def rows(self, rows: Sequence[int] | np.ndarray) -> Items:
        """Return the items `rows`, copied from disk, on the CPU, padded to the longest of them."""

    def _read_records(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield fragments [1, n, P], mask [1, n] and summary [1, D] of each item, and the rest of its record."""
        for row in np.asarray(rows, np.int64).tolist():
            start, count = self._starts[row], int(self.lengths[row])
            record = torch.from_numpy(self._shards[row // self.facts.shard][start : start + self._sizes[row]].copy())
            fragments, rest = record.tensor_split([count * self.facts.size])
            mask, summary = torch.ones(1, count, dtype=torch.bool), torch.from_numpy(self.summary[row : row + 1].copy())
            yield fragments.view(1, count, self.facts.size), mask, summary, rest


class ImageStore(EncodedStore[EncodedImages]):
    """The images of a gallery."""

    def count_numbers(self, fragments: np.ndarray) -> np.ndarray:
        """Count regions, and edges from each region to each."""
        return fragments * self.facts.size + self.facts.relations * fragments**2

    def rows(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Return the images `rows`."""
        kinds, parts = self.facts.relations, []
        for regions, mask, summary, rest in self._read_records(rows):
            edges = rest.view(1, kinds, *2 * mask.shape[1:]) if kinds else None
            parts.append(EncodedImages(regions, mask, summary, edges))
        return EncodedImages.concatenate(parts)


class CaptionStore(EncodedStore[EncodedTexts]):
    """The captions of a gallery."""

    def count_numbers(self, fragments: np.ndarray) -> np.ndarray:
        """Count words, and the roles of each word."""
        return fragments * (self.facts.size + self.facts.relations)

    def rows(self, rows: Sequence[int] | np.ndarray) -> EncodedTexts:
        """Return the captions `rows`."""
        width, parts = self.facts.relations, []
        for words, mask, summary, rest in self._read_records(rows):
            roles = rest.view(*mask.shape, width) if width else None
            parts.append(EncodedTexts(words, mask, summary, roles))
        return EncodedTexts.concatenate(parts)


class Gallery:
    """A gallery opened for searching. Open it with `Gallery.open`. Thread-safe, because it only reads."""

    def __init__(self, folder: Path, manifest: GalleryManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.images = ImageStore(folder, IMAGES, manifest.images)
        self.captions = CaptionStore(folder, CAPTIONS, manifest.captions) if manifest.captions else None
        self._tables = Dataset(folder, manifest.data)
        self._model: Hire | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Gallery:
        """Open the gallery in `folder`. Raises HireError if there is none, or if a file does not match its SHA-256.

        This reads every byte once; afterwards the system's page cache holds what fits.
        """
        folder = Path(folder).expanduser()
        manifest = GalleryManifest.read(folder)
        for name, facts in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise HireError(
                    f"{path}: missing from the gallery. Build it again: hire gallery build DATASET --overwrite."
                )
            if path.stat().st_size != facts.bytes or hash_file(path) != facts:
                raise HireError(
                    f"{path}: its SHA-256 is not the one in {MANIFEST}: damaged or exchanged. Build the gallery again: "
                    "hire gallery build DATASET --overwrite."
                )
        return cls(folder, manifest)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @cached_property
    def ids(self) -> np.ndarray:
        """[N] str, the images' ids."""
        return self._tables.image_ids

    @cached_property
    def caption_texts(self) -> np.ndarray:
        """[M] str, the captions; needs a gallery built with captions."""
        return self._tables.caption_texts

    @cached_property
    def _rows_by_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids.tolist())}

    def find(self, image_id: str) -> int | None:
        """Return the row of the image `image_id`, or None if there is no such image."""
        return self._rows_by_id.get(image_id)

    def encoded(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Return the encoded images `rows`, on the CPU, padded to the longest of them."""
        return self.images.rows(rows)

    def picture(self, row: int) -> Path | None:
        """Return the picture file of image `row`, or None if it has none or the data set was moved."""
        return self._tables.picture(row)

    def size(self, row: int) -> tuple[int, int]:
        """Return width and height of image `row` in pixels, 0 if unknown."""
        width, height = self._tables.image_sizes[row].tolist()
        return width, height

    def layout(self, row: int) -> ImageRegions:
        """Return boxes, classes and relations of image `row`. Features are [r, 0]: a gallery does not store them."""
        return self._tables.layout(row)

    def check_model(self, model: Hire) -> None:
        """Raise HireError unless `model` encoded this gallery. Scores of another model would be meaningless."""
        if self._model is model:
            return
        found = artifact.digest(model)
        if found != self.manifest.model:
            raise HireError(
                f"{self.folder}: encoded by model {self.manifest.model[:12]} ({self.manifest.address}), but this one "
                f"is {found[:12]}. Build the gallery again with this model (hire gallery build DATASET --overwrite), "
                "or search with the one that encoded it."
            )
        self._model = model


def _map_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)

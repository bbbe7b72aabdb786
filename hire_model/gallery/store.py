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
    format_rebuild_command,
    get_index_name,
    get_lengths_name,
    get_summary_name,
    list_shards,
)
from hire_model.gallery.index import Index
from hire_model.model import artifact
from hire_model.model.hire import Hire

Items = TypeVar("Items", EncodedImages, EncodedTexts)


class EncodedStore(ABC, Generic[Items]):
    """N encoded items of a gallery, all images or all captions, mapped from disk."""

    def __init__(self, folder: Path, name: str, facts: StoreFacts) -> None:
        self.facts = facts
        self._shards = [_map_array(path) for path in list_shards(folder, name, facts.items, facts.shard)]
        self.lengths = np.load(folder / get_lengths_name(name), allow_pickle=False)
        self.summary = _map_array(folder / get_summary_name(name))
        self.index = Index.open(facts.index, self.summary, folder / get_index_name(name))
        self._sizes = self.count_numbers(self.lengths.astype(np.int64))
        firsts = np.cumsum(self._sizes) - self._sizes
        self._starts = firsts - np.repeat(firsts[:: facts.shard], facts.shard)[: facts.items]

    def __len__(self) -> int:
        return self.facts.items

    @abstractmethod
    def count_numbers(self, fragments: np.ndarray) -> np.ndarray:
        """Return the size [N] of each item's record from its number of fragments [N]."""

    @abstractmethod
    def read_rows(self, rows: Sequence[int] | np.ndarray) -> Items:
        """Read the items `rows` from disk to the CPU, padded to the longest of them."""

    def read_summary(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Read the summaries [n, D] of the items `rows`."""
        return torch.from_numpy(self.summary[np.asarray(rows, np.int64)])

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
        """Count the numbers of regions, and of edges from each region to each."""
        return fragments * self.facts.size + self.facts.relations * fragments**2

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Read the images `rows`."""
        kinds, parts = self.facts.relations, []
        for regions, mask, summary, rest in self._read_records(rows):
            edges = rest.view(1, kinds, *2 * mask.shape[1:]) if kinds else None
            parts.append(EncodedImages(regions, mask, summary, edges))
        return EncodedImages.concatenate(parts)


class CaptionStore(EncodedStore[EncodedTexts]):
    """The captions of a gallery."""

    def count_numbers(self, fragments: np.ndarray) -> np.ndarray:
        """Count the numbers of words, and of the roles of each word."""
        return fragments * (self.facts.size + self.facts.relations)

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> EncodedTexts:
        """Read the captions `rows`."""
        width, parts = self.facts.relations, []
        for words, mask, summary, rest in self._read_records(rows):
            roles = rest.view(*mask.shape, width) if width else None
            parts.append(EncodedTexts(words, mask, summary, roles))
        return EncodedTexts.concatenate(parts)


class Gallery:
    """A gallery opened for searching. Thread-safe, because it only reads.

    Example:
        >>> from hire_model import Scorer
        >>> from hire_model.gallery.search import search_images
        >>> from hire_model.gallery.store import Gallery
        >>> gallery = Gallery.open("galleries/scenes")  # from: hire gallery build datasets/scenes
        >>> scorer = Scorer.load("runs/latest/model")  # the model that encoded the gallery
        >>> [result] = search_images(scorer, gallery, ["a cat on a table"], top_k=3)
        >>> len([gallery.picture(hit.row) for hit in result.hits])
        3

    Args:
        folder: the gallery. `Gallery.open` also checks its files.
        manifest: its manifest.
    """

    def __init__(self, folder: Path, manifest: GalleryManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.images = ImageStore(folder, IMAGES, manifest.images)
        self.captions = CaptionStore(folder, CAPTIONS, manifest.captions) if manifest.captions else None
        self._tables = Dataset(folder, manifest.data)
        self._model: Hire | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Gallery:
        """Open the gallery in `folder`. Raises HireError if there is none, or if a file does not match its SHA-256.

        This reads every byte once. Afterwards the page cache of the system contains the files, as far as they fit.
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
                    f"{path}: its SHA-256 differs from {MANIFEST}: damaged or replaced. Build the gallery again: "
                    "hire gallery build DATASET --overwrite."
                )
        return cls(folder, manifest)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids [N] of the images, str."""
        return self._tables.image_ids

    @cached_property
    def caption_texts(self) -> np.ndarray:
        """The captions [M], str. The gallery must have been built with captions."""
        return self._tables.caption_texts

    @cached_property
    def _rows_by_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids.tolist())}

    def find(self, image_id: str) -> int | None:
        """Return the row of the image `image_id`, or None if there is no such image."""
        return self._rows_by_id.get(image_id)

    def read_images(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Read the encoded images `rows` to the CPU, padded to the longest of them."""
        return self.images.read_rows(rows)

    def picture(self, row: int) -> Path | None:
        """Return the picture file of image `row`, or None if it has none or the data set was moved."""
        return self._tables.picture(row)

    def size(self, row: int) -> tuple[int, int]:
        """Return width and height of image `row` in pixels, 0 if unknown."""
        width, height = self._tables.image_sizes[row].tolist()
        return width, height

    def layout(self, row: int) -> ImageRegions:
        """Return boxes, classes and relations of image `row`. A gallery does not store features, so they are [r, 0]."""
        return self._tables.layout(row)

    def check_model(self, model: Hire) -> None:
        """Raise HireError unless `model` encoded this gallery. The scores of another model would be meaningless."""
        if self._model is model:
            return
        digest = artifact.digest(model)
        if digest != self.manifest.model:
            raise HireError(
                f"{self.folder}: encoded by model {self.manifest.model[:12]} ({self.manifest.address}), but this model "
                f"is {digest[:12]}. Search with the model that encoded it, or build the gallery again with this model: "
                f"{format_rebuild_command(self.folder, 'MODEL')}"
            )
        self._model = model


def _map_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)

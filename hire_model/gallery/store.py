"""An opened gallery: the encoded images and captions of all its segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.schema import PICTURES
from hire_model.data.store import ImageRegions
from hire_model.errors import HireError
from hire_model.gallery.anchors import Anchors
from hire_model.gallery.format import ANCHORS, SEGMENTS, GalleryManifest, format_rebuild_command
from hire_model.gallery.index import Index
from hire_model.gallery.metadata import MetadataIndex, read_metadata
from hire_model.gallery.segment import Segment, StoreFiles
from hire_model.model import artifact
from hire_model.model.hire import Hire

Items = TypeVar("Items", EncodedImages, EncodedTexts)
_ATTEMPTS = 5


class EncodedStore(ABC, Generic[Items]):
    """N encoded items of a gallery, all images or all captions. Rows count the items that were not removed.

    Args:
        parts: the files of each segment.
        kept: the rows of each segment that belong to the gallery.
    """

    def __init__(self, parts: Sequence[StoreFiles], kept: Sequence[np.ndarray]) -> None:
        self.facts, self._parts = parts[0].facts, parts
        self.part = np.repeat(np.arange(len(parts)), [len(rows) for rows in kept])
        """[N] number of the segment of each item."""
        self.local = np.concatenate(kept)
        """[N] row of each item within its segment."""
        self.lengths = np.concatenate([part.lengths[rows] for part, rows in zip(parts, kept, strict=True)])
        self.index = Index([part.vectors[rows] for part, rows in zip(parts, kept, strict=True)])
        self.summaries = self.index.vectors
        """[N, D] float16, unit vectors of the global head."""
        if parts[0].vectors is not parts[0].summary:
            self.summaries = np.concatenate([part.summary[rows] for part, rows in zip(parts, kept, strict=True)])

    def __len__(self) -> int:
        return len(self.local)

    @abstractmethod
    def read_rows(self, rows: Sequence[int] | np.ndarray) -> Items:
        """Read the items `rows` from disk to the CPU in float32, padded to the longest of them."""

    def read_summary(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Read the summaries [n, D] of the items `rows`."""
        return torch.from_numpy(self.summaries[np.asarray(rows, np.int64)]).float()

    def _read_records(self, rows: np.ndarray) -> list[tuple[Tensor, int, Tensor]]:
        """Return the records of the items, grouped: positions in `rows` [m], number of fragments, records [m, size]."""
        parts, local, lengths = self.part[rows], self.local[rows], self.lengths[rows]
        groups = []
        used = [(number, np.flatnonzero(parts == number)) for number in np.unique(parts)]
        for number, positions in used:
            self._parts[number].prefetch(local[positions])
        for number, positions in used:
            for count in np.unique(lengths[positions]):
                group = positions[lengths[positions] == count]
                records = torch.from_numpy(self._parts[number].read_equal(local[group])).float()
                groups.append((torch.from_numpy(group), int(count), records))
        return groups

    def _make_mask(self, rows: np.ndarray) -> Tensor:
        lengths = torch.from_numpy(self.lengths[rows])
        return torch.arange(int(lengths.max())) < lengths[:, None]


class ImageStore(EncodedStore[EncodedImages]):
    """The images of a gallery."""

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Read the images `rows`."""
        if len(rows) == 1:
            return self._read_one(int(rows[0]))
        rows, kinds, size = np.asarray(rows, np.int64), self.facts.relations, self.facts.size
        mask = self._make_mask(rows)
        regions = torch.zeros(*mask.shape, size)
        edges = torch.zeros(len(rows), kinds, *2 * mask.shape[1:]) if kinds else None
        shares = torch.zeros(mask.shape) if self.facts.shares else None
        for group, count, records in self._read_records(rows):
            x, related, shared = self._split_record(records, count)
            regions[group, :count] = x.unflatten(1, (count, size))
            if edges is not None:
                edges[group, :, :count, :count] = related.unflatten(1, (kinds, count, count))
            if shares is not None:
                shares[group, :count] = shared
        return EncodedImages(regions, mask, self.read_summary(rows), edges, shares)

    def _read_one(self, row: int) -> EncodedImages:
        """Read one image. It needs no padding, so this takes a tenth of the time."""
        count, kinds, size = int(self.lengths[row]), self.facts.relations, self.facts.size
        record = torch.from_numpy(self._parts[self.part[row]].read_one(self.local[row]).astype(np.float32))
        x, related, shared = self._split_record(record, count)
        regions, mask = x.view(1, count, size), torch.ones(1, count, dtype=torch.bool)
        edges = related.view(1, kinds, count, count) if kinds else None
        shares = shared.view(1, count) if self.facts.shares else None
        summary = torch.from_numpy(self.summaries[row : row + 1].astype(np.float32))
        return EncodedImages(regions, mask, summary, edges, shares)

    def _split_record(self, records: Tensor, regions: int) -> tuple[Tensor, ...]:
        """Split records [..., size] of images with this number of regions into regions, edges and shares."""
        sizes = [regions * self.facts.size, self.facts.relations * regions**2, regions * self.facts.shares]
        return records.split(sizes, dim=-1)


class CaptionStore(EncodedStore[EncodedTexts]):
    """The captions of a gallery."""

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> EncodedTexts:
        """Read the captions `rows`."""
        rows, width, size = np.asarray(rows, np.int64), self.facts.relations, self.facts.size
        mask = self._make_mask(rows)
        words = torch.zeros(*mask.shape, size)
        roles = torch.zeros(*mask.shape, width) if width else None
        for group, count, records in self._read_records(rows):
            words[group, :count] = records[:, : count * size].unflatten(1, (count, size))
            if roles is not None:
                roles[group, :count] = records[:, count * size :].unflatten(1, (count, width))
        return EncodedTexts(words, mask, self.read_summary(rows), roles)


class Gallery:
    """One generation of a gallery, opened for searching. Thread-safe, because it only reads.

    A change of the gallery does not change this object: `refresh` returns the new generation.

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
        folder: the gallery.
        manifest: its manifest.
        segments: its segments, in the order of the manifest.
    """

    def __init__(self, folder: Path, manifest: GalleryManifest, segments: Sequence[Segment]) -> None:
        self.folder, self.manifest, self.segments = folder, manifest, segments
        kept = [list_kept(facts.images.items, facts.removed) for facts in manifest.segments]
        self.images = ImageStore([segment.images for segment in segments], kept)
        self.anchors: Anchors | None = None
        if segments[0].facts.vector_size:
            self.anchors = Anchors.load(segments[0].folder / ANCHORS)
        self.captions: CaptionStore | None = None
        if manifest.captioned:
            captions = [segment.captions for segment in segments if segment.captions]
            described = [
                np.flatnonzero(np.isin(s.tables.caption_images, k)) for s, k in zip(segments, kept, strict=True)
            ]
            self.captions = CaptionStore(captions, described)
        self._model: Hire | None = None

    @classmethod
    def open(cls, folder: str | Path, previous: Gallery | None = None) -> Gallery:
        """Open the gallery in `folder`. Raises HireError if there is none, or if a file does not match its SHA-256.

        This reads every byte once. Afterwards the page cache of the system contains the files, as far as they fit.
        Segments that are already open in `previous` are not read again.
        """
        folder = Path(folder).expanduser()
        known = list(previous.segments) if previous is not None else []
        for attempt in range(_ATTEMPTS):
            manifest = GalleryManifest.read(folder)
            try:
                segments = [
                    next((segment for segment in known if segment.matches(facts)), None)
                    or Segment(folder / SEGMENTS / facts.name, facts, manifest.data)
                    for facts in manifest.segments
                ]
                return cls(folder, manifest, segments)
            except HireError:  # a change of the gallery can delete a segment before it is opened
                if attempt == _ATTEMPTS - 1 or GalleryManifest.read(folder).generation == manifest.generation:
                    raise
        raise AssertionError("the loop returns or raises")

    def refresh(self) -> Gallery:
        """Return the gallery in its current generation: this object if it has not changed."""
        if GalleryManifest.read(self.folder).generation == self.manifest.generation:
            return self
        return Gallery.open(self.folder, self)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids [N] of the images, str."""
        return self._collect("image_ids", self.images)

    @cached_property
    def caption_texts(self) -> np.ndarray:
        """The captions [M], str. The gallery must have been built with captions."""
        assert self.captions is not None
        return self._collect("caption_texts", self.captions)

    @cached_property
    def caption_images(self) -> np.ndarray:
        """Row of the image of each caption [M]."""
        assert self.captions is not None
        first, rows = 0, np.empty(len(self.captions), np.int64)
        for number, segment in enumerate(self.segments):
            mine = self.captions.part == number
            kept = self.images.local[self.images.part == number]
            owners = segment.tables.caption_images[self.captions.local[mine]]
            rows[mine] = first + np.searchsorted(kept, owners)
            first += len(kept)
        return rows

    @cached_property
    def _rows_by_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids.tolist())}

    @cached_property
    def _metadata(self) -> np.ndarray:
        columns = [read_metadata(segment.folder) for segment in self.segments]
        return self._join(columns, self.images)

    @cached_property
    def _metadata_index(self) -> MetadataIndex:
        return MetadataIndex(self._metadata)

    def _collect(self, column: str, store: EncodedStore) -> np.ndarray:
        return self._join([getattr(segment.tables, column) for segment in self.segments], store)

    def _join(self, columns: list[np.ndarray], store: EncodedStore) -> np.ndarray:
        return np.concatenate([column[store.local[store.part == part]] for part, column in enumerate(columns)])

    def find(self, image_id: str) -> int | None:
        """Return the row of the image `image_id`, or None if there is no such image."""
        return self._rows_by_id.get(image_id)

    def metadata(self, row: int) -> dict[str, Any]:
        """Return the metadata of image `row`, {} if it has none."""
        return MetadataIndex.parse(self._metadata[row])

    def filter(self, where: Mapping[str, Any]) -> np.ndarray:
        """Return the rows of the images whose metadata has every `key: value` of `where`, ascending.

        A value equals another one with the same text: 2020 and "2020". A list matches each of its values.
        """
        return self._metadata_index.find(where)

    def read_images(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Read the encoded images `rows` to the CPU, padded to the longest of them."""
        return self.images.read_rows(rows)

    def picture(self, row: int) -> Path | None:
        """Return the picture file of image `row`, or None if it has none or the data set was moved."""
        segment, local = self._locate(row)
        return segment.tables.picture(local)

    def picture_folder(self, row: int) -> Path:
        """Return the folder that contains the picture of image `row`, through links."""
        return self._locate(row)[0].folder / PICTURES

    def size(self, row: int) -> tuple[int, int]:
        """Return width and height of image `row` in pixels, 0 if unknown."""
        segment, local = self._locate(row)
        width, height = segment.tables.image_sizes[local].tolist()
        return width, height

    def layout(self, row: int) -> ImageRegions:
        """Return boxes, classes and relations of image `row`. A gallery has no features, so they are [r, 0]."""
        segment, local = self._locate(row)
        return segment.tables.layout(local)

    def _locate(self, row: int) -> tuple[Segment, int]:
        return self.segments[self.images.part[row]], int(self.images.local[row])

    def check_model(self, model: Hire) -> None:
        """Raise HireError unless `model` encoded this gallery. The scores of another model would be meaningless."""
        if self._model is model:
            return
        check_model(model, self.manifest, self.folder)
        self._model = model


def check_model(model: Hire, manifest: GalleryManifest, folder: Path) -> None:
    """Raise HireError unless `model` encoded the gallery of `manifest` in `folder`."""
    digest = artifact.digest(model)
    if digest != manifest.model:
        raise HireError(
            f"{folder}: encoded by model {manifest.model[:12]} ({manifest.address}), but this model is {digest[:12]}. "
            f"Use the model that encoded it, or build the gallery again with this model: "
            f"{format_rebuild_command(folder, 'MODEL')}"
        )


def list_kept(items: int, removed: Sequence[int]) -> np.ndarray:
    """Return the rows of a segment without the removed ones, ascending."""
    kept = np.ones(items, bool)
    kept[list(removed)] = False
    return np.flatnonzero(kept)

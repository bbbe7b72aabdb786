"""Read a data set: tables are loaded into memory, features are memory-mapped."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hire_model.data.blocks import BlockChecker
from hire_model.data.schema import (
    EXTRACTOR,
    FEATURES,
    MANIFEST,
    PICTURES,
    RELATION_PRIOR,
    TABLES,
    Manifest,
    hash_file,
)
from hire_model.errors import DataError

log = logging.getLogger(__name__)


def read_rows(mapped: np.memmap, first: int, count: int) -> np.ndarray:
    """Read rows `first` to `first + count` of a mapped npy file [n, F] from disk, and return them [count, F].

    Reading through the mapping would keep its pages resident: 16 GB after one pass over the features of COCO.
    """
    width, kind = mapped.shape[1], mapped.dtype
    offset = mapped.offset + int(first) * width * kind.itemsize
    return np.fromfile(str(mapped.filename), kind, int(count) * width, offset=offset).reshape(-1, width)


def all_finite(features: np.ndarray) -> bool:
    """Return whether no number is NaN or infinite.

    For float16 this is twelve times as fast as np.isfinite, which converts half precision first.
    """
    if features.dtype == np.float16:
        exponent = np.uint16(0x7C00)  # all these bits are set exactly in infinities and NaN
        return not ((features.view(np.uint16) & exponent) == exponent).any()
    return bool(np.isfinite(features).all())


@dataclass(frozen=True)
class ImageRegions:
    """The r regions and e relations of one image, as views if possible.

    features         [r, F] as stored
    boxes            [r, 4] float32; a row of NaN for a region without a box
    classes          [r] int32
    scores           [r] float32
    relations        [e, 3] int32: subject, predicate, object
    relation_scores  [e] float32
    """

    features: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    relations: np.ndarray
    relation_scores: np.ndarray


class Dataset:
    """A data set on disk. Each table column is read at its first use; features stay on disk.

    Args:
        folder: the data set.
        manifest: its manifest.
        checked: compare a table with its SHA-256 when it is first read, and each block of the features. False if
            the caller has compared the files.
    """

    def __init__(self, folder: Path, manifest: Manifest, checked: bool = False) -> None:
        self.folder = folder
        self.manifest = manifest
        self._checked = checked
        self._checked_tables: set[str] = set()
        self._blocks = self._open_blocks() if checked else None

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Open `folder`. Raise DataError if it is no data set, or a file is missing or has the wrong size.

        This compares file sizes with the manifest, and the files that made regions and relations with their SHA-256.
        Tables and features are compared with their SHA-256 when they are first read, which raises DataError.
        `hire data verify` reads every byte.
        """
        folder = Path(folder).expanduser()
        manifest = Manifest.read(folder)
        for name, facts in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise DataError(f"{path}: listed in the manifest, but missing. Generate or import the data set again.")
            if path.stat().st_size != facts.bytes:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes. Expected {facts.bytes}, as in the manifest: the file is "
                    "damaged or was changed. Generate or import the data set again."
                )
            # Both are small, and copied into the trained model.
            if name in (EXTRACTOR, RELATION_PRIOR) and hash_file(path) != facts:
                raise DataError(
                    f"{path}: its SHA-256 differs from the manifest: the file is damaged or was changed. Import the "
                    "data set, or make its relations, again."
                )
        return cls(folder, manifest, checked=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder's name: another process opens the files itself."""
        return (Dataset.open, (self.folder,)) if self._checked else (Dataset, (self.folder, self.manifest))

    def _open_blocks(self) -> BlockChecker | None:
        """Return the checker of the features, or None if the manifest has no digests of blocks."""
        path, digests = self.folder / FEATURES, self.manifest.blocks.get(FEATURES)
        if digests is None:
            return None
        expected = -(-self.manifest.files[FEATURES].bytes // digests.bytes_per_block)
        if len(digests.sha256) != expected:
            raise DataError(
                f"{self.folder / MANIFEST}: {len(digests.sha256)} blocks of {FEATURES}. Expected {expected}. Generate "
                "or import the data set again."
            )
        return BlockChecker(path, digests)

    def _check_table(self, path: Path) -> None:
        """Compare a table with its SHA-256 in the manifest, once."""
        facts = self.manifest.files.get(path.name)
        if self._checked and facts is not None and path.name not in self._checked_tables:
            if hash_file(path) != facts:
                raise DataError(
                    f"{path}: its SHA-256 differs from the manifest: the file is damaged or was changed. Generate or "
                    "import the data set again."
                )
            self._checked_tables.add(path.name)

    def _table(self, name: str, column: str) -> np.ndarray:
        path = self.folder / f"{name}.parquet"
        self._check_table(path)
        try:
            return pq.read_table(path, columns=[column], schema=TABLES[name])[column].to_numpy()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: column '{column}' cannot be read: {error}") from error

    def _columns(self, name: str, *columns: str) -> np.ndarray:
        return np.stack([self._table(name, column) for column in columns], axis=1)

    @cached_property
    def features(self) -> np.memmap:
        """[regions, F], memory-mapped. Every page that is read counts as resident memory; see `read_rows`."""
        if self._blocks:
            self._blocks.check(0, 1)  # the header
        elif self._checked:
            log.warning(
                "%s: an earlier release wrote this data set without digests of blocks, so the content of %s is not "
                "checked while it is read. Check it once: hire data verify %s",
                self.folder, FEATURES, self.folder,
            )  # fmt: skip
        try:
            return np.load(self.folder / FEATURES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / FEATURES}: not a valid npy file: {error}") from error

    @cached_property
    def boxes(self) -> np.ndarray:
        """[regions, 4] float32 fractions; a row of NaN for a region without a box."""
        return self._columns("regions", "x1", "y1", "x2", "y2")

    @cached_property
    def classes(self) -> np.ndarray:
        """[regions] int32, -1 if unknown."""
        return self._table("regions", "class_id")

    @cached_property
    def scores(self) -> np.ndarray:
        """[regions] float32, NaN if unknown."""
        return self._table("regions", "score")

    @cached_property
    def relations(self) -> np.ndarray:
        """[relations, 3] int32: subject, predicate, object."""
        return self._columns("relations", "subject", "predicate", "object")

    @cached_property
    def relation_scores(self) -> np.ndarray:
        """[relations] float32."""
        return self._table("relations", "score")

    @cached_property
    def image_ids(self) -> np.ndarray:
        """[images] str."""
        return self._table("images", "image_id")

    @cached_property
    def image_splits(self) -> np.ndarray:
        """[images] str, name of each image's split."""
        return self._table("images", "split")

    @cached_property
    def _spans(self) -> np.ndarray:
        return self._columns("images", "first_region", "n_regions", "first_relation", "n_relations")

    @cached_property
    def caption_texts(self) -> np.ndarray:
        """[captions] str."""
        return self._table("captions", "text")

    @cached_property
    def caption_ids(self) -> np.ndarray:
        """[captions] str, such as 'IMAGE#NUMBER'."""
        return self._table("captions", "caption_id")

    @cached_property
    def caption_images(self) -> np.ndarray:
        """[captions] int64, row of the image of each caption."""
        return self._table("captions", "image")

    @cached_property
    def _pictures(self) -> np.ndarray:
        return self._table("images", "picture")

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """[images, 2] int32, width and height in pixels, 0 if unknown."""
        return self._columns("images", "width", "height")

    def picture_name(self, image: int) -> str | None:
        """Return the path below pictures/ of the picture of image row `image`, None without one."""
        return self._pictures[image]

    def picture(self, image: int) -> Path | None:
        """Return the picture file of image row `image`, None if it has no picture or the file does not exist."""
        name = self.picture_name(image)
        path = self.folder / PICTURES / name if name else None
        return path if path and path.is_file() else None

    def regions(self, image: int) -> ImageRegions:
        """Return the regions and relations of image row `image`."""
        return replace(self.layout(image), features=self.read_features(*self._spans[image, :2].tolist()))

    def read_features(self, first: int, count: int) -> np.ndarray:
        """Read the features [count, F] of the regions from row `first` on. Raise DataError if a block is damaged."""
        features = self.features
        if self._blocks:
            row = features.shape[1] * features.itemsize
            start = features.offset + first * row
            self._blocks.check(start, start + count * row)
        return read_rows(features, first, count)

    def layout(self, image: int) -> ImageRegions:
        """Return the regions and relations of image row `image` without reading its features: their shape is [r, 0]."""
        first, count, first_relation, relations = self._spans[image]
        rows, edges = slice(first, first + count), slice(first_relation, first_relation + relations)
        return ImageRegions(
            np.empty((count, 0), np.float32),
            self.boxes[rows],
            self.classes[rows],
            self.scores[rows],
            self.relations[edges],
            self.relation_scores[edges],
        )

    def split(self, name: str, limit: int = 0) -> Split:
        """Return split `name`, or all images if `name` is empty.

        A `limit` above 0 keeps only the first `limit` images. Raise DataError if the split does not exist.
        """
        images = np.flatnonzero((self.image_splits == name) | (not name))
        if not len(images):
            existing = ", ".join(sorted(self.manifest.splits)) or "none"
            raise DataError(f"{self.folder}: no split '{name}'. Existing splits: {existing}.")
        images = images[: limit or None]
        local = np.full(len(self.image_splits), -1, np.int64)
        local[images] = np.arange(len(images))
        owner = local[self.caption_images]
        captions = np.flatnonzero(owner >= 0)
        return Split(self, name, images, captions, owner[captions])


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    images    [N] int64, rows of the images table
    captions  [M] int64, rows of the captions table
    owner     [M] int64, index into `images` of the image of each caption
    """

    dataset: Dataset
    name: str
    images: np.ndarray
    captions: np.ndarray
    owner: np.ndarray

    @cached_property
    def texts(self) -> list[str]:
        """The M caption texts."""
        return self.dataset.caption_texts[self.captions].tolist()

    def regions(self, index: int) -> ImageRegions:
        """Return the regions and relations of image `index` of the split."""
        return self.dataset.regions(int(self.images[index]))

    def image_id(self, index: int) -> str:
        """Return the id of image `index` of the split."""
        return str(self.dataset.image_ids[self.images[index]])

    def picture(self, index: int) -> Path | None:
        """Return the picture file of image `index` of the split, None if there is none."""
        return self.dataset.picture(int(self.images[index]))

    @property
    def region_counts(self) -> np.ndarray:
        """[N] int64, number of regions per image."""
        return self.dataset._spans[self.images, 1]

    @property
    def relation_counts(self) -> np.ndarray:
        """[N] int64, number of relations per image."""
        return self.dataset._spans[self.images, 3]

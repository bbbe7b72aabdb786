"""Keep extracted regions on disk, by the digest of the picture file, so that no picture is extracted twice.

A shard is a pair of files: `NAME.npy` has the features of some pictures, `NAME.npz` all else. The second is written
last and atomically, so a shard without it does not count. All shards of a folder are of one extractor.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.images.extractors import PictureRegions
from hire_model.errors import DataError
from hire_model.files import atomic_write


@dataclass(frozen=True)
class Extraction:
    """One extracted picture.

    digest     SHA-256 of the file
    hash       64-bit hash for near-duplicates; thumbnail: uint8 [192]
    """

    digest: str
    width: int
    height: int
    hash: int
    thumbnail: np.ndarray
    regions: PictureRegions


def write_shard(folder: Path, items: Sequence[Extraction]) -> Path:
    """Write a shard of one picture or more and return the path of its second file."""
    name = hashlib.sha256("".join(item.digest for item in items).encode()).hexdigest()[:32]
    with atomic_write(folder / f"{name}.npy") as partial, partial.open("wb") as file:
        np.save(file, np.concatenate([item.regions.features for item in items]))
    rest = {
        "digest": np.array([item.digest for item in items]),
        "size": np.array([(item.width, item.height) for item in items], np.int32),
        "hash": np.array([item.hash for item in items], np.uint64),
        "thumbnail": np.stack([item.thumbnail for item in items]),
        "count": np.array([len(item.regions.boxes) for item in items], np.int32),
        "boxes": np.concatenate([item.regions.boxes for item in items]),
        "classes": np.concatenate([item.regions.classes for item in items]),
        "scores": np.concatenate([item.regions.scores for item in items]),
    }
    with atomic_write(folder / f"{name}.npz") as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **rest)
    return folder / f"{name}.npz"


class ShardStore:
    """All shards in a folder, found by the digest of a picture. Features stay on disk until they are read.

    A damaged shard is deleted; its pictures are extracted again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place: dict[str, tuple[str, int]] = {}  # digest -> shard, index within it
        self._shards: dict[str, dict[str, np.ndarray]] = {}
        for path in sorted(folder.glob("*.npz")):
            self.add(path)

    def __contains__(self, digest: str) -> bool:
        return digest in self._place

    def add(self, path: Path) -> None:
        """Make the pictures of the shard `path`, written by `write_shard`, known."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                shard = {key: archive[key] for key in archive.files}
            features = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            if len(features) != shard["count"].sum() or len(shard["boxes"]) != len(features):
                raise ValueError("the two files do not fit together")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            path.with_suffix(".npy").unlink(missing_ok=True)
            return
        shard["first"] = np.concatenate([[0], np.cumsum(shard["count"])])
        self._shards[path.stem] = shard
        for index, digest in enumerate(shard["digest"].tolist()):
            self._place[digest] = path.stem, index

    def read(self, digest: str) -> Extraction:
        """Return the extraction of a picture. Raises DataError if its shard was removed meanwhile."""
        name, index = self._place[digest]
        shard, path = self._shards[name], self.folder / f"{name}.npy"
        rows = slice(int(shard["first"][index]), int(shard["first"][index + 1]))
        try:
            features = np.array(np.load(path, mmap_mode="r", allow_pickle=False)[rows])
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: removed or changed during the import. Run the same command again.") from error
        regions = PictureRegions(shard["boxes"][rows], shard["classes"][rows], shard["scores"][rows], features)
        width, height = shard["size"][index].tolist()
        return Extraction(digest, width, height, int(shard["hash"][index]), shard["thumbnail"][index], regions)

    def read_fingerprints(self, digests: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes uint64 [n] and thumbnails uint8 [n, 192] of pictures."""
        places = [self._place[digest] for digest in digests]
        hashes = np.array([self._shards[name]["hash"][index] for name, index in places], np.uint64)
        return hashes, np.stack([self._shards[name]["thumbnail"][index] for name, index in places])

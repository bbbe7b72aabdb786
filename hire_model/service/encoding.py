"""Encode images and texts through a cache, so that a repeated item is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from cachetools import LRUCache

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import ImageRegions
from hire_model.scoring.scorer import Scorer

_BLOCK = 64  # items encoded together; bounds the memory of a request
Item = TypeVar("Item", ImageRegions, str)
Cached = TypeVar("Cached", EncodedImages, "CachedText")


@dataclass(frozen=True)
class CachedText:
    """An encoded text, and its words that are not in the model's vocabulary."""

    encoded: EncodedTexts
    unknown: list[str]

    @property
    def nbytes(self) -> int:
        """Size of the encoding in bytes."""
        return self.encoded.nbytes


@dataclass(slots=True)
class CacheCounts:
    """Number of items requested, and how many of them were in the cache."""

    items: int = 0
    hits: int = 0


class CachedEncoder:
    """Encoder with two least-recently-used caches: one for images, by a digest of their content, and one for texts.

    Thread-safe.

    Args:
        scorer: encodes the items that are not in the caches.
        image_bytes, text_bytes: maximum size of each cache.
    """

    def __init__(self, scorer: Scorer, image_bytes: int = 64 << 20, text_bytes: int = 32 << 20) -> None:
        self.scorer = scorer
        self._lock = Lock()
        self._images: LRUCache[Hashable, EncodedImages] = LRUCache(image_bytes, getsizeof=_count_bytes)
        self._texts: LRUCache[Hashable, CachedText] = LRUCache(text_bytes, getsizeof=_count_bytes)

    def encode_images(self, images: Sequence[ImageRegions], counts: CacheCounts) -> list[EncodedImages]:
        """Return each image encoded alone. The images must have passed `Scorer.check`."""
        return self._encode(images, digest_image, self._images, self._encode_images, counts)

    def encode_texts(self, texts: Sequence[str], counts: CacheCounts) -> list[CachedText]:
        """Return each text encoded alone, with its unknown words."""
        return self._encode(texts, str, self._texts, self._encode_texts, counts)

    def _encode_images(self, images: list[ImageRegions]) -> list[EncodedImages]:
        block = self.scorer.encode_images(images)
        return [block.extract(row) for row in range(len(images))]

    def _encode_texts(self, texts: list[str]) -> list[CachedText]:
        block, unknown = self.scorer.encode_texts(texts), self.scorer.find_unknown_words(texts)
        return [CachedText(block.extract(row), words) for row, words in enumerate(unknown)]

    def _encode(
        self,
        items: Sequence[Item],
        key: Callable[[Item], Hashable],
        cache: LRUCache[Hashable, Cached],
        encode: Callable[[list[Item]], list[Cached]],
        counts: CacheCounts,
    ) -> list[Cached]:
        keys = [key(item) for item in items]
        with self._lock:
            encoded = {k: cached for k in keys if (cached := cache.get(k)) is not None}
        new = {k: item for k, item in zip(keys, items, strict=True) if k not in encoded}
        counts.items += len(keys)
        counts.hits += len(keys) - len(new)
        new_keys, new_items = list(new), list(new.values())
        for start in range(0, len(new), _BLOCK):
            block = slice(start, start + _BLOCK)
            encoded |= zip(new_keys[block], encode(new_items[block]), strict=True)
        with self._lock:
            for k in new:
                if encoded[k].nbytes <= cache.maxsize:
                    cache[k] = encoded[k]
        return [encoded[k] for k in keys]


def digest_image(image: ImageRegions) -> bytes:
    """Return the SHA-256 of everything that the model reads of an image."""
    digest = hashlib.sha256()
    for array in (image.features, image.boxes, image.classes, image.relations, image.relation_scores):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _count_bytes(encoded: EncodedImages | CachedText) -> int:
    return encoded.nbytes

"""Items encoded once and kept: what many requests send again is neither encoded nor padded twice."""

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

_BLOCK = 64  # items encoded at once: bounds the memory of a request
Item = TypeVar("Item", ImageRegions, str)
Encoded = TypeVar("Encoded", EncodedImages, EncodedTexts)


@dataclass
class Counts:
    """How many items were asked for, and how many of them were there already."""

    items: int = 0
    hits: int = 0


class CachedEncoder:
    """Encodes through two least-recently-used caches, of images by a digest of their content and of sentences.

    image_bytes, text_bytes: the most that each may hold. Safe to use from several threads.
    """

    def __init__(self, scorer: Scorer, image_bytes: int = 64 << 20, text_bytes: int = 32 << 20) -> None:
        self.scorer = scorer
        self._lock = Lock()
        self._images: LRUCache[Hashable, EncodedImages] = LRUCache(image_bytes, getsizeof=_nbytes)
        self._texts: LRUCache[Hashable, EncodedTexts] = LRUCache(text_bytes, getsizeof=_nbytes)

    def images(self, images: Sequence[ImageRegions], counts: Counts) -> list[EncodedImages]:
        """Each image on its own, encoded; those that `Scorer.check` has passed."""
        return self._each(images, content_digest, self._images, self.scorer.encode_images, counts)

    def texts(self, texts: Sequence[str], counts: Counts) -> list[EncodedTexts]:
        """Each sentence on its own, encoded."""
        return self._each(texts, str, self._texts, self.scorer.encode_texts, counts)

    def _each(
        self,
        items: Sequence[Item],
        key: Callable[[Item], Hashable],
        cache: LRUCache[Hashable, Encoded],
        encode: Callable[[Sequence[Item]], Encoded],
        counts: Counts,
    ) -> list[Encoded]:
        keys = [key(item) for item in items]
        with self._lock:
            found = {k: kept for k in keys if (kept := cache.get(k)) is not None}
        new = {k: item for k, item in zip(keys, items, strict=True) if k not in found}
        counts.items += len(keys)
        counts.hits += len(keys) - len(new)
        todo = list(new.items())
        for start in range(0, len(todo), _BLOCK):
            some = todo[start : start + _BLOCK]
            block = encode([item for _, item in some])
            found |= {k: block.extract(row) for row, (k, _) in enumerate(some)}
        with self._lock:
            for k in new:
                if found[k].nbytes <= cache.maxsize:
                    cache[k] = found[k]
        return [found[k] for k in keys]


def content_digest(image: ImageRegions) -> bytes:
    """SHA-256 of all that the model reads of an image."""
    digest = hashlib.sha256()
    for array in (image.features, image.boxes, image.classes, image.relations, image.relation_scores):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _nbytes(encoded: EncodedImages | EncodedTexts) -> int:
    return encoded.nbytes

"""Compare captions with features and classes of their images, and class names with the words of the captions."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from expectations.meaning.maps import Agreement, Pairings, measure_agreement
from expectations.meaning.sample import MAX_WIDTH, Sample
from hire_model.data.store import Dataset

_WORD = re.compile(r"[^\W\d_]+")
_MAX_WORDS, _MIN_WORDS, _MIN_COUNT = 300, 20, 5
_MIN_IMAGES, _MIN_NAMES = 10, 5  # with and without a class or word, to compare a class with its name
SHIFTS = (-1, 1)


class CaptionWords:
    """The words of each image's captions: a bag of words for the sampled images and their neighbours."""

    def __init__(self, data: Dataset, sample: Sample) -> None:
        self._splits, self._sample = data.image_splits, sample
        self._shifted = [self._shift(shift) for shift in SHIFTS]
        wanted = np.unique(np.concatenate([sample.images, *self._shifted]))
        self._local = np.full(len(self._splits), -1, np.int64)
        self._local[wanted] = np.arange(len(wanted))
        owners = self._local[data.caption_images]
        rows = np.flatnonzero(owners >= 0)
        self.words = [set(_WORD.findall(text.lower())) for text in data.caption_texts[rows].tolist()]
        self.owners = owners[rows]
        counts = Counter(word for words in self.words for word in words)
        common = [w for w, count in counts.most_common() if _MIN_COUNT <= count <= len(self.words) / 2]
        self.vocabulary = sorted(common[:_MAX_WORDS])

    def _shift(self, shift: int) -> np.ndarray:
        """Return for each sampled image the image `shift` places further in its split, cyclically."""
        shifted = np.arange(len(self._splits))
        for name in dict.fromkeys(self._splits.tolist()):
            rows = np.flatnonzero(self._splits == name)
            shifted[rows] = np.roll(rows, -shift)
        return shifted[self._sample.images]

    def count(self, vocabulary: list[str]) -> np.ndarray:
        """Return [known images, words] float32, the share of the image's captions that contain the word."""
        index = {word: k for k, word in enumerate(vocabulary)}
        bags = np.zeros((self._local.max() + 1, len(vocabulary)), np.float32)
        for owner, words in zip(self.owners.tolist(), self.words, strict=True):
            bags[owner, [index[word] for word in words if word in index]] += 1
        return bags / np.maximum(np.bincount(self.owners, minlength=len(bags)), 1)[:, None].astype(np.float32)

    def take(self, bags: np.ndarray) -> np.ndarray:
        """Return the rows of the sampled images."""
        return bags[self._local[self._sample.images]]

    def pair(self) -> list[np.ndarray] | None:
        """Return the bags of the sampled images, then of the images before and after. None if words are too few."""
        if len(self.vocabulary) < _MIN_WORDS:
            return None
        bags = self.count(self.vocabulary)
        return [self.take(bags), *(bags[self._local[rows]] for rows in self._shifted)]


def compare_captions(x: np.ndarray, words: CaptionWords, sample: Sample, reference: str) -> Agreement | None:
    """Predict the words of the captions from x [n, P]. The alternatives are the captions of the neighbouring images.

    None if there are too few words, or x is constant. If x is wide, the columns with the highest variance are used.
    """
    targets = words.pair()
    if x.shape[1] > MAX_WIDTH:
        x = x[:, np.argsort(-x.var(axis=0), kind="stable")[:MAX_WIDTH]]
    if targets is None or not x.std(axis=0).any():
        return None
    pairs = Pairings(x, targets, np.arange(len(x)), sample.splits)
    return measure_agreement(pairs, reference, refit=True)


def count_classes(data: Dataset, sample: Sample, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return [n, classes] float32, how often each class occurs in each sampled image, at most three times."""
    owners = np.repeat(np.arange(len(sample.images)), counts[sample.images])
    offsets = np.arange(len(owners)) - np.repeat(np.cumsum(counts[sample.images]), counts[sample.images])
    rows = np.repeat((starts + counts)[sample.images], counts[sample.images]) + offsets
    classes, size = data.classes[rows], len(data.manifest.classes)
    known = (classes >= 0) & (classes < size)
    flat = owners[known] * size + classes[known]
    return np.minimum(
        np.bincount(flat, minlength=len(sample.images) * size).reshape(len(sample.images), size), 3
    ).astype(np.float32)


def rank_names(present: np.ndarray, names: tuple[str, ...], words: CaptionWords, rows: np.ndarray) -> float:
    """Return how well the names of classes fit the captions: the mean rank of a class's own name.

    The correlation of a class with its own name is compared with those of the other names: 1 is highest, 0.5 is chance.
    A name is its last word. NaN if fewer than five classes and their names occur, and are missing, in ten images each.

    Args:
        present: [n, classes] bool.
        names: Names of the classes.
        words: The captions.
        rows: [n] bool, images to consider.
    """
    heads = [(_WORD.findall(name.lower()) or [""])[-1] for name in names]
    vocabulary = sorted(set(heads) - {""})
    spoken = words.take(words.count(vocabulary))[rows] > 0
    present, size = present[rows], int(np.count_nonzero(rows))

    def find_frequent(columns: np.ndarray) -> np.ndarray:
        totals = columns.sum(axis=0)
        return np.flatnonzero((totals >= _MIN_IMAGES) & (totals <= size - _MIN_IMAGES))

    columns = find_frequent(spoken)
    position = {vocabulary[column]: k for k, column in enumerate(columns)}
    classes = [c for c in find_frequent(present) if heads[c] in position and not names[c].startswith("<")]
    if len(classes) < _MIN_NAMES:
        return float("nan")
    said, seen = spoken[:, columns].astype(np.float32), present[:, classes].astype(np.float32)
    said, seen = (said - said.mean(axis=0)) / said.std(axis=0), (seen - seen.mean(axis=0)) / seen.std(axis=0)
    correlations = seen.T @ said
    own = correlations[np.arange(len(classes)), [position[heads[c]] for c in classes]][:, None]
    return float(((correlations < own) + 0.5 * (correlations == own)).mean())

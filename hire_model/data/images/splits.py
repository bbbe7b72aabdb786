"""Divide pictures into splits so that near-duplicate pictures stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_model.errors import DataError

SPLITS = ("train", "dev", "test")
_MAX_BITS = 8  # of 64 in which the hashes of near-duplicates differ
_MAX_LEVELS = 10  # of 255, mean difference of their thumbnails
_PAIRS = 1 << 20  # compared at a time; bounds the memory


@dataclass(frozen=True)
class Shares:
    """Parts of train, dev and test; any positive numbers, in proportion."""

    train: float = 80
    dev: float = 10
    test: float = 10

    @classmethod
    def parse(cls, text: str) -> Shares:
        """Read "80,10,10" or "80/10/10". Raises DataError unless it is three numbers, the first above 0."""
        try:
            numbers = [float(part) for part in text.replace("/", ",").split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 3 or not all(0 <= n < float("inf") for n in numbers) or not numbers[0]:
            raise DataError(f"--shares {text}: expected three numbers for train, dev and test, such as 80,10,10.")
        return cls(*numbers)


def group_near_duplicates(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Return for each picture the index of the first picture of its group of near-duplicates: int64 [n].

    Two pictures are near-duplicates if their hashes differ in at most 8 of 64 bits and their thumbnails in at most 10
    of 255 levels on average. Groups are transitive. The time grows with the square of the number of pictures: about
    two seconds for 30,000.

    Args:
        hashes: uint64 [n], see `compute_fingerprint`
        thumbnails: uint8 [n, 192]
    """
    group = np.arange(len(hashes))  # index of a picture of the same group; the first picture's is its own

    def find(index: int) -> int:
        while group[index] != index:
            index = int(group[index])
        return index

    block = max(_PAIRS // max(len(hashes), 1), 1)
    for start in range(0, len(hashes), block):
        near = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:]) <= _MAX_BITS
        rows, columns = (places + start for places in np.nonzero(np.triu(near, 1)))
        new = group[rows] != group[columns]
        rows, columns = rows[new], columns[new]
        alike = np.abs(thumbnails[rows].astype(np.int16) - thumbnails[columns]).mean(axis=1) <= _MAX_LEVELS
        for a, b in zip(rows[alike].tolist(), columns[alike].tolist(), strict=True):
            first, second = sorted((find(a), find(b)))
            group[second] = first
        while (group != group[group]).any():
            group[:] = group[group]
    return group


def assign_splits(names: Sequence[str], groups: np.ndarray, shares: Shares, seed: int) -> list[str]:
    """Return a split for each picture. A group is never divided; test and dev get at least one group if possible.

    Groups are ordered by a hash of the seed and their first name. Test takes the first ones, dev the next, train the
    rest. So the order of the captions file has no effect, and a few more pictures move only few others.

    Args:
        names: names of the pictures, each once
        groups: result of `group_near_duplicates`
        shares: size of the splits; a split with share 0 stays empty
        seed: another seed gives another division

    Raises:
        DataError: there are too few groups for the splits that the shares demand.
    """
    order = sorted(set(groups.tolist()), key=lambda first: _hash_name(names[first], seed))
    sizes = np.bincount(groups, minlength=len(names))
    total = shares.train + shares.dev + shares.test
    lacking = {
        name: max(round(share / total * len(names)), 1) if share else 0
        for name, share in (("test", shares.test), ("dev", shares.dev))
    }
    if len(order) < 1 + sum(count > 0 for count in lacking.values()):
        raise DataError(
            f"{len(names)} pictures ({len(order)} without near-duplicates) are too few for the splits. Add pictures, "
            "name the splits in the captions file, or set a share to 0 with --shares."
        )
    split_of = {}
    for first in order:
        size = int(sizes[first])
        split = next((name for name, count in lacking.items() if count and size <= count), "train")
        split_of[first] = split
        if split != "train":
            lacking[split] -= size
    _fill_empty(split_of, order, shares)
    return [split_of[first] for first in groups.tolist()]


def _fill_empty(split_of: dict[int, str], order: Sequence[int], shares: Shares) -> None:
    """Give a wanted split that is still empty, because all groups were too large for it, the last group of another."""
    for name in SPLITS:
        if getattr(shares, name) and name not in split_of.values():
            counts = {split: list(split_of.values()).count(split) for split in SPLITS}
            donor = max(counts, key=counts.__getitem__)
            split_of[[first for first in order if split_of[first] == donor][-1]] = name


def _hash_name(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()

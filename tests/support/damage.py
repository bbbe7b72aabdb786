"""Damage files for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def flip_byte(path: Path, position: int = 1) -> Iterator[None]:
    """Flip one bit of a file within the block; afterwards the file is as before."""
    original = path.read_bytes()
    changed = bytearray(original)
    changed[position] ^= 1
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(original)

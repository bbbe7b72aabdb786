"""Store the SHA-256 of a file inside the file itself, so that one atomic rename publishes both.

A zip file of torch gets the digest behind its last byte, where torch ignores it. A safetensors file gets it in its
metadata; the digest covers the whole file, with zeros in place of the digest. Both stay readable by torch and
safetensors.
"""

from __future__ import annotations

import hashlib
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

HEX = 64  # characters of a SHA-256
EMPTY_METADATA = {"sha256": "0" * HEX}  # pass it to safetensors' `save_file`, then call `fill_metadata`
_MARK = b'"sha256":"'
_MAX_HEADER = 100 << 20  # bytes; limit of safetensors


def append_digest(file: BufferedRandom) -> None:
    """Append the SHA-256 of the content of `file`, which is open for reading and writing."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.write(digest.encode())


def has_valid_end(path: Path) -> bool:
    """Return whether the file ends with the SHA-256 of the bytes before it, as `append_digest` writes it."""
    size = path.stat().st_size - HEX
    with path.open("rb") as file:
        return size > 0 and _hash(file, size) == file.read(HEX)


def fill_metadata(path: Path) -> None:
    """Write the SHA-256 of a safetensors file into its metadata, which has `EMPTY_METADATA`."""
    with path.open("r+b") as file:
        start = _find_metadata(file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(start)
        file.write(digest.encode())


def has_valid_metadata(path: Path) -> bool:
    """Return whether the SHA-256 in the metadata of a safetensors file is that of the file."""
    with path.open("rb") as file:
        start = _find_metadata(file)
        if start < 0:
            return False
        file.seek(0)
        sha256 = hashlib.sha256(file.read(start))
        stored = file.read(HEX)
        sha256.update(EMPTY_METADATA["sha256"].encode())
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest().encode() == stored


def _find_metadata(file: BinaryIO) -> int:
    """Return the position of the digest in a safetensors file, or -1."""
    length = int.from_bytes(file.read(8), "little")
    position = file.read(length).find(_MARK) if length <= _MAX_HEADER else -1
    return 8 + position + len(_MARK) if position >= 0 else -1


def _hash(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 in hex of the next `size` bytes."""
    sha256 = hashlib.sha256()
    while size:
        chunk = file.read(min(size, 1 << 20))
        sha256.update(chunk)
        size -= len(chunk)
    return sha256.hexdigest().encode()

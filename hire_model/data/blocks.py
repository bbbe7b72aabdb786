"""Check the parts of a large file that are read, when they are read for the first time.

The manifest of a data set lists the SHA-256 of each block of features.npy. Reading 36 regions checks one or two blocks
of 4 MiB, not the whole file. Each block is checked once per process; loader processes share what their parent checked.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from hire_model.errors import DataError

BLOCK: Final = 4 << 20
"""Bytes per block. The digests of COCO's features (18 GB) take 300 kB of the manifest."""


class BlockDigests(BaseModel):
    """The SHA-256 of each block of a file, in order. The last block may be shorter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes_per_block: int = Field(default=BLOCK, gt=0)
    sha256: tuple[str, ...]


def hash_blocks(path: Path, size: int = BLOCK) -> tuple[str, BlockDigests]:
    """Return the SHA-256 of a file and that of each block of `size` bytes. The file is read once."""
    whole, blocks = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(size):
            whole.update(block)
            blocks.append(hashlib.sha256(block).hexdigest())
    return whole.hexdigest(), BlockDigests(bytes_per_block=size, sha256=tuple(blocks))


class BlockChecker:
    """Checks the blocks of the file `path` against `digests`."""

    def __init__(self, path: Path, digests: BlockDigests) -> None:
        self.path, self.digests = path, digests
        # Anonymous shared memory, one byte per block: a forked loader process writes to the memory of its parent.
        self._checked = mmap.mmap(-1, max(1, len(digests.sha256)))

    def __reduce__(self) -> tuple[type[BlockChecker], tuple[Path, BlockDigests]]:
        """Pickle without the shared memory: a process that was not forked checks all blocks itself."""
        return BlockChecker, (self.path, self.digests)

    def check(self, start: int, stop: int) -> None:
        """Check the blocks that contain the bytes from `start` to `stop`. Raise DataError if one differs."""
        size = self.digests.bytes_per_block
        for number in range(start // size, -(-stop // size)):
            if not self._checked[number]:
                self._check_block(number, size)
                self._checked[number] = 1

    def _check_block(self, number: int, size: int) -> None:
        with self.path.open("rb", buffering=0) as file:
            file.seek(number * size)
            digest = hashlib.sha256(file.read(size)).hexdigest()
        if digest != self.digests.sha256[number]:
            first, last = number * size, (number + 1) * size - 1
            raise DataError(
                f"{self.path}: block {number} (bytes {first:,} to {last:,}) differs from its SHA-256 in the manifest: "
                "the file is damaged or was changed. Generate or import the data set again."
            )

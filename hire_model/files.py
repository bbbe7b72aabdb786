"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hire_model.errors import HireError


@contextmanager
def whole(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """An empty file beside `path` to be filled: afterwards it is flushed to the disk and moved to `path`.

    After an exception it is removed, and what lay at `path` stays. Its folder is made; it may be read as `mode` says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        partial.chmod(mode)
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> Path:
    """Write `text` to `path`, whole or not at all. Raises HireError where that cannot be."""
    path = Path(path).expanduser()
    try:
        with whole(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise HireError(f"{path}: cannot be written: {error.strerror or error}. Name another place.") from error
    return path


def check_writable(path: Path) -> None:
    """Raise HireError if `path` can never be written, so that nobody waits an hour to hear it."""
    folder = next(parent for parent in path.expanduser().absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise HireError(f"{path}: cannot be written there. Name another place, a file in a folder of yours.")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

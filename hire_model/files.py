"""Write files atomically: other processes see the complete file or no file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hire_model.errors import HireError


@contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`; on exit, flush it to disk and rename it to `path`.

    An exception removes the temporary file and leaves an existing file at `path` unchanged. The parent folder is
    created if needed. `mode`: permissions of the file.
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
    """Write `text` to `path` atomically and return the path. Raise HireError if the file cannot be written."""
    path = Path(path).expanduser()
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise HireError(f"{path}: cannot be written: {error.strerror or error}. Choose another path.") from error
    return path


def check_writable(path: Path) -> None:
    """Raise HireError if no file can be written at `path`. Call it before long work that writes its result there."""
    folder = next(parent for parent in path.expanduser().absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise HireError(f"{path}: cannot be written. Choose the path of a file in a folder that you can write to.")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

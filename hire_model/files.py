"""Write files and folders atomically: other processes see the complete one or none, also after a crash.

A temporary file or folder is locked while its process runs. The lock ends with the process, also after `kill -9`, so
the next write can delete what a killed process left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hire_model.errors import HireError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_YOUNG_S = 60  # a temporary file that is younger may not be locked yet
_RANDOM = "[a-z0-9_]{8}"  # what tempfile adds to a name


@contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`; on exit, flush it to disk and rename it to `path`.

    An exception removes the temporary file and leaves an existing file at `path` unchanged. The parent folder is
    created if needed. `mode`: permissions of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, f".{path.stem}.", path.suffix)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    partial = Path(name)
    try:
        _lock(handle)
        partial.chmod(mode)
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        os.close(handle)
        partial.unlink(missing_ok=True)


def make_scratch(prefix: str, parent: Path | None = None) -> tuple[Path, int]:
    """Create a temporary folder in `parent` (default: the system's) and delete those that killed processes left there.

    Return the folder and a descriptor. While it is open, here or in a child process, the folder is in use.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_leftovers(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    handle = os.open(folder, os.O_RDONLY)
    _lock(handle)
    return folder, handle


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new temporary folder, which is deleted at the end. See `make_scratch`."""
    folder, handle = make_scratch(prefix, parent)
    try:
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path, prefix: str, suffix: str = "") -> None:
    """Delete the temporary files and folders of this user in `parent` whose process has ended."""
    pattern = re.compile(f"{re.escape(prefix)}{_RANDOM}{re.escape(suffix)}")
    with os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    for path in found:
        with suppress(OSError):
            facts = path.lstat()
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > _YOUNG_S and not _is_locked(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_folder(folder: Path, out: Path) -> None:
    """Put the complete `folder` in the place of `out`, in one step; then delete the folder that was at `out`.

    Without a system call that exchanges two folders (not Linux, or some network file systems), the old folder is moved
    away first. If the process is killed then, `recover_folder` moves it back.
    """
    if not out.exists():
        os.replace(folder, out)
        return
    if exchange(folder, out):
        shutil.rmtree(folder)
        return
    previous = _name_previous(out)
    for _ in range(3):  # again if a reader has moved the old folder back in between
        if previous.exists():
            shutil.rmtree(previous)
        os.replace(out, previous)
        try:
            os.replace(folder, out)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            shutil.rmtree(previous)
            return
    raise OSError(errno.EBUSY, "other processes keep opening the old folder. Repeat the command", str(out))


def flush_folder(folder: Path) -> None:
    """Flush the files in `folder` to disk, so that a name that is written later never points to missing content."""
    for path in folder.iterdir():
        if path.is_file():
            _flush(path)
    _flush(folder)


def hold_folder(folder: Path) -> int:
    """Return a descriptor of `folder`. While it is open, `remove_unused` keeps the folder."""
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def remove_unused(folder: Path) -> bool:
    """Delete `folder` unless a process holds it (see `hold_folder`); return whether it was deleted."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def recover_folder(out: Path) -> None:
    """Move the old folder back if `replace_folder` was killed between moving it away and putting the new one there."""
    previous = _name_previous(out)
    if not os.path.lexists(out) and previous.is_dir():
        with suppress(OSError):  # another process was faster, or the parent is read-only
            os.rename(previous, out)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. Return False if the system or the file system cannot do that."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def find_cache_folder() -> Path:
    """Return the folder for cached files: HIRE_CACHE, or the user's cache folder."""
    if folder := os.environ.get("HIRE_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hire"


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


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk or quota caused `error`; libraries and subprocesses report it as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left", "disk is full", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _name_previous(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")  # not of the form that `remove_leftovers` deletes


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks; then nothing is deleted there either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

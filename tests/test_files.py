"""Files are complete or absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hire_model import files
from hire_model.errors import HireError
from hire_model.files import (
    atomic_write,
    check_writable,
    make_scratch,
    recover_folder,
    remove_leftovers,
    replace_folder,
    write_text,
)


class Killed(BaseException):
    """Stands for `kill -9`: no handler of the code catches it."""


def kill(*_: object) -> None:
    raise Killed


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "states.npy"
    with atomic_write(path, 0o600) as partial:
        partial.write_bytes(b"half")
        assert not path.exists() and partial.suffix == ".npy"  # np.save adds a missing suffix
    assert path.read_bytes() == b"half" and path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text("old", tmp_path / "file")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text("old", tmp_path / "figures.json")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(HireError, match="No space left"):
        write_text("new", path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    inside = write_text("", tmp_path / "file") / "figures.json"
    with pytest.raises(HireError, match="cannot be written"):
        write_text("x", inside)
    with pytest.raises(HireError, match="cannot be written"):
        check_writable(inside)
    check_writable(tmp_path / "new" / "figures.json")


def make_folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("atomic", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    out = make_folder(tmp_path / "out", "old")
    replace_folder(make_folder(tmp_path / "new", "new"), out)
    assert (out / "file").read_text() == "new" and list(tmp_path.iterdir()) == [out]


def test_an_exchange_never_leaves_the_path_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at each call that changes the folder: the path holds the old or the new one."""
    out = make_folder(tmp_path / "out", "old")
    monkeypatch.setattr("shutil.rmtree", kill)
    monkeypatch.setattr("os.replace", kill)
    with pytest.raises(Killed):
        replace_folder(make_folder(tmp_path / "new", "new"), out)
    assert (out / "file").read_text() == "new"


@pytest.mark.parametrize(("at", "content"), [(1, "old"), (2, "old"), (3, "new")])
def test_without_exchange_the_old_folder_returns_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, content: str
) -> None:
    """Killed before the first rename, between the two, and before the old folder is deleted."""
    out, calls = make_folder(tmp_path / "out", "old"), []

    def count(original: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Path) -> None:
            calls.append(arguments)
            if len(calls) == at:
                raise Killed
            original(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files, "exchange", lambda *_: False)
        patch.setattr("os.replace", count(os.replace))
        patch.setattr("shutil.rmtree", count(shutil.rmtree))
        with pytest.raises(Killed):
            replace_folder(make_folder(tmp_path / "new", "new"), out)
    remove_leftovers(tmp_path, ".out.")
    recover_folder(out)
    assert (out / "file").read_text() == content
    replace_folder(make_folder(tmp_path / "newer", "newer"), out)
    assert (out / "file").read_text() == "newer"


def test_leftovers_of_killed_processes_are_deleted_and_files_in_use_stay(tmp_path: Path) -> None:
    path = tmp_path / "hire.mar"
    killed, young = tmp_path / ".hire.abcdefgh.mar", tmp_path / ".hire.abcdefg1.mar"
    other = [tmp_path / name for name in (".hire.abc.mar", "hire.abcdefgh.mar", ".hire.abcdefgh.txt", ".hire.old.mar")]
    folder, handle = make_scratch("hire-package-", tmp_path)
    dead = make_folder(tmp_path / "hire-package-abcdefgh", "")
    for each in (killed, young, *other):
        each.touch()
    with atomic_write(path) as partial:
        for each in (killed, partial, folder, dead, *other):
            os.utime(each, (0, 0))
        with atomic_write(path):
            assert not killed.exists() and all(each.exists() for each in (young, partial, *other))
        assert make_scratch("hire-package-", tmp_path)[0].is_dir() and folder.is_dir() and not dead.exists()
    os.close(handle)
    os.utime(folder, (0, 0))
    remove_leftovers(tmp_path, "hire-package-")
    assert not folder.exists()


def test_a_folder_in_use_by_a_child_process_stays(tmp_path: Path) -> None:
    """The child holds the descriptor after the process that made the folder has ended."""
    folder, handle = make_scratch("hire-serve-", tmp_path)
    child = subprocess.Popen(["sleep", "60"], pass_fds=[handle])
    os.close(handle)
    os.utime(folder, (0, 0))
    remove_leftovers(tmp_path, "hire-serve-")
    assert folder.is_dir()
    child.kill()
    child.wait(60)
    remove_leftovers(tmp_path, "hire-serve-")
    assert not folder.exists()

"""Files are complete or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hire_model.errors import HireError
from hire_model.files import atomic_write, check_writable, write_text


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

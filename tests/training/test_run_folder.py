"""Each training has a folder of its own, and `latest` is a link to that of the last one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from filelock import FileLock

from hire_model.errors import HireError
from hire_model.settings import resolve
from hire_model.training.run_folder import LATEST, choose_run_folder, find_run_folder


def choose(out: Path, resume: bool = False) -> Path:
    resolved = resolve(None, {"train.out": str(out)}, environ={})
    return choose_run_folder(resolved, resume).settings.train.out


def test_a_second_training_leaves_the_files_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "runs" / LATEST
    first = choose(out)
    (first / "report.html").write_text("first")
    second = choose(out)
    assert first != second and first.parent == second.parent == out.parent
    assert out.is_symlink() and out.resolve() == second.resolve()
    assert (first / "report.html").read_text() == "first" and not (out / "report.html").exists()


def test_a_resumed_training_keeps_its_folder_when_another_one_starts(tmp_path: Path) -> None:
    out = tmp_path / LATEST
    first = choose(out)
    assert choose(out, resume=True) == first
    resumed = choose(out, resume=True)
    choose(out)
    assert resumed == first and find_run_folder(out) != first
    assert choose(first, resume=True) == first, "an earlier training is resumed by the name of its folder"


def test_a_folder_with_another_name_is_used_as_it_is(tmp_path: Path) -> None:
    assert choose(tmp_path / "mine") == choose(tmp_path / "mine", resume=True) == tmp_path / "mine"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_earlier_release_is_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / LATEST).mkdir()
    (tmp_path / LATEST / "report.html").write_text("old")
    with caplog.at_level(logging.INFO):
        new = choose(tmp_path / LATEST)
    [kept] = [path for path in tmp_path.iterdir() if path not in (new, tmp_path / LATEST)]
    assert (kept / "report.html").read_text() == "old" and str(kept) in caplog.text


def test_a_folder_of_an_earlier_release_is_not_renamed_under_a_training(tmp_path: Path) -> None:
    (tmp_path / LATEST).mkdir()
    with FileLock(tmp_path / LATEST / ".lock"), pytest.raises(HireError, match="another training"):
        choose(tmp_path / LATEST)
    assert not (tmp_path / LATEST).is_symlink()


def test_where_links_are_impossible_the_message_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(1, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = choose(tmp_path / LATEST)
    assert folder.is_dir() and not (tmp_path / LATEST).exists()
    assert f"--set train.out={folder}" in caplog.text and "privilege" in caplog.text

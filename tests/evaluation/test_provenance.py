"""The provenance of a result: commit, versions and machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hire_model.evaluation import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit and a package, which replaces this one."""
    (tmp_path / "__init__.py").write_text("")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", tmp_path)
    return tmp_path


def test_the_commit_and_whether_files_were_changed(checkout: Path) -> None:
    clean = provenance.read_git_facts()
    assert len(clean["git.commit"]) == 40 and clean["git.dirty"] == "false"
    (checkout / "__init__.py").write_text("changed = True\n")
    assert provenance.read_git_facts() == clean | {"git.dirty": "true"}


def test_an_installed_package_inside_another_repository_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = checkout / "site-packages"
    inner.mkdir()
    (inner / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", inner)
    assert provenance.read_git_facts() == {}


def test_without_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", tmp_path)
    assert provenance.read_git_facts() == {}


def test_facts_name_versions_and_machine() -> None:
    facts = provenance.collect_facts()
    assert {"hire", "python", "torch", "machine", "date", "command"} <= set(facts)
    assert all(facts.values())

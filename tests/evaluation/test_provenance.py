"""The provenance of a result: commit, versions and machine."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.mark.parametrize("program", ["/somewhere/hire_model/__main__.py", "/somewhere/bin/hire"])
def test_the_command_is_what_a_person_typed(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_describe_starters", [])
    monkeypatch.setattr(sys, "argv", [program, "train", "--data", "my scenes"])
    assert provenance.describe_command() == "hire train --data 'my scenes'"


def test_a_scheduler_replaces_the_command_of_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/prefect/engine.py"])
    monkeypatch.setattr(provenance, "_describe_starters", [])
    answers = iter(["", "deployment hire/retrain, run blue-fox"])
    for _ in range(2):
        provenance.describe_commands_with(lambda: next(answers))
    assert provenance.collect_facts()["command"] == "deployment hire/retrain, run blue-fox"

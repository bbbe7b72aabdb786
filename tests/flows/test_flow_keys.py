"""What a cached result depends on, and when a training may be taken up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from registered import RegisteredModel

import flows.train
from flows.folder import TrainingFolder
from flows.keys import hash_code, hash_folder, read_data_state
from flows.parameters import resolve_settings
from flows.train import train_model
from hire_model.errors import SettingsError
from hire_model.tracking import versions
from hire_model.tracking.versions import Version
from hire_model.training.checkpoint import BEST, LAST
from hire_model.workflows import train as workflow


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "data", symlinks=True)
    return tmp_path / "data"


def test_a_data_set_counts_by_its_digest_and_by_what_lies_on_the_disk(data: Path) -> None:
    before = read_data_state(data)
    assert read_data_state(data) == before
    table = data / "captions.parquet"  # as large as before, and the manifest says nothing of it
    os.utime(table, ns=(table.stat().st_atime_ns, table.stat().st_mtime_ns + 1_000))
    assert read_data_state(data) != before and read_data_state(data)[0] == before[0]


def test_a_model_counts_by_each_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(b"abc")
    before = hash_folder(tmp_path)
    (tmp_path / "weights").write_bytes(b"abd")
    changed = hash_folder(tmp_path)
    (tmp_path / "weights").rename(tmp_path / "other")
    assert len({before, changed, hash_folder(tmp_path)}) == 3


def test_code_counts_by_package() -> None:
    assert hash_code("flows") == hash_code("flows") != hash_code("expectations")


def test_a_folder_is_taken_up_by_the_same_training_only(data: Path, tmp_path: Path) -> None:
    def folder(*more: str) -> TrainingFolder:
        overrides = ["model.preset=tiny", f"train.out={tmp_path / 'out'}", *more]
        return TrainingFolder.from_settings(resolve_settings("synthetic", str(data), overrides).settings)

    first = folder()
    first.out.mkdir()
    (first.out / LAST).write_bytes(b"of an earlier training")
    (first.out / BEST).write_bytes(b"of an earlier training")
    assert not first.resumable and not first.version
    first.begin()
    assert not first.resumable, "the earlier training's checkpoint is not this one's"
    assert (first.out / f"previous-{LAST}").is_file() and (first.out / f"previous-{BEST}").is_file()
    (first.out / LAST).write_bytes(b"of this one")
    assert folder().resumable and not folder().version
    assert not folder("train.epochs=7").resumable and not folder("train.seed=1").resumable
    assert folder("gate.max_mb=1", "train.threads=1").resumable, "they change neither weights nor figures"
    first.end("4", "run4")
    assert folder().version == "4" and folder("train.seed=1").version == ""
    assert folder().holds(Version("hire", "4", "run4", (), {})) and not folder().holds(Version("hire", "4", "", (), {}))
    assert not folder("train.seed=1").holds(Version("hire", "4", "run4", (), {}))
    folder().forget()
    assert not folder().resumable and not folder().version


@pytest.mark.parametrize(("run", "trains"), [("", False), ("of another store", True)])
def test_a_version_of_another_store_is_not_taken_for_ones_own(
    run: str, trains: bool, registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each store counts its versions from 1: the run tells them apart."""
    uri = registered_model.settings.tracking.uri
    resolved = resolve_settings(
        "", str(registered_model.dataset), [f"train.out={tmp_path / 'out'}", f"tracking.uri={uri}"]
    )
    folder = TrainingFolder.from_settings(resolved.settings)
    folder.out.mkdir()
    own = versions.find(resolved.settings.tracking, "1").run_id
    folder.end("1", run or own)
    trained = []
    monkeypatch.setattr(workflow, "train", lambda *words: trained.append(words) or SimpleNamespace(version="1"))
    monkeypatch.setattr(flows.train, "show_progress", lambda *words: lambda share: None)
    before = mlflow.get_tracking_uri()
    assert train_model.fn(resolved, "x", folder) == "1"
    mlflow.set_tracking_uri(before)
    said = capsys.readouterr().out
    assert bool(trained) == trains
    assert (f"the version of that number in {uri} is not there or came of another run" in said) == trains
    assert folder.holds(Version("hire", "1", own, (), {}))


def test_parameters_are_settings() -> None:
    settings = resolve_settings("synthetic", "some/where", ["train.epochs=7", "data.dev_images=5"]).settings
    assert (settings.data.path, settings.train.epochs) == (Path("some/where"), 7)
    with pytest.raises(SettingsError, match=r"train\.epochs"):
        resolve_settings("synthetic", "", ["train.epoch=7"])

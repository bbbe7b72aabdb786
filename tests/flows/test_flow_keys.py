"""Cache keys, and when a training is resumed or already finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from registered import RegisteredModel

import flows.train
from flows.parameters import resolve_settings
from flows.prefect_support import hash_code, hash_folder, read_data_state
from flows.train import TrainingFolder, train_model
from hire_model.errors import SettingsError
from hire_model.settings import resolve
from hire_model.tracking import versions
from hire_model.tracking.versions import Version
from hire_model.training.checkpoint import BEST, LAST
from hire_model.training.run_folder import choose_run_folder
from hire_model.workflows import train as workflow


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "data", symlinks=True)
    return tmp_path / "data"


def test_the_state_of_data_changes_with_a_files_time_even_if_the_digest_stays(data: Path) -> None:
    before = read_data_state(data)
    assert read_data_state(data) == before
    table = data / "captions.parquet"
    os.utime(table, ns=(table.stat().st_atime_ns, table.stat().st_mtime_ns + 1_000))
    after = read_data_state(data)
    assert after != before and after[0] == before[0]


def test_the_hash_of_a_folder_changes_with_each_byte_and_file_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(b"abc")
    before = hash_folder(tmp_path)
    (tmp_path / "weights").write_bytes(b"abd")
    changed = hash_folder(tmp_path)
    (tmp_path / "weights").rename(tmp_path / "renamed")
    assert len({before, changed, hash_folder(tmp_path)}) == 3


def test_the_hash_of_code_depends_on_the_package() -> None:
    assert hash_code("flows") == hash_code("flows") != hash_code("expectations")


def test_only_the_same_training_resumes_from_a_folder(data: Path, tmp_path: Path) -> None:
    def make_folder(*changes: str) -> TrainingFolder:
        overrides = ["model.preset=tiny", f"train.out={tmp_path / 'out'}", *changes]
        return TrainingFolder.from_settings(resolve_settings("synthetic", str(data), overrides).settings)

    first = make_folder()
    first.out.mkdir()
    (first.out / LAST).write_bytes(b"earlier training")
    (first.out / BEST).write_bytes(b"earlier training")
    assert not first.resumable and not first.version
    first.begin()
    assert not first.resumable, "the checkpoint is from an earlier training"
    assert (first.out / f"previous-{LAST}").is_file() and (first.out / f"previous-{BEST}").is_file()
    (first.out / LAST).write_bytes(b"this training")
    assert make_folder().resumable and not make_folder().version
    assert not make_folder("train.epochs=7").resumable and not make_folder("train.seed=1").resumable
    assert make_folder("gate.max_mb=1", "train.threads=1").resumable, "they change neither weights nor figures"

    first.end("4", "run4")
    registered, without_run = Version("hire", "4", "run4", (), {}), Version("hire", "4", "", (), {})
    assert make_folder().version == "4" and make_folder("train.seed=1").version == ""
    assert make_folder().has_registered(registered) and not make_folder().has_registered(without_run)
    assert not make_folder("train.seed=1").has_registered(registered)
    make_folder().forget()
    assert not make_folder().resumable and not make_folder().version


@pytest.mark.parametrize(("run", "trains"), [("", False), ("run of another store", True)])
def test_a_finished_training_is_repeated_only_if_the_version_in_the_store_has_another_run(
    run: str, trains: bool, registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each store numbers its versions from 1, so the number alone does not identify a version."""
    uri = registered_model.settings.tracking.uri
    overrides = [f"train.out={tmp_path / 'out'}", f"tracking.uri={uri}"]
    resolved = resolve_settings("", str(registered_model.dataset), overrides)
    folder = TrainingFolder.from_settings(resolved.settings)
    folder.out.mkdir()
    stored_run = versions.find(resolved.settings.tracking, "1").run_id
    folder.end("1", run or stored_run)
    trained = []
    monkeypatch.setattr(workflow, "train", lambda *given: trained.append(given) or SimpleNamespace(version="1"))
    monkeypatch.setattr(flows.train, "show_progress", lambda *given: lambda share: None)
    uri_before = mlflow.get_tracking_uri()
    assert train_model.fn(resolved, "x", folder) == "1"
    mlflow.set_tracking_uri(uri_before)
    assert bool(trained) == trains
    assert (f"{uri} has no such version of the same run" in capsys.readouterr().out) == trains
    assert folder.has_registered(Version("hire", "1", stored_run, (), {}))


def test_parameters_become_settings() -> None:
    settings = resolve_settings("synthetic", "some/where", ["train.epochs=7", "data.dev_images=5"]).settings
    assert (settings.data.path, settings.train.epochs) == (Path("some/where"), 7)
    with pytest.raises(SettingsError, match=r"train\.epochs"):
        resolve_settings("synthetic", "", ["train.epoch=7"])


def test_a_training_in_a_run_folder_is_found_again_through_the_link(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "latest"
    chosen = choose_run_folder(resolve(None, {"train.out": str(out)}, environ={}), resume=False).settings.train.out
    folder = TrainingFolder(chosen, "key")
    folder.begin()
    (chosen / LAST).touch()
    assert TrainingFolder(out, "key").resumable and not TrainingFolder(out, "other").resumable
    folder.end("5", "run5")
    assert TrainingFolder(out, "key").version == "5" and TrainingFolder(out, "other").version == ""

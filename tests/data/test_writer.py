"""What the writer replaces, and what it never deletes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hire_model.data.schema import ExtractorFacts, Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError


def write(out: Path, overwrite: bool = False, image: str = "one") -> Dataset:
    with DatasetWriter(out, name="t", feature_dim=2, feature_extractor="x", overwrite=overwrite) as writer:
        writer.add(ImageRecord(image, "train", np.ones((3, 2), np.float32), ["a dog"]))
    return Dataset.open(out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_data_set_is_never_deleted(tmp_path: Path, overwrite: bool) -> None:
    thesis = tmp_path / "home" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for out in (thesis.parent, thesis):
        with pytest.raises(DataError, match="not a data set; --overwrite replaces only data sets"):
            write(out, overwrite)
    assert thesis.read_text() == "years of work" and list(tmp_path.iterdir()) == [thesis.parent]


def test_overwrite_replaces_a_data_set(tmp_path: Path) -> None:
    write(tmp_path / "d")
    with pytest.raises(DataError, match=r"already exists.*--overwrite"):
        write(tmp_path / "d", image="two")
    assert write(tmp_path / "d", overwrite=True, image="two").split("train").image_id(0) == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_overwrite_works_after_a_run_was_killed_during_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "d")
    with monkeypatch.context() as patch:
        patch.setattr("hire_model.data.writer.shutil.rmtree", lambda path: None)
        write(tmp_path / "d", overwrite=True, image="two")
    assert write(tmp_path / "d", overwrite=True, image="three").split("train").image_id(0) == "three"


def test_overwrite_replaces_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="already exists"):
        write(tmp_path / "d")
    assert write(tmp_path / "d", overwrite=True).split("train").image_id(0) == "one"


def test_overwrite_replaces_the_target_of_a_link(tmp_path: Path) -> None:
    disk = tmp_path / "other disk"
    write(disk / "d")
    (tmp_path / "link").symlink_to(disk / "d")
    assert write(tmp_path / "link", overwrite=True, image="two").split("train").image_id(0) == "two"
    assert (tmp_path / "link").is_symlink() and [path.name for path in disk.iterdir()] == ["d"]
    assert Dataset.open(disk / "d").split("train").image_id(0) == "two"


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/d: cannot be written: .*choose another folder"):
        write(tmp_path / "file" / "d")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("images", [1, 4000])  # the disk is full at the end, and in the middle
def test_a_full_disk_is_a_data_error_and_leaves_no_files(tmp_path: Path, images: int) -> None:
    message = r"d: cannot be written: .*No space left.*was removed"
    writing = DatasetWriter(tmp_path / "d", name="t", feature_dim=2, feature_extractor="x")
    with pytest.raises(DataError, match=message), writing as writer:
        writer.features.close()
        writer.features = Path("/dev/full").open("wb")  # noqa: SIM115  the writer closes it
        for index in range(images):
            writer.add(ImageRecord(str(index), "train", np.ones((3, 2), np.float32), ["a dog"]))
    assert not list(tmp_path.iterdir())


def test_the_file_of_an_extractor_is_copied_and_checked(tmp_path: Path) -> None:
    weights = tmp_path / "detector.onnx"
    weights.write_bytes(b"weights")
    facts = ExtractorFacts(kind="yolox", name="boxes", digest="ab" * 32, options={"side": 3}, file=True)
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=2, feature_extractor="x") as writer:
        writer.record_extractor(facts, weights)
        writer.add(ImageRecord("one", "train", np.ones((3, 2), np.float32), ["a dog"]))
    plain = write(tmp_path / "plain").manifest
    assert Dataset.open(tmp_path / "d").manifest.extractor == facts and verify(tmp_path / "d") == []
    assert plain.extractor is None and '"extractor"' not in (tmp_path / "plain" / "manifest.json").read_text()
    assert plain.digest == Manifest.read(tmp_path / "d").model_copy(update={"files": plain.files}).digest
    (tmp_path / "d" / "extractor.onnx").write_bytes(b"Weights")
    with pytest.raises(DataError, match=r"extractor\.onnx: its SHA-256 differs"):
        Dataset.open(tmp_path / "d")
    assert [finding.file for finding in verify(tmp_path / "d")] == ["extractor.onnx"]

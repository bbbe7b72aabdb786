"""The settings choose the data set and its splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from hire_model.data.splits import SCENES, open_dataset, open_splits
from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.settings import DataSettings


def test_scenes_are_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hire_model.data import synthetic

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    folders: list[Path] = []
    generate = synthetic.generate

    def generate_few(out: Path, **_: object) -> object:
        folders.append(out)
        return generate(out, train=8, dev=4, test=4)

    monkeypatch.setattr(synthetic, "generate", generate_few)
    first, second = open_dataset(DataSettings()), open_dataset(DataSettings())
    assert folders == [SCENES] and first.manifest.digest == second.manifest.digest


def test_several_processes_do_not_generate_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="hire data synth"):
        open_dataset(DataSettings())


def test_open_splits_applies_names_and_limits(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    splits = open_splits(dataset, DataSettings(train_images=10, dev_images=4, test="test"))
    assert [len(split.images) for split in (splits.train, splits.dev, splits.test)] == [10, 4, 8]
    assert [split.name for split in (splits.train, splits.dev, splits.test)] == ["train", "dev", "test"]
    default = open_splits(dataset, DataSettings())
    assert default.test is default.dev


def test_an_unknown_split_is_an_error_that_lists_the_splits(tiny_dataset: Path) -> None:
    message = r"no split 'val'\. Existing splits: dev, test, train\. Choose one with --set data\.dev=NAME"
    with pytest.raises(DataError, match=message):
        open_splits(Dataset.open(tiny_dataset), DataSettings(dev="val"))

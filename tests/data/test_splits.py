"""Which data set and which splits the settings choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from hire_model.data.splits import SCENES, open_dataset, open_splits
from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.settings import DataSettings


def test_scenes_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hire_model.data import synthetic

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    drawn: list[Path] = []
    real = synthetic.generate

    def few(out: Path, **_: object) -> object:
        drawn.append(out)
        return real(out, train=8, dev=4, test=4)

    monkeypatch.setattr(synthetic, "generate", few)
    first, second = open_dataset(DataSettings()), open_dataset(DataSettings())
    assert drawn == [SCENES] and first.manifest.digest == second.manifest.digest


def test_several_processes_draw_no_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="hire data synth"):
        open_dataset(DataSettings())


def test_the_splits_play_their_parts(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    chosen = open_splits(dataset, DataSettings(train_images=10, dev_images=4, test="test"))
    assert [len(split.images) for split in (chosen.train, chosen.dev, chosen.test)] == [10, 4, 8]
    assert [split.name for split in (chosen.train, chosen.dev, chosen.test)] == ["train", "dev", "test"]
    plain = open_splits(dataset, DataSettings())
    assert plain.test is plain.dev


def test_an_unknown_split_is_named(tiny_dataset: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'val'; it has dev, test, train\. Choose one: --set data\.dev=NAME"):
        open_splits(Dataset.open(tiny_dataset), DataSettings(dev="val"))

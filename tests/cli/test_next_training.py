"""The `hire train` command that an import prints works with the splits and the content of its data set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hire_model.cli.data import print_written, suggest_training
from hire_model.data.schema import Manifest
from hire_model.data.splits import Splits, open_splits
from hire_model.data.store import Dataset
from hire_model.data.synthetic import generate
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.settings import Settings, resolve


def _write(folder: Path, splits: Sequence[str]) -> Path:
    with DatasetWriter(folder, name="words", feature_dim=3, feature_extractor="none") as writer:
        for name in splits:
            writer.add(ImageRecord(name, name, np.ones((2, 3), np.float32), ["a dog"]))
    return folder


def _open_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Settings, Splits]:
    """Resolve the settings of the printed command, and open its splits as `hire train` does."""
    print_written(folder)
    [command] = [line.strip() for line in capsys.readouterr().out.splitlines() if "hire train" in line]
    words = shlex.split(command)[2:]
    options = list(zip(words[::2], words[1::2], strict=True))
    assert dict(options)["--data"] == str(folder)
    recipe = dict(options).get("--recipe", "synthetic")
    settings = resolve(recipe, [f"data.path={folder}", *(v for k, v in options if k == "--set")], environ={}).settings
    return settings, open_splits(Dataset.open(folder), settings.data)


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["train", "dev", "test"], ("train", "dev", "test")),
        (["train", "val", "test"], ("train", "val", "test")),
        (["train", "dev"], ("train", "dev", "dev")),
        (["train", "dev", "testall", "test"], ("train", "dev", "test")),
        (["train", "test"], ("train", "test", "test")),
        (["train_a", "val"], ("train_a", "val", "val")),
        (["train", "other"], ("train", "other", "other")),
    ],
)
def test_the_printed_training_opens_the_splits_of_the_data_set(
    names: list[str], used: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, splits = _open_printed(_write(tmp_path / "my data", names), capsys)
    assert (splits.train.name, splits.dev.name, splits.test.name) == used
    assert settings.model.text.kind == "bert", "images without relations use the recipe for photographs"


def test_scenes_with_relations_use_the_default_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path / "scenes", train=4, dev=2, test=2)
    settings, splits = _open_printed(tmp_path / "scenes", capsys)
    assert (splits.train.name, splits.dev.name, splits.test.name) == ("train", "dev", "test")
    assert settings.model.text.kind == "bigru"


@pytest.mark.parametrize(("images", "recipe"), [(700, "flickr8k_mini"), (5856, "flickr8k_regions")])
def test_the_number_of_photographs_selects_the_recipe(images: int, recipe: str, tmp_path: Path) -> None:
    folder = _write(tmp_path / "out", ["train", "dev"])
    manifest = Manifest.read(folder)
    splits = manifest.splits | {"train": manifest.splits["train"].model_copy(update={"images": images})}
    arguments = suggest_training(manifest.model_copy(update={"splits": splits}), folder)
    assert arguments[:2] == ["--recipe", recipe]


@pytest.mark.parametrize("names", [["dev"], ["train"], ["val", "test"]])
def test_a_data_set_that_cannot_be_trained_on_gets_no_training_command(
    names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _write(tmp_path / "out", names)
    assert suggest_training(Manifest.read(folder), folder) == []
    print_written(folder)
    assert "needs a split named train" in capsys.readouterr().out

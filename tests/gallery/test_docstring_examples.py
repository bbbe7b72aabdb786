"""The examples in the docstrings of `Scorer` and `Gallery` run as printed."""

from __future__ import annotations

import doctest
from pathlib import Path

import gallery_examples
import pytest

from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def folder(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set, the model and the gallery under the paths of the examples."""
    folder = tmp_path_factory.mktemp("examples")
    split = gallery_examples.open_split(tiny_dataset, "dev")
    model = gallery_examples.make_model(split)
    artifact.save(model, folder / "runs/latest/model")
    gallery_examples.make_gallery(model, split, folder / "galleries/scenes")
    (folder / "datasets").mkdir()
    (folder / "datasets/scenes").symlink_to(tiny_dataset)
    return folder


@pytest.mark.parametrize("documented", [Scorer, Gallery])
def test_the_example_in_the_docstring_runs(documented: type, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    [example] = doctest.DocTestFinder(recurse=False).find(documented)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted and not result.failed

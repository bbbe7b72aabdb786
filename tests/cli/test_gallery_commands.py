"""`hire gallery ...` and `hire search` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gallery_examples
import pytest
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.errors import HireError
from hire_model.gallery.store import Gallery
from hire_model.model import artifact


def hire(folder: Path, *words: object) -> str:
    """What a command prints, in this process: a fresh one loads torch for seconds. Raises what the command raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def place(tiny_dataset, tmp_path_factory):
    """A folder with a model, in which a process of its own built a gallery by its defaults; what it said beside it."""
    folder = tmp_path_factory.mktemp("place")
    model = gallery_examples.make_model(gallery_examples.open_split(tiny_dataset, "train"))
    artifact.save(model, folder / "model")
    command = [sys.executable, "-m", "hire_model", "gallery", "build", str(tiny_dataset), "--model", "model"]
    return folder, subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_build_says_where_and_what_next(place, tiny_dataset):
    folder, done = place
    assert done.returncode == 0, done.stderr
    assert "galleries/tiny: 40 items encoded" in done.stdout and "hire search" in done.stdout
    assert "encode images: 1/1" in done.stderr and "faiss" not in done.stderr.lower()
    assert Gallery.open(folder / "galleries" / "tiny").manifest.address == str(folder / "model")
    assert "up to date, nothing to do" in hire(folder, "gallery", "build", tiny_dataset, "--model", "model")


def test_search_finds_the_only_gallery_and_its_model(place, tiny_dataset):
    folder, _ = place
    text = gallery_examples.open_split(tiny_dataset).texts[0]
    said = hire(folder, "search", text, "a dog behind a fence", "--top", 3, "--shortlist", 20)
    first, second = said.split("a dog behind a fence")
    for part in (first, second):
        rows = [line.split() for line in part.splitlines() if line.strip()[:1].isdigit()]
        assert [row[0] for row in rows[:3]] == ["1", "2", "3"] and "20 of 40 images scored" in part
        assert all(Path(folder / row[4]).is_file() for row in rows[:3])
        scores = [float(row[2]) for row in rows[:3]]
        assert scores == sorted(scores, reverse=True) and all(1 <= int(row[3]) <= 20 for row in rows[:3])


def test_list_and_show(place):
    folder, _ = place
    listed = hire(folder, "gallery", "list")
    assert "galleries/tiny" in listed and "relational scenes" in listed and "40" in listed
    shown = hire(folder, "gallery", "show", "galleries/tiny")
    manifest = json.loads((folder / "galleries" / "tiny" / "manifest.json").read_text())
    assert manifest["model"] in shown and "40 with" in shown and "index flat" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "a dog", "--gallery", "empty"), "no gallery here. Make one with 'hire gallery build DATASET'"),
        (("search", "a dog", "--top", 10, "--shortlist", 5), "A shortlist of 5 cannot give the best 10"),
        (("search", "a dog", " "), "TEXT: a sentence is empty"),
        (("search", "a dog", "--model", "nowhere"), "no model in this folder"),
        (("gallery", "build", "nowhere"), "no data set here"),
        (("gallery", "build", "DATASET", "--split", "night", "--model", "model"), "no split 'night'; it has dev, test"),
        (("gallery", "build", "DATASET", "--split", "dev", "--model", "model"), "split all there, dev asked for"),
        (("gallery", "build", "DATASET", "--model", "model", "--out", "model"), "model exists and is no gallery"),
    ],
)
def test_a_fault_is_one_message_that_helps(place, tiny_dataset, words, message):
    folder, _ = place
    with pytest.raises(HireError) as error:
        hire(folder, *(tiny_dataset if word == "DATASET" else word for word in words))
    assert message in str(error.value)

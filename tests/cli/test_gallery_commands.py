"""`hire gallery ...` and `hire search`."""

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
from hire_model.storage import publish

pytestmark = pytest.mark.slow


def run_hire(folder: Path, *arguments: object) -> str:
    """Run a command in this process (a new process loads torch for seconds), and return what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def built(tiny_dataset, tmp_path_factory):
    """Build a gallery with default options in a subprocess. Return the folder and the finished process."""
    folder = tmp_path_factory.mktemp("built")
    model = gallery_examples.make_model(gallery_examples.open_split(tiny_dataset, "train"))
    artifact.save(model, folder / "model")
    command = [sys.executable, "-m", "hire_model", "gallery", "build", str(tiny_dataset), "--model", "model"]
    return folder, subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_build_prints_the_folder_and_the_next_command(built, tiny_dataset):
    folder, done = built
    assert done.returncode == 0, done.stderr
    assert "galleries/tiny: 40 items encoded" in done.stdout and "hire search" in done.stdout
    assert "encode images: 1/1" in done.stderr and "faiss" not in done.stderr.lower()
    assert Gallery.open(folder / "galleries" / "tiny").manifest.address == str(folder / "model")
    assert "up to date, nothing to do" in run_hire(folder, "gallery", "build", tiny_dataset, "--model", "model")


def test_search_uses_the_only_gallery_and_its_model(built, tiny_dataset):
    folder, _ = built
    text = gallery_examples.open_split(tiny_dataset).texts[0]
    output = run_hire(folder, "search", text, "a dog behind a fence", "--top", 3, "--shortlist", 20)
    first, second = output.split("a dog behind a fence")
    for part in (first, second):
        rows = [line.split() for line in part.splitlines() if line.strip()[:1].isdigit()]
        assert [row[0] for row in rows[:3]] == ["1", "2", "3"] and "20 of 40 images scored" in part
        assert all(Path(folder / row[4]).is_file() for row in rows[:3])
        scores = [float(row[2]) for row in rows[:3]]
        assert scores == sorted(scores, reverse=True) and all(1 <= int(row[3]) <= 20 for row in rows[:3])


def test_search_marks_words_that_the_model_does_not_know(built, tiny_dataset):
    folder, _ = built
    text = gallery_examples.open_split(tiny_dataset).texts[0]
    assert "not in the vocabulary" not in run_hire(folder, "search", text)
    assert f"zebra {text}\n  zebra: not in the vocabulary\n" in run_hire(folder, "search", f"zebra {text}")
    assert "No word of the text is in the model's vocabulary" in run_hire(folder, "search", "zebra playing saxophone")


def test_list_and_show_describe_the_gallery(built, tmp_path, monkeypatch):
    folder, _ = built
    listed = run_hire(folder, "gallery", "list")
    assert "galleries/tiny" in listed and "relational scenes" in listed and "40" in listed
    output = run_hire(folder, "gallery", "show", "galleries/tiny")
    manifest = json.loads((folder / "galleries" / "tiny" / "manifest.json").read_text())
    assert manifest["model"] in output and "40 with" in output and "generation  1" in output
    monkeypatch.setenv("HIRE_CACHE", str(tmp_path))
    publish(folder / "galleries" / "tiny", "memory://galleries/tiny")
    assert run_hire(folder, "gallery", "show", "memory://galleries/tiny") == output, "the published gallery is the same"


def test_images_are_added_filtered_and_removed(built, tiny_dataset, tmp_path):
    folder, _ = built
    ids = gallery_examples.open_split(tiny_dataset, "test")
    lines = tmp_path / "m.jsonl"
    lines.write_text(json.dumps({"id": ids.image_id(0), "city": "Bern", "year": 2020}) + "\n")
    place = folder / "galleries-changed" / "g"  # other tests expect one gallery in galleries/
    build = ("gallery", "build", tiny_dataset, "--split", "dev", "--model", "model", "--out", place)
    run_hire(folder, *build, "--anchors", tiny_dataset)
    added = run_hire(folder, "gallery", "add", place, tiny_dataset, "--split", "test", "--metadata", lines)
    assert f"{len(ids.images)} added. Now {8 + len(ids.images)} images, generation 2." in added
    filters = ("--where", "city=Bern", "--where", "year=2020")
    found = run_hire(folder, "search", "a dog", "--gallery", place, *filters)
    assert ids.image_id(0) in found and "1 of 1 images scored" in found
    assert "1 removed" in run_hire(folder, "gallery", "remove", place, "--where", "city=Bern")
    removed = run_hire(folder, "gallery", "remove", place, ids.image_id(1))
    shown = run_hire(folder, "gallery", "show", place)
    assert f"1 removed. Now {6 + len(ids.images)} images" in removed and "changed since" in shown
    assert "anchor captions" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "a dog", "--gallery", "empty"), "no gallery here. Create one with 'hire gallery build DATASET'"),
        (("search", "a dog", "--top", 10, "--shortlist", 5), "A shortlist of 5 cannot give 10 results"),
        (("search", "a dog", " "), "TEXT: a sentence is empty"),
        (("search", "a dog", "--model", "nowhere"), "no model in this folder"),
        (("gallery", "build", "nowhere"), "no data set here"),
        (("gallery", "remove", "galleries/tiny"), "Nothing to remove. Give the ids of images, or --where KEY=VALUE"),
        (("search", "a dog", "--where", "year"), "--where year: expected KEY=VALUE"),
        (("search", "a dog", "--where", "a=1", "--where", "a=2"), "the key 'a' is given twice"),
        (
            ("gallery", "build", "DATASET", "--split", "night", "--model", "model"),
            "no split 'night'. Existing splits: dev, test",
        ),
        (("gallery", "build", "DATASET", "--split", "dev", "--model", "model"), "split is all, expected dev"),
        (("gallery", "build", "DATASET", "--model", "model", "--out", "model"), "model exists, but is not a gallery"),
    ],
)
def test_an_error_says_what_is_wrong_and_what_to_do(built, tiny_dataset, arguments, message):
    folder, _ = built
    with pytest.raises(HireError) as error:
        run_hire(folder, *(tiny_dataset if word == "DATASET" else word for word in arguments))
    assert message in str(error.value)

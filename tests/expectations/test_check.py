"""What `validate` says, of sound data, of real data, of faults, of suites that are a person's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_faults import copy_dataset
from planting import plant_both, set_cell, set_cells
from typer.testing import CliRunner

from expectations import suites
from expectations.check import validate
from hire_model.cli.main import app
from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError


def test_what_may_be_missing_raises_no_alarm(tmp_path: Path) -> None:
    """Regions without boxes, classes, scores or relations, images without pictures or sizes, one split."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", name="bare", feature_dim=8, feature_extractor="x") as writer:
        for k in range(6):
            writer.add(ImageRecord(f"i{k}", "train", rng.normal(size=(3, 8)), [f"a dog with {k} bones"]))
    validation = validate(tmp_path / "d")
    assert validation.ok and not validation.failed("warning"), validation.summary()


def test_the_message_names_file_row_and_value(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    plant_both(set_cell("regions", 3, "x1", -0.25), set_cell("relations", 2, "predicate", 99))(data)
    validation = validate(data)
    assert not validation.ok and len(validation.failed("error")) == 2
    assert (
        "error: regions.parquet, features.npy: expected that x1 is inside the image; "
        "not so in 1 of 307 rows: row 3: x1 -0.25, image_id 'train-000000'"
    ) in validation.summary()
    assert "row 2: predicate 99" in validation.summary()
    first = validation.rows()[0]
    assert first["result"] == "failed" and first["severity"] == "error" and first["table"] in ("regions", "relations")


def test_of_many_rows_some_are_shown(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cells("regions", range(100), score=1.5)(data)
    (check,) = validate(data).failed("error")
    assert check.unexpected == 100 and check.message.count("score 1.5") == 3 and check.message.endswith(", ...")


def test_nothing_else_is_judged_while_a_file_is_not_whole(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    (data / "relations.parquet").unlink()
    validation = validate(data)
    assert {check.table for check in validation.results} == {"manifest"}
    assert "relations.parquet" in validation.summary() and "were not run" in validation.summary()


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set here"):
        validate(tmp_path)


def edited(folder: Path, name: str, **changes: object) -> Path:
    """A folder with one suite of ours, of which the first expectation is changed."""
    suite = suites.read_suite(suites.SUITE_FOLDER / f"{name}.json")
    suite["expectations"][0] |= changes
    folder.mkdir()
    (folder / f"{name}.json").write_text(json.dumps(suite), "utf-8")
    return folder


def test_a_suite_of_ones_own_takes_the_place_of_ours(tiny_dataset: Path, tmp_path: Path) -> None:
    kwargs = {"column": "text", "regex": "^A zebra"}
    own = edited(
        tmp_path / "own", "captions", description="a caption is about zebras", severity="warning", kwargs=kwargs
    )
    validation = validate(tiny_dataset, suites=own)
    assert validation.ok
    assert [check.expectation for check in validation.failed("warning")] == ["a caption is about zebras"]
    assert {check.table for check in validation.results} == set(suites.SUITE_NAMES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "expect_nothing"}, "expectation 0 \\(expect_nothing\\)"),
        ({"severity": "fatal"}, "severity is 'fatal'"),
        ({"kwargs": {"column": "tezt", "regex": "a"}}, 'column "tezt"'),
        ({"kwargs": {"column": "text", "rejex": "a"}}, "expectation 0"),
        (
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "image", "max_value": {"$PARAMETER": "x"}},
            },
            "captions.json: No value found for .PARAMETER x. There are classes",
        ),
    ],
)
def test_a_suite_that_cannot_be_used(
    tiny_dataset: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        validate(tiny_dataset, suites=edited(tmp_path / "own", "captions", **changes))


@pytest.mark.parametrize(("name", "text"), [("captoins.json", "{}"), ("captions.json", "[]"), ("captions.json", "{")])
def test_a_file_that_is_no_suite(tiny_dataset: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=name):
        validate(tiny_dataset, suites=tmp_path)


def test_a_folder_without_suites(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no suites"):
        validate(tiny_dataset, suites=tmp_path)


def test_data_docs_open_without_a_network(tiny_dataset: Path, tmp_path: Path) -> None:
    validate(tiny_dataset, docs=tmp_path / "docs")
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) == 2 * len(suites.SUITE_NAMES) + 1
    for page in pages:
        text = page.read_text("utf-8")
        assert not any(f'{remote}="http' in text for remote in ("src",)) and "url('http" not in text
        assert "<link" not in text or "http" not in text.split("<link", 1)[1].split(">", 1)[0]
    index = (tmp_path / "docs" / "index.html").read_text("utf-8")
    assert "validations: data set-captions" in index and "relational scenes" in index
    captions = next(page for page in pages if page.name == "data set-captions.html").read_text("utf-8")
    assert "a caption has letters" in captions


def test_no_script_of_a_caption_runs_in_the_data_docs(tiny_dataset: Path, tmp_path: Path) -> None:
    """Great Expectations writes captions as they are; a policy in the head, before them, binds browsers."""
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cell("captions", 5, "text", "a <img src=x onerror=alert(7)> dog <script>alert(8)</script>")(data)
    validate(data, docs=tmp_path / "docs")
    policy = re.compile(r"<head[^>]*><meta http-equiv=\"Content-Security-Policy\" content=\"([^\"]+)\">")
    for page in (tmp_path / "docs").rglob("*.html"):
        found = policy.search(page.read_text("utf-8"))
        assert found is not None, page
        rules = dict(rule.strip().split(" ", 1) for rule in found[1].split(";"))
        assert rules["default-src"] == "'none'" and not any(name.startswith("script") for name in rules)


@pytest.mark.parametrize(("taken", "severity"), [(1, "warning"), (2, "warning"), (3, "error"), (4, "error")])
def test_captions_of_a_test_split_taken_from_a_large_train_split(taken: int, severity: str, tmp_path: Path) -> None:
    """Four captions of 124 are few; of the four of a test split they are all."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=8, feature_extractor="x") as writer:
        for k in range(120):
            writer.add(ImageRecord(f"a{k}", "train", rng.normal(size=(2, 8)), [f"a dog with {k} bones"]))
        for k in range(4):
            text = f"the dog with {k} bones." if k < taken else f"a cat with {k} bones"
            writer.add(ImageRecord(f"b{k}", "test", rng.normal(size=(2, 8)), [text]))
    validation = validate(tmp_path / "d")
    failed = {check.severity for check in validation.results if not check.ok}
    assert failed == {"warning", severity}, validation.summary()
    assert ("row 120: split_copied" in validation.summary()) == (severity == "error")


def test_the_command(tiny_dataset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "validate", str(tiny_dataset)])
    assert done.exit_code == 0 and "48 expectations: 0 errors, 0 warnings" in done.stdout, done.output
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cell("captions", 7, "text", "")(data)
    done = CliRunner().invoke(app, ["data", "validate", str(data)])
    assert done.exit_code == 1 and "row 7: text ''" in done.stdout


def test_photographs_raise_no_alarm(shared_data: Path, tmp_path: Path) -> None:
    words = ["--src", shared_data / "flickr8k_mini", "--split", "train", "--split", "dev", "--out", tmp_path / "in"]
    subprocess.run([sys.executable, shared_data / "unpack_features.py", *words], check=True, capture_output=True)
    write_dataset(open_scan(tmp_path / "in"), Target(tmp_path / "out", pictures=shared_data / "flickr8k_mini"))
    no_false_alarm(tmp_path / "out")


def test_clip_art_raises_no_alarm(shared_data: Path, tmp_path: Path) -> None:
    codraw = shared_data / "codraw"
    sources = [f"--jsonl={split}={codraw}/{split}.jsonl" for split in ("train", "val")]
    make = ["make_codraw.py", *sources, "--codebook", codraw, "--out", tmp_path / "in", "--limit", "600"]
    relate = ["codraw_relations.py", "--dir", tmp_path / "in", "--split", "train", "--split", "val"]
    for script, *words in (make, relate):
        subprocess.run([sys.executable, shared_data / script, *words], check=True, capture_output=True)
    write_dataset(open_scan(tmp_path / "in"), Target(tmp_path / "out"))
    no_false_alarm(tmp_path / "out")


def no_false_alarm(data: Path) -> None:
    """No error; and no warning but of captions that people really wrote twice."""
    validation = validate(data)
    assert validation.ok, validation.summary()
    allowed = ("two images", "two splits", "caption twice", "words")
    odd = [check for check in validation.failed("warning") if not any(word in check.expectation for word in allowed)]
    assert not odd, odd
    assert all(check.unexpected < 20 for check in validation.failed("warning"))

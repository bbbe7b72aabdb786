"""Validating data sets: valid and real data pass, messages name the fault, custom suites and the report work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_faults import copy_dataset
from planting import plant_both, set_cell, set_cells
from typer.testing import CliRunner

from expectations import page, suites
from expectations.check import validate
from hire_model.cli.main import app
from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.synthetic import generate
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError

pytestmark = pytest.mark.slow


def test_optional_content_may_be_missing(tmp_path: Path) -> None:
    """Regions without boxes, classes, scores and relations, images without pictures and sizes, one split."""
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
        "wrong in 1 of 307 rows: row 3: x1 -0.25, image_id 'train-000000'"
    ) in validation.summary()
    assert "row 2: predicate 99" in validation.summary()
    first = validation.rows()[0]
    assert first["result"] == "error" and first["severity"] == "error" and first["table"] in ("regions", "relations")


def test_a_message_shows_the_first_three_of_many_rows(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cells("regions", range(100), score=1.5)(data)
    (result,) = validate(data).failed("error")
    assert result.unexpected == 100 and result.message.count("score 1.5") == 3 and result.message.endswith(", ...")


def test_the_other_suites_do_not_run_if_a_file_is_missing(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    (data / "relations.parquet").unlink()
    validation = validate(data)
    assert {result.table for result in validation.results} == {"manifest"}
    assert "relations.parquet" in validation.summary() and "were not run" in validation.summary()


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set here"):
        validate(tmp_path)


def write_suite(folder: Path, name: str, **changes: object) -> Path:
    """Write a built-in suite with a changed first expectation to a new folder; return the folder."""
    suite = suites.read_suite(suites.SUITE_FOLDER / f"{name}.json")
    suite["expectations"][0] |= changes
    folder.mkdir()
    (folder / f"{name}.json").write_text(json.dumps(suite), "utf-8")
    return folder


def test_a_custom_suite_replaces_the_built_in_one(tiny_dataset: Path, tmp_path: Path) -> None:
    kwargs = {"column": "text", "regex": "^A zebra"}
    changes = {"description": "a caption is about zebras", "severity": "warning", "kwargs": kwargs}
    validation = validate(tiny_dataset, suites=write_suite(tmp_path / "custom", "captions", **changes))
    assert validation.ok
    assert [result.expectation for result in validation.failed("warning")] == ["a caption is about zebras"]
    assert {result.table for result in validation.results} == set(suites.SUITE_NAMES)


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
            "captions.json: No value found for .PARAMETER x. Known: classes",
        ),
    ],
)
def test_a_faulty_expectation_is_refused(
    tiny_dataset: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        validate(tiny_dataset, suites=write_suite(tmp_path / "custom", "captions", **changes))


@pytest.mark.parametrize(("name", "text"), [("captoins.json", "{}"), ("captions.json", "[]"), ("captions.json", "{")])
def test_a_file_that_is_not_a_suite_is_refused(tiny_dataset: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=name):
        validate(tiny_dataset, suites=tmp_path)


def test_a_folder_without_suites_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no suites"):
        validate(tiny_dataset, suites=tmp_path)


def test_the_report_lists_suites_and_expectations_and_loads_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    kwargs = {"column": "text", "regex": "^A zebra"}
    changes = {"description": "a caption is about zebras", "severity": "warning", "kwargs": kwargs}
    validation = validate(tiny_dataset, suites=write_suite(tmp_path / "custom", "captions", **changes))
    text = page.write(validation, tmp_path / "report.html").read_text("utf-8")
    assert "://" not in text and "<script" not in text and "<link" not in text and "default-src 'none'" in text
    assert f"<dd>{validation.digest}</dd>" in text and f"<dd>{tiny_dataset.resolve()}</dd>" in text
    for name in suites.SUITE_NAMES:
        assert f'<a href="#{name}">{name}</a></td><td class="{"warning" if name == "captions" else "ok"}">' in text
    assert text.count('<tr class="ok">') == len(validation.results) - 1 and '<tr class="error">' not in text
    assert '<tr class="warning"><td class="warning">warning</td><td>a caption is about zebras<small>' in text
    assert "passed with warnings" in text and all(suite.rows and suite.seconds > 0 for suite in validation.suites)


def test_the_report_escapes_captions(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cell("captions", 5, "text", "a <img src=x onerror=alert(7)> dog <script>alert(8)</script>")(data)
    text = page.render(validate(data))
    assert "<img" not in text and "<script" not in text and "&lt;img src=x onerror" in text


def test_the_report_of_a_data_set_with_missing_files_says_what_was_not_run(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    (data / "relations.parquet").unlink()
    text = page.render(validate(data))
    assert "were not run" in text and "validation of" in text.lower() and ">failed<" in text


@pytest.mark.parametrize(("copied", "severity"), [(2, "warning"), (3, "error")])
def test_copying_more_than_half_of_a_small_split_from_a_large_one_is_an_error(
    copied: int, severity: str, tmp_path: Path
) -> None:
    """The share is relative to the small split: 3 of its 4 captions, though only 3 of all 124."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=8, feature_extractor="x") as writer:
        for k in range(120):
            writer.add(ImageRecord(f"a{k}", "train", rng.normal(size=(2, 8)), [f"a dog with {k} bones"]))
        for k in range(4):
            text = f"the dog with {k} bones." if k < copied else f"a cat with {k} bones"
            writer.add(ImageRecord(f"b{k}", "test", rng.normal(size=(2, 8)), [text]))
    validation = validate(tmp_path / "d")
    failed = {result.severity for result in validation.results if not result.ok}
    assert failed == {"warning", severity}, validation.summary()
    assert ("row 120: split_copied" in validation.summary()) == (severity == "error")


def test_the_command_prints_the_counts_and_fails_on_an_error(tiny_dataset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "validate", str(tiny_dataset)])
    assert (done.exit_code, done.stdout) == (0, "82 expectations: 0 errors, 0 warnings\n"), done.output
    done = CliRunner().invoke(
        app, ["data", "validate", str(tiny_dataset), "--verbose", "--report", str(tmp_path / "r")]
    )
    assert done.stdout.count(" ok ") == 82 and f"Report: {tmp_path / 'r'}" in done.stdout
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cell("captions", 7, "text", "")(data)
    done = CliRunner().invoke(app, ["data", "validate", str(data)])
    assert done.exit_code == 1 and "row 7: text ''" in done.stdout


def test_each_warning_of_the_default_scenes_is_in_the_docs(tmp_path: Path) -> None:
    generate(tmp_path / "scenes", train=300, dev=40, test=40, seed=0)
    validation = validate(tmp_path / "scenes")
    text = (Path(__file__).parents[2] / "docs" / "validation.md").read_text("utf-8")
    warnings = [result.expectation.partition(", as such")[0] for result in validation.failed("warning")]
    assert validation.ok and warnings and all(f"| {warning} |" in text for warning in warnings), warnings


def test_a_validation_by_mlflow_run_logs_counts_data_set_and_report(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    for name, value in {"RUN_ID": run_id, "EXPERIMENT_ID": "0", "TRACKING_URI": uri}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    try:
        done = CliRunner().invoke(app, ["data", "validate", str(tiny_dataset)], catch_exceptions=False)
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.tracking.fluent._active_experiment_id = None
    run = client.get_run(run_id)
    assert done.exit_code == 0 and run.info.status == "FINISHED"
    counts = {"validation/expectations": 82, "validation/errors": 0, "validation/warnings": 0}
    assert run.data.metrics.items() >= counts.items() and run.data.params["suites"] == "built-in"
    assert run.inputs.dataset_inputs[0].dataset.name == "relational scenes"
    assert [each.path for each in client.list_artifacts(run_id, "validation")] == ["validation/validation.html"]


def test_photographs_pass(shared_data: Path, tmp_path: Path) -> None:
    options = ["--src", shared_data / "flickr8k_mini", "--split", "train", "--split", "dev", "--out", tmp_path / "in"]
    subprocess.run([sys.executable, shared_data / "unpack_features.py", *options], check=True, capture_output=True)
    write_dataset(open_scan(tmp_path / "in"), Target(tmp_path / "out", pictures=shared_data / "flickr8k_mini"))
    assert_passes(tmp_path / "out")


def test_clip_art_passes(shared_data: Path, tmp_path: Path) -> None:
    codraw = shared_data / "codraw"
    sources = [f"--jsonl={split}={codraw}/{split}.jsonl" for split in ("train", "val")]
    make = ["make_codraw.py", *sources, "--codebook", codraw, "--out", tmp_path / "in", "--limit", "600"]
    relate = ["codraw_relations.py", "--dir", tmp_path / "in", "--split", "train", "--split", "val"]
    for script, *options in (make, relate):
        subprocess.run([sys.executable, shared_data / script, *options], check=True, capture_output=True)
    write_dataset(open_scan(tmp_path / "in"), Target(tmp_path / "out"))
    assert_passes(tmp_path / "out")


def assert_passes(data: Path) -> None:
    """Assert that there are no errors, and no warnings except for captions that people wrote twice or very short."""
    validation = validate(data)
    assert validation.ok, validation.summary()
    warnings = validation.failed("warning")
    allowed = ("two images", "two splits", "caption twice", "words")
    assert all(any(text in result.expectation for text in allowed) for result in warnings), validation.summary()
    assert all(result.unexpected < 20 for result in warnings)

"""Proposed suites: their own data set passes, a different one fails, and existing suites are not overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_faults import copy_dataset
from planting import change_features, set_cells
from typer.testing import CliRunner

from expectations import suites
from expectations.check import validate
from expectations.profile import propose_suites
from hire_model.cli.main import app
from hire_model.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def proposed(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suites") / "proposed"
    descriptions = "\n".join(propose_suites(tiny_dataset, out))
    assert "norm" in descriptions and "captions per image: from 4 to 6" in descriptions
    return out


def test_a_data_set_passes_its_own_suites_which_add_expectations(tiny_dataset: Path, proposed: Path) -> None:
    validation = validate(tiny_dataset, suites=proposed)
    assert validation.ok and not validation.failed("warning"), validation.summary()
    assert len(validation.results) > len(validate(tiny_dataset).results)


def test_features_of_twice_the_norm_fail(tiny_dataset: Path, proposed: Path, tmp_path: Path) -> None:
    """The built-in suites allow a factor of ten."""
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    change_features(lambda array: array * 2, None)(data)
    assert validate(data).ok
    failed = validate(data, suites=proposed).failed("error")
    assert any("99 % of the features have a norm" in result.expectation for result in failed)


def test_captions_in_another_language_fail(tiny_dataset: Path, proposed: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cells("captions", range(200), text="Ein Mann mit Hut")(data)
    assert any("the data set's language: 90% have" in line for line in propose_suites(data, tmp_path / "german"))
    german = validate(data, suites=tmp_path / "german").failed("error")
    assert not any("language" in result.expectation for result in german)
    english = validate(data, suites=proposed).failed("error")
    assert any("language" in result.expectation for result in english)


def test_the_command_writes_all_suites_and_refuses_to_overwrite_them(tiny_dataset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "profile", str(tiny_dataset), "--out", str(tmp_path / "s")])
    assert done.exit_code == 0 and "hire data validate DATASET --suites" in done.stdout, done.output
    assert {path.stem for path in (tmp_path / "s").iterdir()} == set(suites.SUITE_NAMES)
    with pytest.raises(DataError, match="has suites already"):
        propose_suites(tiny_dataset, tmp_path / "s")


def test_a_damaged_data_set_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    (data / "captions.parquet").unlink()
    with pytest.raises(DataError, match="damaged"):
        propose_suites(data, tmp_path / "s")

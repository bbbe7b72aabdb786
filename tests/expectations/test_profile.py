"""Proposed suites: a data set passes its own, another one does not, and no edited suite is overwritten."""

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


@pytest.fixture(scope="module")
def learned(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suites") / "learned"
    words = propose_suites(tiny_dataset, out)
    assert any("norm" in word for word in words) and any("captions per image: from 4 to 6" in word for word in words)
    return out


def test_a_data_set_passes_what_was_learned_from_it(tiny_dataset: Path, learned: Path) -> None:
    validation = validate(tiny_dataset, suites=learned)
    assert validation.ok and not validation.failed("warning"), validation.summary()
    assert len(validation.results) > len(validate(tiny_dataset).results)


def test_other_features_are_noticed(tiny_dataset: Path, learned: Path, tmp_path: Path) -> None:
    """Twice the norm: within the factor of ten that is asked of every data set, but not what was seen."""
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    change_features(lambda array: array * 2, None)(data)
    assert validate(data).ok
    assert any(
        "99 of 100 features have a norm" in check.expectation
        for check in validate(data, suites=learned).failed("error")
    )


def test_another_language_is_noticed(tiny_dataset: Path, learned: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    set_cells("captions", range(200), text="Ein Mann mit Hut")(data)
    own = propose_suites(data, tmp_path / "german")
    assert any("in the language learned: 90% have" in word for word in own)
    assert not any(
        "language" in check.expectation for check in validate(data, suites=tmp_path / "german").failed("error")
    )
    assert any("language" in check.expectation for check in validate(data, suites=learned).failed("error"))


def test_the_command_and_that_it_overwrites_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "profile", str(tiny_dataset), "--out", str(tmp_path / "s")])
    assert done.exit_code == 0 and "hire data validate DATASET --suites" in done.stdout, done.output
    assert {path.stem for path in (tmp_path / "s").iterdir()} == set(suites.SUITE_NAMES)
    with pytest.raises(DataError, match="has suites already"):
        propose_suites(tiny_dataset, tmp_path / "s")


def test_nothing_is_learned_from_damage(tiny_dataset: Path, tmp_path: Path) -> None:
    data = copy_dataset(tiny_dataset, tmp_path / "data")
    (data / "captions.parquet").unlink()
    with pytest.raises(DataError, match="not whole"):
        propose_suites(data, tmp_path / "s")

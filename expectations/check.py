"""Check data against suites: `validate` checks a data set, `run_suite` one frame for the monitor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.results import ExpectationResult, Validation
from expectations.suites import SUITE_FOLDER, SUITE_NAMES, build_suite, find_suites
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.errors import HireError

if TYPE_CHECKING:
    import pandas as pd


def validate(dataset: Path, *, suites: Path | None = None, docs: Path | None = None) -> Validation:
    """Check the data set in `dataset` against our suites; suites in the folder `suites` replace ours of the same name.

    The files, their digests and the references between them are checked first; the content only if these are intact,
    with one pass over the features. docs: a folder for Great Expectations' data docs. Raises DataError where `dataset`
    is no data set, or a suite cannot be used.
    """
    dataset = dataset.expanduser()
    manifest, files = Manifest.read(dataset), find_suites(suites)
    if docs is not None:
        _make_folder(docs.expanduser())
    from expectations.runner import SuiteRunner  # takes seconds to import; the errors above are reported before
    from expectations.tables import DatasetTables, build_manifest_table

    runner = SuiteRunner()
    for path in files.values():
        build_suite(path)  # report an unusable suite before all features are read
    results = runner.run(build_manifest_table(dataset, manifest), files["manifest"], {})
    if all(result.ok for result in results):
        tables = DatasetTables(Dataset.open(dataset))
        parameters = tables.parameters
        for name in SUITE_NAMES[1:]:
            results += runner.run(tables.build(name), files[name], parameters)
    if docs is not None:
        runner.write_docs(docs.expanduser(), f"{manifest.name}, version {manifest.digest[:12]}")
    return Validation(manifest.digest, results)


def run_suite(
    suite: str,
    frame: pd.DataFrame,
    *,
    table: str,
    label: str,
    context: tuple[str, ...] = (),
    parameters: Mapping[str, float] | None = None,
) -> list[ExpectationResult]:
    """Check a frame against the suite of that name; the monitor's `RunSuite` (hire_model/monitoring/drift.py)."""
    from expectations.runner import SuiteRunner
    from expectations.tables import CheckedTable

    checked = CheckedTable(table, label, frame, context)
    return SuiteRunner().run(checked, SUITE_FOLDER / f"{suite}.json", dict(parameters or {}))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HireError(
            f"{folder}: no data docs can be written there: {error.strerror}. Name another folder."
        ) from error

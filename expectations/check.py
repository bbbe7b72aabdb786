"""Check data against suites: `validate` checks a data set, `run_suite` checks one frame for the monitor."""

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
    """Check a data set against the suites.

    The suite `manifest` runs first: files, digests and references between the tables. The other suites run only if it
    passes; they need one pass over the features.

    Args:
        dataset: Folder of the data set.
        suites: Folder of suites; each replaces the built-in suite of the same name.
        docs: Folder for Great Expectations data docs; None writes none.

    Raises:
        DataError: The folder is not a data set, or a suite cannot be used.
        HireError: The data docs cannot be written.
    """
    dataset = dataset.expanduser()
    manifest, paths = Manifest.read(dataset), find_suites(suites)
    if docs is not None:
        _make_folder(docs.expanduser())
    from expectations.runner import SuiteRunner  # takes seconds to import; the errors above are reported before
    from expectations.tables import DatasetTables, build_manifest_table

    runner = SuiteRunner()
    for path in paths.values():
        build_suite(path)  # report an unusable suite before all features are read
    results = runner.run(build_manifest_table(dataset, manifest), paths["manifest"], {})
    if all(result.ok for result in results):
        tables = DatasetTables(Dataset.open(dataset))
        parameters = tables.parameters
        for name in SUITE_NAMES[1:]:
            results += runner.run(tables.build(name), paths[name], parameters)
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
    """Check a frame against the built-in suite `suite`; implements `hire_model.monitoring.drift.RunSuite`."""
    from expectations.runner import SuiteRunner
    from expectations.tables import SuiteTable

    return SuiteRunner().run(
        SuiteTable(table, label, frame, context), SUITE_FOLDER / f"{suite}.json", dict(parameters or {})
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HireError(f"{folder}: cannot write data docs here: {error.strerror}. Name another folder.") from error

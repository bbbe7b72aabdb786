"""Check data against suites: `validate` checks a data set, `run_suite` checks one frame for the monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.results import ExpectationResult, SuiteRun, Validation
from expectations.suites import SUITE_FOLDER, SUITE_NAMES, build_suite, find_suites
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset

if TYPE_CHECKING:
    import pandas as pd

    from expectations.tables import SuiteTable


def validate(dataset: Path, *, suites: Path | None = None) -> Validation:
    """Check a data set against the suites.

    The suite `manifest` runs first: files, digests and references between the tables. The other suites run only if it
    passes; they need one pass over the features.

    Args:
        dataset: Folder of the data set.
        suites: Folder of suites; each replaces the built-in suite of the same name.

    Raises:
        DataError: The folder is not a data set, or a suite cannot be used.
    """
    dataset = dataset.expanduser()
    manifest, paths = Manifest.read(dataset), find_suites(suites)
    from expectations.runner import SuiteRunner  # takes seconds to import; the errors above are reported before
    from expectations.tables import DatasetTables, build_manifest_table

    runner = SuiteRunner()
    for path in paths.values():
        build_suite(path)  # report an unusable suite before all features are read

    def run(name: str, build: Callable[[], SuiteTable], parameters: dict[str, float]) -> SuiteRun:
        start = time.perf_counter()
        table = build()
        results = runner.run(table, paths[name], parameters)
        return SuiteRun(name, len(table.frame), time.perf_counter() - start, results)

    runs = [run("manifest", lambda: build_manifest_table(dataset, manifest), {})]
    complete = all(result.ok for result in runs[0].results)
    if complete:
        tables = DatasetTables(Dataset.open(dataset))
        parameters = tables.parameters
        runs += [run(name, partial(tables.build, name), parameters) for name in SUITE_NAMES[1:]]
    return Validation(manifest.digest, runs, manifest.name, dataset.resolve(), complete)


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

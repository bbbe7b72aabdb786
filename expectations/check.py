"""Judging a data set by its suites: `validate` is what the command line, the flows and the monitor call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expectations.suites import NAMES, build, paths
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.errors import HireError

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Check:
    """One expectation and what came of it.

    table        captions, images, regions, relations, splits or manifest
    expectation  what was expected, in words
    severity     "error" stops what comes after, "warning" is reported
    unexpected   how many rows are not as expected
    message      empty where all is well; else file, rows and values, the first few of them
    """

    table: str
    expectation: str
    severity: Severity
    ok: bool
    unexpected: int
    message: str


@dataclass(frozen=True)
class Validation:
    """What came of all expectations on one data set; `digest` is the data set's version."""

    digest: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """True where no expectation of severity error failed."""
        return all(check.ok for check in self.checks if check.severity == "error")

    def failed(self, severity: Severity) -> list[Check]:
        """The failed checks of one severity."""
        return [check for check in self.checks if not check.ok and check.severity == severity]

    def summary(self) -> str:
        """One message: what failed, in which file, at which rows, with which values; the counts in the end."""
        errors, warnings = self.failed("error"), self.failed("warning")
        lines = [f"{check.severity}: {check.message}" for check in errors + warnings]
        if {check.table for check in self.checks} == {"manifest"}:
            lines.append("The other suites were not asked: they need whole files.")
        lines.append(f"{len(self.checks)} expectations: {len(errors)} errors, {len(warnings)} warnings")
        return "\n".join(lines)

    def rows(self) -> list[dict[str, str]]:
        """A row per expectation for a table, failures first."""
        order = sorted(self.checks, key=lambda check: (check.ok, check.severity != "error"))
        return [
            {
                "table": check.table,
                "expectation": check.expectation,
                "severity": check.severity,
                "result": "ok" if check.ok else "failed",
                "message": check.message,
            }
            for check in order
        ]


def validate(dataset: Path, *, suites: Path | None = None, docs: Path | None = None) -> Validation:
    """Judge the data set in `dataset` by our suites, or by those that the folder `suites` has in their place.

    First the files, their digests and what points where; only if these are sound then the content, with one pass over
    the features. docs, if given, is a folder that Great Expectations' data docs are written to. Raises DataError only
    where `dataset` is no data set at all, or a suite cannot be used.
    """
    dataset = dataset.expanduser()
    manifest, files = Manifest.read(dataset), paths(suites)
    if docs is not None:
        _make(docs.expanduser())
    from expectations.judge import Judge  # takes seconds, so what may be wrong before is known before
    from expectations.tables import Tables, manifest_table

    judge = Judge()
    for path in files.values():
        build(path)  # a suite that cannot be used is not found out after all features were read
    checks = judge.judge(manifest_table(dataset, manifest), files["manifest"], {})
    if all(check.ok for check in checks):
        tables = Tables(Dataset.open(dataset))
        parameters = tables.parameters
        for name in NAMES[1:]:
            checks += judge.judge(tables.build(name), files[name], parameters)
    if docs is not None:
        judge.write_docs(docs.expanduser(), f"{manifest.name}, version {manifest.digest[:12]}")
    return Validation(manifest.digest, checks)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HireError(
            f"{folder}: no data docs can be written there: {error.strerror}. Name another folder."
        ) from error

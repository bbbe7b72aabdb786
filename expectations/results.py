"""Results of a validation: one per expectation, grouped by suite, and all of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]
Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class ExpectationResult:
    """The result of one expectation.

    table        captions, images, regions, relations, splits or manifest
    expectation  description of the expectation
    severity     "error" stops the pipeline, "warning" is only reported
    ok           whether the expectation holds
    unexpected   number of rows that violate it
    message      empty if it holds; otherwise file, rows and values, the first few of them
    """

    table: str
    expectation: str
    severity: Severity
    ok: bool
    unexpected: int
    message: str

    @property
    def status(self) -> Status:
        """Return "ok", or the severity of the failure."""
        return "ok" if self.ok else self.severity


class _Results:
    """What the results of a suite and of a data set have in common."""

    results: list[ExpectationResult]

    @property
    def ok(self) -> bool:
        """Whether no expectation of severity error failed."""
        return not self.failed("error")

    @property
    def status(self) -> Status:
        """Return the worst status of the results."""
        return "error" if self.failed("error") else "warning" if self.failed("warning") else "ok"

    def failed(self, severity: Severity) -> list[ExpectationResult]:
        """Return the failed results of one severity."""
        return [result for result in self.results if result.status == severity]


@dataclass(frozen=True)
class SuiteRun(_Results):
    """The results of one suite. rows: of the table that it checked; seconds: to build the table and check it."""

    name: str
    rows: int
    seconds: float
    results: list[ExpectationResult]


@dataclass(frozen=True)
class Validation(_Results):
    """The results of all expectations on one data set; `digest` is the data set's version.

    complete: False if the suite `manifest` failed, so that the others were not run.
    """

    digest: str
    suites: list[SuiteRun]
    name: str = ""
    folder: Path = Path()
    complete: bool = True

    @property
    def results(self) -> list[ExpectationResult]:  # type: ignore[override]
        """Return the results of all suites."""
        return [result for suite in self.suites for result in suite.results]

    @property
    def verdict(self) -> str:
        """Return the status in words."""
        return {"ok": "passed", "warning": "passed with warnings", "error": "failed"}[self.status]

    @property
    def counts(self) -> str:
        """Return the number of expectations, errors and warnings in words."""
        errors, warnings = len(self.failed("error")), len(self.failed("warning"))
        return f"{len(self.results)} expectations: {errors} errors, {warnings} warnings"

    def summary(self) -> str:
        """Return one message: a line per failed expectation (file, rows, values), then the counts."""
        lines = [f"{each.severity}: {each.message}" for each in self.failed("error") + self.failed("warning")]
        if not self.complete:
            lines.append("The other suites were not run: they need intact files.")
        return "\n".join([*lines, self.counts])

    def rows(self) -> list[dict[str, str]]:
        """Return one table row per expectation, failures first."""
        order = sorted(self.results, key=lambda result: ("error", "warning", "ok").index(result.status))
        return [
            {
                "table": result.table,
                "expectation": result.expectation,
                "severity": result.severity,
                "result": result.status,
                "message": result.message,
            }
            for result in order
        ]

"""Results of a validation: one per expectation, and all of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


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


@dataclass(frozen=True)
class Validation:
    """The results of all expectations on one data set; `digest` is the data set's version."""

    digest: str
    results: list[ExpectationResult]

    @property
    def ok(self) -> bool:
        """Whether no expectation of severity error failed."""
        return all(result.ok for result in self.results if result.severity == "error")

    def failed(self, severity: Severity) -> list[ExpectationResult]:
        """Return the failed results of one severity."""
        return [result for result in self.results if not result.ok and result.severity == severity]

    def summary(self) -> str:
        """Return one message: a line per failed expectation (file, rows, values), then the counts."""
        errors, warnings = self.failed("error"), self.failed("warning")
        lines = [f"{result.severity}: {result.message}" for result in errors + warnings]
        if {result.table for result in self.results} == {"manifest"}:
            lines.append("The other suites were not run: they need intact files.")
        lines.append(f"{len(self.results)} expectations: {len(errors)} errors, {len(warnings)} warnings")
        return "\n".join(lines)

    def rows(self) -> list[dict[str, str]]:
        """Return one table row per expectation, failures first."""
        order = sorted(self.results, key=lambda result: (result.ok, result.severity != "error"))
        return [
            {
                "table": result.table,
                "expectation": result.expectation,
                "severity": result.severity,
                "result": "ok" if result.ok else "failed",
                "message": result.message,
            }
            for result in order
        ]

"""Run Great Expectations: check one table against one suite."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations import ValidationDefinition
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults
from great_expectations.exceptions import SuiteParameterError

from expectations.results import ExpectationResult, Severity
from expectations.suites import build_suite
from expectations.tables import SuiteTable
from hire_model.errors import DataError

SHOWN = 3  # rows per message
_LARGE = 100_000  # rows; a garbage collection takes 0.2 s, longer than checking a small table
_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": SHOWN, "include_unexpected_rows": True}


class SuiteRunner:
    """Runs suites in an in-memory Great Expectations context; one runner per data set."""

    def __init__(self) -> None:
        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        self.context = gx.get_context(mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=stores))
        self.context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]

    def run(self, table: SuiteTable, path: Path, parameters: dict[str, float]) -> list[ExpectationResult]:
        """Check `table` against the suite in `path`; the results are in the suite's order.

        Raises DataError if an expectation cannot be evaluated, for example if a column or parameter is missing.
        """
        suite = self.context.suites.add(build_suite(path))
        source = self.context.data_sources.add_pandas("data set")
        batch = source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe("whole")
        definition = ValidationDefinition(name=table.name, data=batch, suite=suite)
        definition = self.context.validation_definitions.add(definition)
        try:
            outcome = definition.run(
                batch_parameters={"dataframe": table.frame}, expectation_parameters=parameters, result_format=_FORMAT
            )
        except SuiteParameterError as error:
            raise DataError(f"{path}: {error}. Known: {', '.join(parameters) or 'none in this suite'}.") from error
        self.context.data_sources.delete("data set")  # its engine would keep the frame as long as the context exists
        if len(table.frame) > _LARGE:
            gc.collect()  # Great Expectations' copies of the frame, 400 MB at COCO's size, are in reference cycles
        order = {item.id: number for number, item in enumerate(suite.expectations)}
        results = sorted(outcome.results, key=lambda result: order[_get_config(result).id])
        return [_convert_result(table, path, result) for result in results]


def _get_config(result: ExpectationValidationResult) -> Any:
    assert result.expectation_config is not None
    return result.expectation_config


def _convert_result(table: SuiteTable, path: Path, result: ExpectationValidationResult) -> ExpectationResult:
    config, details = _get_config(result), result.result
    if "unexpected_count" not in details and "observed_value" not in details:
        raise DataError(f"{path}: {config.type} {config.kwargs}: {_read_exception(result)}")
    severity: Severity = "error" if config.severity == "critical" else "warning"
    unexpected = int(details.get("unexpected_count") or 0)
    message = f"{table.label}: expected that {config.description}; {_describe_rows(table, config.kwargs, details)}"
    message += f". {config.notes}" if config.notes else ""
    return ExpectationResult(
        table.name,
        str(config.description),
        severity,
        bool(result.success),
        unexpected,
        "" if result.success else message,
    )


def _read_exception(result: ExpectationValidationResult) -> str:
    """Return what Great Expectations raised. `exception_info` is one dictionary, or one per metric."""
    info = result.exception_info or {}
    first = info if "exception_message" in info else next(iter(info.values()), {})
    return str(first.get("exception_message", "no result"))


def _describe_rows(table: SuiteTable, kwargs: dict[str, Any], details: dict[str, Any]) -> str:
    """Return the number of unexpected rows, and the first few of them with their values."""
    rows = details.get("unexpected_rows")
    if not isinstance(rows, pd.DataFrame):
        return f"observed {details.get('observed_value')}"
    columns = kwargs.get("column_list") or [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    shown_columns = [*columns, *(name for name in table.context if name not in columns)]
    shown = "; ".join(
        f"row {index}: "
        + ", ".join(
            f"{name} {_shorten(value)}"
            for name, value in zip(shown_columns, row, strict=True)
            if name in columns or not pd.isna(value)  # a context column may be empty
        )
        for index, row in zip(rows.index, rows[shown_columns].itertuples(index=False), strict=True)
    )
    more = ", ..." if details["unexpected_count"] > len(rows) else ""
    return f"wrong in {details['unexpected_count']:,} of {details['element_count']:,} {table.unit}: {shown}{more}"


def _shorten(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."

"""Custom expectations. Importing this module registers them with Great Expectations; import it before building a suite.

Each one is a pair of classes: a metric that marks the good rows, and an expectation that names the metric. A suite
refers to the expectation by its class name in snake case.
"""

from __future__ import annotations

from typing import Any, ClassVar

import ftfy.badness
import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation, ColumnPairMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    ColumnPairMapMetricProvider,
    column_condition_partial,
    column_pair_condition_partial,
)


class WordCount(ColumnMapMetricProvider):
    """True for texts whose number of words is in the range."""

    condition_metric_name = "column_values.word_count"
    condition_value_keys = ("min_value", "max_value")

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, min_value: int, max_value: int, **_: Any) -> pd.Series:  # noqa: N805
        counts = [len(text.split()) for text in column]  # .str.split() would hold the words of all texts at once
        return pd.Series(counts, index=column.index, dtype="int64").between(min_value, max_value)


class ExpectColumnValuesToHaveWordCountBetween(ColumnMapExpectation):
    """Expect each text to have from `min_value` to `max_value` words, separated by white space."""

    min_value: int
    max_value: int
    map_metric: ClassVar[str] = "column_values.word_count"
    success_keys: ClassVar[tuple[str, ...]] = ("min_value", "max_value", "mostly")


class Mojibake(ColumnMapMetricProvider):
    """True for texts that look correctly decoded (ftfy's heuristic) and have no replacement character."""

    condition_metric_name = "column_values.free_of_mojibake"

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, **_: Any) -> pd.Series:  # noqa: N805
        garbled = [not text.isascii() and ("\ufffd" in text or ftfy.badness.is_bad(text)) for text in column]
        return ~pd.Series(garbled, index=column.index, dtype=bool)


class ExpectColumnValuesToBeFreeOfMojibake(ColumnMapExpectation):
    """Expect no text to be decoded with a wrong encoding, such as "cafÃ©"."""

    map_metric: ClassVar[str] = "column_values.free_of_mojibake"


_PAIR_DOMAIN = ("batch_id", "table", "column_A", "column_B", "row_condition", "condition_parser", "ignore_row_if")
_PAIR_KEYS = (*ColumnPairMapExpectation.domain_keys, "ignore_row_if")


class Different(ColumnPairMapMetricProvider):
    """True for rows where A and B differ."""

    condition_metric_name = "column_pair_values.different"
    condition_domain_keys = _PAIR_DOMAIN
    condition_value_keys = ()

    @column_pair_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **_: Any) -> pd.Series:  # noqa: N803, N805
        return column_A != column_B


class ExpectColumnPairValuesToDiffer(ColumnPairMapExpectation):
    """Expect A and B to differ in each row. Rows where either is missing are ignored.

    Great Expectations' built-in ExpectSelectColumnValuesToBeUniqueWithinRecord takes a minute for six million rows.
    """

    ignore_row_if: str = "either_value_is_missing"
    map_metric: ClassVar[str] = "column_pair_values.different"
    domain_keys = _PAIR_KEYS  # type: ignore[assignment]  # as in the base class


class OneOwner(ColumnPairMapMetricProvider):
    """True for rows whose value of A occurs with one value of B only."""

    condition_metric_name = "column_pair_values.one_owner"
    condition_domain_keys = _PAIR_DOMAIN
    condition_value_keys = ()

    @column_pair_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **_: Any) -> pd.Series:  # noqa: N803, N805
        pairs = pd.DataFrame({"value": column_A, "owner": column_B}).drop_duplicates()
        shared = pairs["value"][pairs["value"].duplicated(keep=False)]
        return ~column_A.isin(shared)


class ExpectColumnPairValuesAToHaveOneB(ColumnPairMapExpectation):
    """Expect no value of column A to occur with two values of column B, for example no caption text in two splits.

    Rows where either is missing are ignored.
    """

    ignore_row_if: str = "either_value_is_missing"
    map_metric: ClassVar[str] = "column_pair_values.one_owner"
    domain_keys = _PAIR_KEYS  # type: ignore[assignment]  # as in the base class

"""Propose suites from a good data set: the built-in suites plus the value ranges of this data set.

Ranges derived from the data are added to the built-in expectations, and replace those that are only guesses. They show
how a later version of the data, or another data set from the same detector, differs from the good one.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expectations import suites
from expectations.tables import DatasetTables, SuiteTable
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.errors import DataError
from hire_model.files import write_text

MARGIN = 0.1
"""How far a range extends beyond the observed values, as a share."""
COMMON_WORDS = 40
"""The number of most frequent words that identify the captions' language."""

Item = dict[str, Any]


def propose_suites(dataset: Path, out: Path) -> list[str]:
    """Write suites derived from `dataset` to the folder `out`; return the descriptions of the derived expectations.

    Raises DataError if files of the data set are damaged, or `out` contains suites already.
    """
    dataset, out = dataset.expanduser(), out.expanduser()
    manifest = Manifest.read(dataset)
    if findings := verify(dataset):
        raise DataError(f"{dataset}: no suites can be derived from a damaged data set. {findings[0]}")
    if any(out.glob("*.json")):
        raise DataError(f"{out} has suites already. Name another folder, so that no edited suite is lost.")
    derived = {"manifest": list(_derive_manifest(manifest))}
    tables = DatasetTables(Dataset.open(dataset))
    derived |= {name: list(derive(tables.build(name))) for name, derive in _DERIVE.items()}
    for name, path in suites.find_suites().items():
        suite = suites.read_suite(path)
        suite["expectations"] = [item for item in suite["expectations"] if not _is_guess(item)] + derived.get(name, [])
        suite["notes"] = f"{suite['notes']} Derived from {manifest.name}, version {manifest.digest[:12]}."
        write_text(json.dumps(suite, indent=2, ensure_ascii=False) + "\n", out / f"{name}.json")
    return [f"{name}: {item['description']}" for name, items in derived.items() for item in items]


def _is_guess(item: Item) -> bool:
    """Return whether a derived expectation replaces this built-in one: the language's words, the range of norms."""
    kwargs = item["kwargs"]
    is_language = item["type"] == "expect_column_values_to_match_regex" and "mostly" in kwargs
    return is_language or kwargs.get("min_value") == {"$PARAMETER": "norm_low"}


def _make_item(description: str, kind: str, severity: str, **kwargs: Any) -> Item:
    return {"description": description, "severity": severity, "type": kind, "kwargs": kwargs}


def _make_range(what: str, column: str, low: float, high: float, severity: str = "warning", **more: Any) -> Item:
    text = f"{what} from {low:g} to {high:g}"
    kwargs = {"column": column, "min_value": low, "max_value": high, **more}
    return _make_item(text, "expect_column_values_to_be_between", severity, **kwargs)


def _widen_counts(values: pd.Series) -> tuple[int, int]:
    """Return the range of counts, widened by MARGIN on both sides, never below 1."""
    return max(1, math.floor(values.min() * (1 - MARGIN))), math.ceil(values.max() * (1 + MARGIN))


def _derive_manifest(manifest: Manifest) -> Iterator[Item]:
    for field in ("feature_dim", "feature_dtype", "feature_extractor"):
        value = getattr(manifest, field)
        kwargs = {"column": field, "value_set": [value]}
        yield _make_item(f"{field} is {value}", "expect_column_values_to_be_in_set", "critical", **kwargs)


def _derive_captions(table: SuiteTable) -> Iterator[Item]:
    texts = table.frame["text"]
    low, high = _widen_counts(texts.str.split().str.len())
    kwargs = {"column": "text", "min_value": low, "max_value": high}
    kind = "expect_column_values_to_have_word_count_between"
    yield _make_item(f"a caption has {low} to {high} words", kind, "warning", **kwargs)
    counts = Counter(word for text in table.frame["plain"] for word in set(text.split()) if word.isalpha())
    words = sorted(word for word, _ in counts.most_common(COMMON_WORDS))
    regex = rf"(?i)\b(?:{'|'.join(map(re.escape, words))})\b"
    share = math.floor(texts.str.contains(regex).mean() * (1 - MARGIN) * 100) / 100
    kwargs = {"column": "text", "mostly": share, "regex": regex}
    text = f"captions are in the data set's language: {share:.0%} have one of its {COMMON_WORDS} most frequent words"
    yield _make_item(text, "expect_column_values_to_match_regex", "critical", **kwargs)


def _derive_images(table: SuiteTable) -> Iterator[Item]:
    yield _make_range("captions per image:", "n_captions", *_widen_counts(table.frame["n_captions"]))
    yield _make_range("regions per image:", "n_regions", *_widen_counts(table.frame["n_regions"]))
    names = sorted(set(table.frame["split"]))
    kwargs = {"column": "split", "value_set": names}
    yield _make_item(f"a split is one of {', '.join(names)}", "expect_column_values_to_be_in_set", "warning", **kwargs)


def _derive_regions(table: SuiteTable) -> Iterator[Item]:
    norms = table.frame["norm"].to_numpy()
    low, high = (float(f"{value:.3g}") for value in np.quantile(norms, [0, 1]) * [1 - MARGIN, 1 + MARGIN])
    yield _make_range("99 % of the features have a norm", "norm", low, high, "critical", mostly=0.99)
    yield _make_range("a feature has a norm", "norm", low, high)


_DERIVE = {"captions": _derive_captions, "images": _derive_images, "regions": _derive_regions}

"""Proposing suites for a new data set: ours, with the ranges that the rows of a good data set keep to.

What is learned is written beside what we ask of every data set, or in its place where ours was a guess. A later version
of the data, or another set by the same detector, then shows where it leaves what was seen.
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
from expectations.tables import CheckedTable, DatasetTables
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.errors import DataError
from hire_model.files import write_text

ROOM = 0.1
"""How far beyond the seen a range reaches, as a share."""
COMMON_WORDS = 40
"""So many of the most frequent words are taken for the small words of the captions' language."""

Item = dict[str, Any]


def propose_suites(dataset: Path, out: Path) -> list[str]:
    """Write suites learned from `dataset` into the folder `out`, and return what was learned, in words.

    Raises DataError where the data set is not whole, or `out` has suites already.
    """
    dataset, out = dataset.expanduser(), out.expanduser()
    manifest = Manifest.read(dataset)
    if findings := verify(dataset):
        raise DataError(f"{dataset}: nothing can be learned from a data set that is not whole. {findings[0]}")
    if any(out.glob("*.json")):
        raise DataError(f"{out} has suites already. Name another folder, so that no edited suite is lost.")
    learned = {"manifest": list(_learn_manifest(manifest))}
    tables = DatasetTables(Dataset.open(dataset))
    learned |= {name: list(learn(tables.build(name))) for name, learn in _LEARN.items()}
    for name, path in suites.find_suites().items():
        suite = suites.read_suite(path)
        suite["expectations"] = [item for item in suite["expectations"] if not _is_guess(item)] + learned.get(name, [])
        suite["notes"] = f"{suite['notes']} Learned from {manifest.name}, version {manifest.digest[:12]}."
        write_text(json.dumps(suite, indent=2, ensure_ascii=False) + "\n", out / f"{name}.json")
    return [f"{name}: {item['description']}" for name, items in learned.items() for item in items]


def _is_guess(item: Item) -> bool:
    """Whether an expectation of ours gives way to what was learned: the language's words, the range of norms."""
    kwargs = item["kwargs"]
    words = item["type"] == "expect_column_values_to_match_regex" and "mostly" in kwargs
    return words or kwargs.get("min_value") == {"$PARAMETER": "norm_low"}


def _make_item(description: str, kind: str, severity: str, **kwargs: Any) -> Item:
    return {"description": description, "severity": severity, "type": kind, "kwargs": kwargs}


def _make_range(what: str, column: str, low: float, high: float, severity: str = "warning", **more: Any) -> Item:
    text = f"{what} from {low:g} to {high:g}"
    kwargs = {"column": column, "min_value": low, "max_value": high, **more}
    return _make_item(text, "expect_column_values_to_be_between", severity, **kwargs)


def _widen_counts(values: pd.Series) -> tuple[int, int]:
    """The range of some counts with room on both sides, never below 1."""
    return max(1, math.floor(values.min() * (1 - ROOM))), math.ceil(values.max() * (1 + ROOM))


def _learn_manifest(manifest: Manifest) -> Iterator[Item]:
    for field in ("feature_dim", "feature_dtype", "feature_extractor"):
        value = getattr(manifest, field)
        kwargs = {"column": field, "value_set": [value]}
        yield _make_item(f"{field} is {value}", "expect_column_values_to_be_in_set", "critical", **kwargs)


def _learn_captions(table: CheckedTable) -> Iterator[Item]:
    texts = table.frame["text"]
    low, high = _widen_counts(texts.str.split().str.len())
    kwargs = {"column": "text", "min_value": low, "max_value": high}
    kind = "expect_column_values_to_have_word_count_between"
    yield _make_item(f"a caption has {low} to {high} words", kind, "warning", **kwargs)
    counted = Counter(word for text in table.frame["plain"] for word in set(text.split()) if word.isalpha())
    words = sorted(word for word, _ in counted.most_common(COMMON_WORDS))
    regex = rf"(?i)\b(?:{'|'.join(map(re.escape, words))})\b"
    share = math.floor(texts.str.contains(regex).mean() * (1 - ROOM) * 100) / 100
    kwargs = {"column": "text", "mostly": share, "regex": regex}
    text = f"captions are in the language learned: {share:.0%} have one of its {COMMON_WORDS} most frequent words"
    yield _make_item(text, "expect_column_values_to_match_regex", "critical", **kwargs)


def _learn_images(table: CheckedTable) -> Iterator[Item]:
    yield _make_range("captions per image:", "n_captions", *_widen_counts(table.frame["n_captions"]))
    yield _make_range("regions per image:", "n_regions", *_widen_counts(table.frame["n_regions"]))
    names = sorted(set(table.frame["split"]))
    kwargs = {"column": "split", "value_set": names}
    yield _make_item(f"a split is one of {', '.join(names)}", "expect_column_values_to_be_in_set", "warning", **kwargs)


def _learn_regions(table: CheckedTable) -> Iterator[Item]:
    norms = table.frame["norm"].to_numpy()
    low, high = (float(f"{value:.3g}") for value in np.quantile(norms, [0, 1]) * [1 - ROOM, 1 + ROOM])
    yield _make_range("99 of 100 features have a norm", "norm", low, high, "critical", mostly=0.99)
    yield _make_range("a feature has a norm", "norm", low, high)


_LEARN = {"captions": _learn_captions, "images": _learn_images, "regions": _learn_regions}

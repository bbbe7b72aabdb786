"""Identify a training by its settings, its data and, if changes of the code matter, its code.

In `settings/groups.py`, `MAY_CHANGE_ON_RESUME` marks the settings that may change when a training is resumed, and
`AFFECTS_NOTHING` marks those that change neither weights nor figures.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from hire_model.settings.groups import AFFECTS_NOTHING, MAY_CHANGE_ON_RESUME, Settings
from hire_model.settings.resolve import flatten


def select_weight_settings(settings: Settings) -> dict[str, Any]:
    """Select the settings that must not change when a training is resumed, as dotted keys and JSON values."""
    return _select(settings, {""})


def select_result_settings(settings: Settings) -> dict[str, Any]:
    """Select the settings that affect the weights or the figures, as dotted keys and JSON values."""
    return _select(settings, {"", MAY_CHANGE_ON_RESUME["mark"]})


def changes_result(key: str) -> bool:
    """Return whether the value of the dotted `key` affects the weights or the figures."""
    return _read_marks().get(key) != AFFECTS_NOTHING["mark"]


def compute_training_key(settings: Settings, data: Any, code: str = "") -> str:
    """Compute the digest that identifies a training and its figures.

    Args:
        settings: all settings.
        data: digest of the data set, or another JSON value that identifies the data.
        code: digest of the source code, for results that must be computed again after a change of the code.
    """
    return hash_json(data, select_result_settings(settings), *([code] if code else []))


def hash_json(*parts: Any) -> str:
    """Return the SHA-256 of `parts` as JSON; other types, such as paths, are converted to text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _select(settings: Settings, effects: set[Any]) -> dict[str, Any]:
    marks, flat = _read_marks(), flatten(settings.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if marks[key] in effects}


@cache
def _read_marks() -> dict[str, str]:
    """Return the mark of each dotted key, or "" for a key without a mark."""
    return dict(_list_marks(Settings, "", ""))


def _list_marks(group: type[BaseModel], prefix: str, inherited: str) -> list[tuple[str, str]]:
    """List (key, mark) of all fields; a field without a mark has the mark of its group."""
    marks: list[tuple[str, str]] = []
    for name, field in group.model_fields.items():
        extra = field.json_schema_extra
        mark = str(extra.get("mark", inherited)) if isinstance(extra, dict) else inherited
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            marks += _list_marks(kind, f"{prefix}{name}.", mark)
        else:
            marks.append((prefix + name, mark))
    return marks

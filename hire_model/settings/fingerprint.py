"""What identifies a training: its settings, its data and, where code changes must count, its code.

Which settings count is marked at their fields (`RESULT` and `NOTHING` in `settings/groups.py`).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from hire_model.settings.groups import NOTHING, RESULT, Settings
from hire_model.settings.resolve import flatten


def select_weight_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that a resumed training must share with its checkpoint, as dotted keys and JSON values."""
    return _select(settings, {""})


def select_result_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide the weights and the figures, as dotted keys and JSON values."""
    return _select(settings, {"", RESULT["identifies"]})


def changes_result(key: str) -> bool:
    """Return whether another value of the dotted `key` gives other weights or other figures."""
    return _read_marks().get(key) != NOTHING["identifies"]


def compute_training_key(settings: Settings, data: Any, code: str = "") -> str:
    """Return the digest that identifies a training together with its figures.

    data: the data set's digest, or anything JSON-able that identifies the data; code: digest of the source code, for
    callers whose results must not outlive a change of the code.
    """
    return hash_json(data, select_result_settings(settings), *([code] if code else []))


def hash_json(*parts: Any) -> str:
    """Return the SHA-256 of JSON-able parts; paths and the like count by their text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _select(settings: Settings, identifies: set[Any]) -> dict[str, Any]:
    marks, flat = _read_marks(), flatten(settings.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if marks[key] in identifies}


@cache
def _read_marks() -> dict[str, str]:
    """Return each dotted key with what it identifies: "nothing", "result", or "" for the weights."""
    return dict(_walk(Settings, "", ""))


def _walk(group: type[BaseModel], prefix: str, inherited: str) -> list[tuple[str, str]]:
    marks: list[tuple[str, str]] = []
    for name, field in group.model_fields.items():
        extra = field.json_schema_extra
        mark = str(extra.get("identifies", inherited)) if isinstance(extra, dict) else inherited
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            marks += _walk(kind, f"{prefix}{name}.", mark)
        else:
            marks.append((prefix + name, mark))
    return marks

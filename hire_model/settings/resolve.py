"""Merge the layers of settings, and record the layer that each value comes from."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource

from hire_model.errors import SettingsError
from hire_model.settings.groups import ENV_PREFIX, ModelSettings, Settings

PACKAGE_FOLDER = Path(__file__).parent.parent
# Environment variables with the same prefix that are not settings; other modules read them.
_OTHER_VARIABLES = {
    "HIRE_SHARED_DATA", "HIRE_CACHE", "HIRE_FUSED", "HIRE_GALLERIES", "HIRE_JOURNAL", "HIRE_JOURNAL_SHARE",
    "HIRE_JOURNAL_TEXT",
}  # fmt: skip


@dataclass(frozen=True)
class ResolvedSettings:
    """The result of `resolve`.

    Attributes:
        settings: the validated settings.
        origins: the layer of each dotted key: default, preset, recipe, environment or command line.
    """

    settings: Settings
    origins: dict[str, str]


def resolve(
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> ResolvedSettings:
    """Merge the layers of settings: preset < recipe < environment < command line.

    Args:
        recipe: name of a file in `hire_model/recipes`, or path of a TOML file.
        overrides: values of the command line, as {"train.epochs": 5} or ["train.epochs=5"].
        environ: environment variables; default `os.environ`.

    Raises:
        SettingsError: an unknown key or invalid value. The message names the key, its layer and the nearest known key.

    Examples:
        >>> resolved = resolve("synthetic", {"train.epochs": 5})
        >>> resolved.settings.train.epochs, resolved.origins["train.epochs"]
        (5, 'command line')
    """
    environ = os.environ if environ is None else environ
    upper = {
        **_label_values(_read_recipe(recipe) if recipe else {}, f"recipe {recipe}"),
        **_label_values(_read_environment(environ), "environment"),
        **_label_values(overrides if isinstance(overrides, Mapping) else _parse_overrides(overrides), "command line"),
    }
    preset = upper.get("model.preset", (ModelSettings().preset, ""))[0]
    merged = {**_label_values(_read_preset(preset), f"preset {preset}"), **upper}
    for key, (_, origin) in merged.items():
        _check_known(key, origin)
    try:
        settings = Settings(**_nest({key: value for key, (value, _) in merged.items()}))
    except ValidationError as error:
        raise SettingsError(_format_errors(error, merged)) from error
    return ResolvedSettings(settings, {key: merged.get(key, (None, "default"))[1] for key in list_keys()})


def list_keys(group: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """List all dotted keys in the order of declaration."""
    keys = []
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += list_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def list_recipes() -> list[str]:
    """List the names of the recipes in the package."""
    return sorted(path.stem for path in (PACKAGE_FOLDER / "recipes").glob("*.toml"))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"train": {"epochs": 5}} into {"train.epochs": 5}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _label_values(values: Mapping[str, Any], origin: str) -> dict[str, tuple[Any, str]]:
    """Flatten `values` into {dotted key: (value, origin)}."""
    return {key: (value, origin) for key, value in flatten(values).items()}


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"train.epochs": 5} into {"train": {"epochs": 5}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


def _read_preset(name: str) -> dict[str, Any]:
    path = PACKAGE_FOLDER / "presets" / f"{name}.toml"
    return _read_toml(path) if path.is_file() else {}  # validation rejects an unknown preset


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    packaged = PACKAGE_FOLDER / "recipes" / f"{recipe}.toml"
    path = packaged if packaged.is_file() else Path(recipe).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(str(recipe), list_recipes(), 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SettingsError(f"recipe '{recipe}': neither a file nor one of {', '.join(list_recipes())}.{hint}")
    return _read_toml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read HIRE_TRAIN__EPOCHS=5 as {"train": {"epochs": "5"}}. Raises SettingsError for unknown keys."""
    variables = {k: v for k, v in environ.items() if k.startswith(ENV_PREFIX) and k not in _OTHER_VARIABLES}
    names = {name[len(ENV_PREFIX) :].lower().replace("__", "."): name for name in variables}
    for key, name in names.items():
        _check_known(key, f"environment variable {name}")
    source = EnvSettingsSource(Settings)
    source.env_vars = {k.lower(): v for k, v in variables.items()}
    return source()


def _parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """Parse ["train.epochs=5"] into {"train.epochs": "5"}."""
    parsed = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(f"--set {item}: expected KEY=VALUE, such as train.epochs=5.")
        parsed[key.strip()] = value.strip()
    return parsed


def _check_known(key: str, origin: str) -> None:
    """Raise SettingsError with the nearest known key if `key` is not a setting."""
    keys = list_keys()
    if key in keys:
        return
    members = [k for k in keys if k.startswith(f"{key}.")]
    if members:
        raise SettingsError(f"{origin}: '{key}' is a group of settings; name one of them, such as '{members[0]}'.")
    near = difflib.get_close_matches(key, keys, 1, 0.5) or [k for k in keys if k.endswith("." + key)][:1]
    hint = f" Did you mean '{near[0]}'?" if near else " 'hire config show' lists all keys."
    raise SettingsError(f"{origin}: unknown setting '{key}'.{hint}")


def _format_errors(error: ValidationError, merged: Mapping[str, tuple[Any, str]]) -> str:
    """Format all errors in one line: key, reason, value and layer."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        origin = f" (from {merged[key][1]})" if key in merged else ""
        value = f", given {merged[key][0]!r}" if key in merged else ""
        lines.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{value}{origin}")
    return "settings: " + "; ".join(lines)

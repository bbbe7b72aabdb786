"""Suites as JSON files: reading them, and writing proposed ones the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hire_model.errors import DataError

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite

OURS: Final = Path(__file__).parent / "suites"
NAMES: Final = ("manifest", "captions", "images", "relations", "regions", "splits")


def paths(folder: Path | None = None) -> dict[str, Path]:
    """The file of each suite, by name: that of `folder` where it has one, and ours else.

    Raises DataError where the folder is not there, has no suite, or has one of a table that we do not know.
    """
    found = {name: OURS / f"{name}.json" for name in NAMES}
    if folder is None:
        return found
    own = {path.stem: path for path in sorted(folder.expanduser().glob("*.json"))}
    if not own or (unknown := sorted(own.keys() - found.keys())):
        what = f"{unknown[0]}.json is no suite" if own else "no suites (*.json) here"
        raise DataError(f"{folder}: {what}; a suite is called one of {', '.join(f'{name}.json' for name in NAMES)}.")
    return found | own


def read(path: Path) -> dict[str, Any]:
    """The suite in `path` as it is written there. Raises DataError where it is not one."""
    try:
        suite = json.loads(path.read_text("utf-8"))
        for number, item in enumerate(suite["expectations"]):
            missing = {"description", "severity", "type", "kwargs"} - item.keys()
            if missing or item["severity"] not in ("critical", "warning"):
                wrong = f"'{min(missing)}' is missing" if missing else f"severity is '{item['severity']}'"
                raise DataError(
                    f"{path}: expectation {number}: {wrong}. Expected description, type, kwargs, and a severity of "
                    "critical (an error) or warning."
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a suite: {error!r}. Expected what expectations/suites has.") from error
    return suite


def build(path: Path) -> ExpectationSuite:
    """The suite in `path` for Great Expectations. Raises DataError naming the expectation that it does not take."""
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    import expectations.custom  # noqa: F401  registers our own

    suite, built = read(path), []
    for number, item in enumerate(suite["expectations"]):
        try:
            built.append(ExpectationConfiguration(**item).to_domain_obj())
        except Exception as error:  # whatever Great Expectations or its pydantic says of it
            raise DataError(f"{path}: expectation {number} ({item['type']}): {error}") from error
    return ExpectationSuite(name=path.stem, expectations=built, notes=suite.get("notes"))

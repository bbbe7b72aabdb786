"""Find, read and build suites, which are JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hire_model.errors import DataError

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite

SUITE_FOLDER: Final = Path(__file__).parent / "suites"
SUITE_NAMES: Final = ("manifest", "captions", "images", "relations", "regions", "splits", "meaning")


def find_suites(folder: Path | None = None) -> dict[str, Path]:
    """Return the file of each suite by name: the one in `folder` if it exists there, otherwise the built-in one.

    Raises DataError if the folder does not exist, contains no suites, or contains a suite of an unknown name.
    """
    paths = {name: SUITE_FOLDER / f"{name}.json" for name in SUITE_NAMES}
    if folder is None:
        return paths
    custom = {path.stem: path for path in sorted(folder.expanduser().glob("*.json"))}
    if not custom or (unknown := sorted(custom.keys() - paths.keys())):
        what = f"{unknown[0]}.json is not the name of a suite" if custom else "no suites (*.json) here"
        raise DataError(f"{folder}: {what}. Expected one or more of {', '.join(f'{name}.json' for name in paths)}.")
    return paths | custom


def read_suite(path: Path) -> dict[str, Any]:
    """Read the suite in `path` as JSON. Raises DataError if it is not a suite."""
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
        raise DataError(f"{path}: not a suite: {error!r}. Expected the format of expectations/suites.") from error
    return suite


def build_suite(path: Path) -> ExpectationSuite:
    """Build the suite in `path` for Great Expectations. Raises DataError naming an expectation that it rejects."""
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    import expectations.custom  # noqa: F401  registers the custom expectations

    suite, built = read_suite(path), []
    for number, item in enumerate(suite["expectations"]):
        try:
            built.append(ExpectationConfiguration(**item).to_domain_obj())
        except Exception as error:  # Great Expectations and pydantic raise many types
            raise DataError(f"{path}: expectation {number} ({item['type']}): {error}") from error
    return ExpectationSuite(name=path.stem, expectations=built, notes=suite.get("notes"))

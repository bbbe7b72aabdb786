"""What packaging reads from and writes to the registry: a version's example request, and where its archive is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import TrackingError, connect, first_line
from hire_model.tracking.versions import Version, find, set_tags

PATH, SHA256 = "archive.path", "archive.sha256"


@dataclass(frozen=True)
class Archive:
    """A version's archive, as recorded in the registry."""

    version: Version
    path: Path
    sha256: str


def read_example_request(version: Version, settings: TrackingSettings) -> dict[str, list[dict[str, Any]]]:
    """Return the request to score pairs that was registered with the version as its input example.

    Raises TrackingError if it has none.
    """
    connect(settings)
    import mlflow

    from hire_model.tracking.pyfunc_model import REQUEST

    try:
        folder = mlflow.artifacts.download_artifacts(version.uri)
        example: Any = mlflow.models.Model.load(folder).load_input_example(folder)  # a table, as it was logged
        request = None if example is None else json.loads(example[REQUEST][0])
    except Exception as error:
        raise TrackingError(f"{version.uri}: its example request cannot be read: {first_line(error)}.") from error
    if request is None:
        raise TrackingError(f"{version.uri} has no example request; 'hire train' registers versions with one.")
    return request


def record_archive(version: Version, settings: TrackingSettings, path: Path, sha256: str) -> None:
    """Write the path of the version's archive, and its SHA-256, to the version's tags."""
    set_tags(settings, version, {PATH: str(path.resolve()), SHA256: sha256})


def find_archive(version: str, settings: TrackingSettings) -> Archive:
    """Return the archive of a version. Raises TrackingError if it was not packaged yet."""
    found = find(settings, version)
    if PATH not in found.tags or SHA256 not in found.tags:
        raise TrackingError(
            f"Version {found.number} of {found.name} ('{version}') has no archive yet. Make it: "
            f"hire package --version {found.number}"
        )
    return Archive(found, Path(found.tags[PATH]), found.tags[SHA256])

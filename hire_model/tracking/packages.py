"""What packaging asks of the registry, and tells it: an example request, and where a version's archive lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hire_model.settings import TrackingSettings
from hire_model.tracking.run import TrackingError, connect, first_line
from hire_model.tracking.versions import Version, find, tell

PATH, SHA256 = "archive.path", "archive.sha256"


@dataclass(frozen=True)
class Archive:
    """A version's archive as the registry knows it."""

    version: Version
    path: Path
    sha256: str


def example_request(version: Version, settings: TrackingSettings) -> dict[str, list[dict[str, Any]]]:
    """The request to score pairs that was registered with the version as its input example.

    Raises TrackingError where it has none.
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


def record(version: Version, settings: TrackingSettings, path: Path, sha256: str) -> None:
    """Tell the registry where the archive of `version` lies, and its SHA-256."""
    tell(settings, version, {PATH: str(path.resolve()), SHA256: sha256})


def packaged(version: str, settings: TrackingSettings) -> Archive:
    """The archive of a version. Raises TrackingError where it was not packaged yet."""
    found = find(settings, version)
    if PATH not in found.tags or SHA256 not in found.tags:
        raise TrackingError(
            f"Version {found.number} of {found.name} ('{version}') has no archive yet. Make it: "
            f"hire package --version {found.number}"
        )
    return Archive(found, Path(found.tags[PATH]), found.tags[SHA256])

"""Find, list and tag the versions of the registered model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import TrackingError, connect, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from hire_model.gate import Decision

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
DECISION, JUDGED_AGAINST = "gate.decision", "gate.champion"
RSUM, _CHECK = "gate.rsum", "gate.check."
NO_VERSION = "none"  # the value of a tag that has no version number
PASSED, FAILED, RUNNING, STOPPED = "passed", "failed", "running", "stopped"
DECISION_FILE = "decision.json"
DESCRIPTION_LIMIT = 5000  # characters, MLflow's column; a tag's value has the same
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_PAGE = 200


@dataclass(frozen=True)
class Version:
    """One version of the registered model, as it was when it was read."""

    name: str
    number: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """Return the address that loads it: models:/hire/3."""
        return f"models:/{self.name}/{self.number}"


@contextmanager
def open_registry(settings: TrackingSettings, action: str) -> Iterator[MlflowClient]:
    """Connect to the store and return its client; errors inside read "MLflow's store ... did not ACTION"."""
    connect(settings)
    with translate_errors(action):
        from mlflow import MlflowClient

        yield MlflowClient()


def find(settings: TrackingSettings, version: str) -> Version:
    """Return the version with that number or alias. Raises TrackingError that lists the existing versions."""
    name = settings.model_name
    with open_registry(settings, f"look for version '{version}' of '{name}'") as client:
        found = find_in(client, name, version)
    if found is not None:
        return found
    known = list_versions(settings)
    have = ", ".join(" = ".join([one.number, *one.aliases]) for one in known[:10])
    there = f"there are {have}" if known else "the model has none yet; 'hire train' registers one"
    raise TrackingError(f"'{name}' has no version or alias '{version}': {there}. See 'hire registry show'.")


def find_in(client: MlflowClient, name: str, version: str) -> Version | None:
    """Return the version with that number or alias, or None; for callers that hold a client of `open_registry`."""
    from mlflow.exceptions import MlflowException

    if not version:
        return None
    try:
        by_number = version.isdecimal()
        get = client.get_model_version if by_number else client.get_model_version_by_alias
        return _read(get(name, version))
    except MlflowException as error:
        if error.error_code == _MISSING or "not found" in str(error).lower():
            return None
        raise


def find_champion(settings: TrackingSettings) -> Version | None:
    """Return the version in force, or None if none was promoted yet."""
    with open_registry(settings, f"look for the champion of '{settings.model_name}'") as client:
        return find_in(client, settings.model_name, CHAMPION)


def list_versions(settings: TrackingSettings) -> list[Version]:
    """Return all versions, the newest first; an empty list if none was registered."""
    name, found, token = settings.model_name, [], None
    with open_registry(settings, f"list the versions of '{name}'") as client:
        while token != "":
            page = client.search_model_versions(f"name = '{name}'", _PAGE, ["version_number DESC"], token)
            found += [_read(one) for one in page]
            token = page.token or ""
        aliases = client.get_registered_model(name).aliases if found else {}  # a search leaves them out
    return [replace(one, aliases=tuple(sorted(a for a, n in aliases.items() if str(n) == one.number))) for one in found]


def set_tags(settings: TrackingSettings, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version in the order given; a value that is too long for the store is truncated."""
    with open_registry(settings, f"write to version {version.number} of '{version.name}'") as client:
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, truncate(value))


def record_decision(settings: TrackingSettings, version: Version, decision: Decision) -> None:
    """Write a gate decision to the version's tags: details first, the tag that says whether it passed last."""
    conditions, now = decision.evidence.ground, find(settings, version.number)
    tags = {
        JUDGED_AGAINST: decision.champion or NO_VERSION,
        "gate.reasons": "\n".join(decision.reasons()) or "none",
        "gate.data.digest": conditions.digest,
        "gate.split": f"{conditions.split}, {conditions.images} images",
        "gate.protocol": conditions.protocol,
        RSUM: f"{decision.evidence.figures[f'{conditions.protocol}/rsum']:.2f}",
        "gate.date": decision.evidence.facts.get("date", ""),
        **{f"{_CHECK}{result.name}": f"{result.verdict}: {result.words}" for result in decision.checks},
    }
    with open_registry(settings, f"forget an earlier decision about version {version.number}") as client:
        for key in now.tags:
            if key.startswith(_CHECK) and key not in tags:
                client.delete_model_version_tag(version.name, version.number, key)
    set_tags(settings, version, tags | {DECISION: PASSED if decision.passed else FAILED})


def set_description(settings: TrackingSettings, version: Version, text: str) -> None:
    """Set a version's description; MLflow shows it as Markdown."""
    with open_registry(settings, f"describe version {version.number} of '{version.name}'") as client:
        client.update_model_version(version.name, version.number, truncate(text))


def log_artifact(settings: TrackingSettings, version: Version, path: Path, folder: str | None = None) -> None:
    """Upload a file to the run that made the version, below `folder`; do nothing if the version has no run."""
    if version.run_id:
        with open_registry(settings, f"keep {path.name} with run {version.run_id}") as client:
            client.log_artifact(version.run_id, str(path), folder)


def read_artifact(settings: TrackingSettings, version: Version, path: str) -> str | None:
    """Return the text of an artifact of the version's run, or None if there is none."""
    if not version.run_id:
        return None
    folder, _, _ = path.rpartition("/")
    with open_registry(settings, f"give {path} of run {version.run_id}") as client:
        if path not in {found.path for found in client.list_artifacts(version.run_id, folder or None)}:
            return None
        return Path(client.download_artifacts(version.run_id, path)).read_text("utf-8")


def gate_folder(version: Version) -> str:
    """Return the artifact folder of a version's gate; a run that is resumed may make several versions."""
    return f"gate/version-{version.number}"


def truncate(text: str, limit: int = DESCRIPTION_LIMIT) -> str:
    """Return `text`, or as many whole lines as fit in `limit` characters, followed by "(cut)"."""
    if len(text) <= limit:
        return text
    more = "\n\n(cut)"
    head = text[: limit - len(more)]
    return (head[: head.rfind("\n")] if "\n" in head else head) + more


def _read(found: ModelVersion) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", tuple(sorted(found.aliases)), dict(found.tags))

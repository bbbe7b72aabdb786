"""Find, list and tag the versions of the registered model; record the gate's decision and the archive of a version."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hire_model.settings import TrackingSettings
from hire_model.storage import fetch, is_address
from hire_model.tracking.connection import TrackingError, connect, tracking_uri, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from hire_model.gate import Decision

# Aliases.
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
# Tags of a version.
DECISION, REASONS, COMPARED_WITH = "gate.decision", "gate.reasons", "gate.champion"
RSUM, _CHECK = "gate.rsum", "gate.check."
DATA_DIGEST, DATA_SPLIT = "data.digest", "split"  # of the training's data, and of its evaluation
TRAINED_RSUM = "rsum"  # on the evaluation split of the training; the other figures are metrics of the logged model
ARCHIVE_PATH, ARCHIVE_SHA256 = "archive.path", "archive.sha256"
ARTIFACT_SHA256, ARTIFACT_FILES = "artifact.sha256", "artifact.files"  # of the model folder, see trust.py
GATED_SHA256 = "gate.artifact.sha256"  # of the model folder that the gate judged
GOLDEN_SCORES = "golden.scores"  # of the example pairs at registration
NO_VERSION = "none"  # the value of a tag for a version number, if there is no such version
# Values of the tag gate.decision; promotion.py has one more.
PASSED, FAILED, RUNNING, STOPPED = "passed", "failed", "running", "stopped"

DECISION_FILE = "decision.json"
DESCRIPTION_LIMIT = 5000  # characters; MLflow's limit for a description and for the value of a tag
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_PAGE = 200  # versions per request


@dataclass(frozen=True)
class Version:
    """A version of the registered model, as read from the store; later changes are not visible.

    model_id: id of the logged model, which has the metrics. MLflow stores it as the source of the version. It is
    "" if the version has another source.
    """

    name: str
    number: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    model_id: str = ""

    @property
    def uri(self) -> str:
        """Return the address to load the version, such as models:/hire/3."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Archive:
    """The archive of a version, as recorded in its tags."""

    version: Version
    path: Path
    sha256: str


@contextmanager
def open_registry(settings: TrackingSettings, action: str) -> Iterator[MlflowClient]:
    """Connect to the store and yield its client. action: what the block does, for `translate_errors`."""
    connect(settings)
    with translate_errors(action):
        from mlflow import MlflowClient

        yield MlflowClient()


def find(settings: TrackingSettings, version: str) -> Version:
    """Return the version with this number or alias. Raise TrackingError that lists the existing versions."""
    name = settings.model_name
    with open_registry(settings, f"find version '{version}' of '{name}'") as client:
        found = find_in(client, name, version)
        hint = "" if found else suggest_alias(client, name, version)
    if found is not None:
        return found
    existing = ", ".join(" = ".join([each.number, *each.aliases]) for each in list_versions(settings)[:10])
    listing = f"there are {existing}" if existing else "the model has none yet; 'hire train' registers one"
    raise TrackingError(f"'{name}' has no version or alias '{version}': {listing}.{hint} See 'hire registry show'.")


def find_in(client: MlflowClient, name: str, version: str) -> Version | None:
    """Return the version with this number or alias, or None. For callers that have a client of `open_registry`."""
    from mlflow.exceptions import MlflowException

    if not version:
        return None
    try:
        is_number = version.isdecimal()
        get = client.get_model_version if is_number else client.get_model_version_by_alias
        return _make_version(get(name, version))
    except MlflowException as error:
        if error.error_code == _MISSING or "not found" in str(error).lower():
            return None
        raise


def suggest_alias(client: MlflowClient, name: str, alias: str) -> str:
    """Return " Did you mean 'champion'?" with the alias of the model nearest to `alias`, or "" if none is near."""
    from mlflow.exceptions import MlflowException

    try:
        near = difflib.get_close_matches(alias, client.get_registered_model(name).aliases, 1)
    except MlflowException:  # there is no such model
        return ""
    return f" Did you mean '{near[0]}'?" if near else ""


def find_champion(settings: TrackingSettings) -> Version | None:
    """Return the champion, or None if no version was promoted yet."""
    with open_registry(settings, f"find the champion of '{settings.model_name}'") as client:
        return find_in(client, settings.model_name, CHAMPION)


def list_versions(settings: TrackingSettings) -> list[Version]:
    """Return all versions, the newest first, or an empty list if none is registered."""
    name, token = settings.model_name, None
    versions: list[Version] = []
    with open_registry(settings, f"list the versions of '{name}'") as client:
        while token != "":
            page = client.search_model_versions(f"name = '{name}'", _PAGE, ["version_number DESC"], token)
            versions += [_make_version(each) for each in page]
            token = page.token or ""
        # The search does not return aliases.
        aliases = client.get_registered_model(name).aliases if versions else {}
    return [
        replace(version, aliases=tuple(sorted(a for a, number in aliases.items() if str(number) == version.number)))
        for version in versions
    ]


def find_by_address(settings: TrackingSettings, address: str) -> Version | None:
    """Return the version at models:/NAME@ALIAS or models:/NAME/NUMBER, or None for another address or no version."""
    match = re.fullmatch(r"models:/([^/@]+)[/@](.+)", address)
    if match is None:
        return None
    name, version = match.groups()
    with open_registry(settings, f"find {address}") as client:
        return find_in(client, name, version)


def set_tags(settings: TrackingSettings, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version in this order. A value that is too long for the store is truncated."""
    with open_registry(settings, f"set tags of version {version.number} of '{version.name}'") as client:
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, truncate(value))


def record_decision(settings: TrackingSettings, version: Version, decision: Decision) -> None:
    """Write a gate decision to the version's tags: first the details, then gate.decision, which `promote` reads."""
    conditions, present = decision.evidence.ground, find(settings, version.number)
    tags = {
        COMPARED_WITH: decision.champion or NO_VERSION,
        REASONS: "\n".join(decision.reasons()) or "none",
        "gate.data.digest": conditions.digest,
        "gate.split": f"{conditions.split}, {conditions.images} images",
        "gate.protocol": conditions.protocol,
        RSUM: f"{decision.evidence.figures[f'{conditions.protocol}/rsum']:.2f}",
        "gate.date": decision.evidence.facts.get("date", ""),
        GATED_SHA256: decision.evidence.facts.get(ARTIFACT_SHA256, ""),
        **{f"{_CHECK}{result.name}": f"{result.verdict}: {result.words}" for result in decision.checks},
    }
    with open_registry(settings, f"delete an earlier decision about version {version.number}") as client:
        for key in present.tags:
            if key.startswith(_CHECK) and key not in tags:
                client.delete_model_version_tag(version.name, version.number, key)
    set_tags(settings, version, tags | {DECISION: PASSED if decision.passed else FAILED})


def set_description(settings: TrackingSettings, version: Version, text: str) -> None:
    """Set a version's description; MLflow shows it as Markdown."""
    with open_registry(settings, f"set the description of version {version.number} of '{version.name}'") as client:
        client.update_model_version(version.name, version.number, truncate(text))


def log_artifact(settings: TrackingSettings, version: Version, path: Path, folder: str | None = None) -> None:
    """Upload a file to `folder` of the run that made the version. Do nothing if the version has no run."""
    if version.run_id:
        with open_registry(settings, f"store {path.name} in run {version.run_id}") as client:
            client.log_artifact(version.run_id, str(path), folder)


def read_artifact(settings: TrackingSettings, version: Version, path: str) -> str | None:
    """Return the text of an artifact of the version's run, or None if the run or the artifact does not exist."""
    folder, _, name = path.rpartition("/")
    if name not in list_artifacts(settings, version, folder):
        return None
    with open_registry(settings, f"read {path} of run {version.run_id}") as client:
        return Path(client.download_artifacts(version.run_id, path)).read_text("utf-8")


def list_artifacts(settings: TrackingSettings, version: Version, folder: str) -> list[str]:
    """Return the names of the artifacts in `folder` of the version's run; an empty list if it has no run."""
    if not version.run_id:
        return []
    with open_registry(settings, f"list {folder} of run {version.run_id}") as client:
        return [artifact.path.rpartition("/")[2] for artifact in client.list_artifacts(version.run_id, folder or None)]


def link_artifact(settings: TrackingSettings, version: Version, path: str) -> str:
    """Return the address of an artifact of the version's run in MLflow's interface, "" if the store is not a server."""
    address = tracking_uri(settings).rstrip("/")
    if not version.run_id or not address.startswith(("http://", "https://")):
        return ""
    with open_registry(settings, f"find run {version.run_id}") as client:
        experiment = client.get_run(version.run_id).info.experiment_id
    return f"{address}/#/experiments/{experiment}/runs/{version.run_id}/artifacts/{path}"


def read_data_folder(settings: TrackingSettings, version: Version) -> Path | None:
    """Return the folder of the data set that the version's run used (`TrackedRun.log_dataset`), or None."""
    if not version.run_id:
        return None
    with open_registry(settings, f"read the data set of run {version.run_id}") as client:
        inputs = client.get_run(version.run_id).inputs
    logged = inputs.dataset_inputs if inputs is not None else []
    folders = (json.loads(each.dataset.source).get("uri", "") for each in logged if each.dataset.source_type == "local")
    return next((Path(folder) for folder in folders if folder), None)


def gate_folder(version: Version) -> str:
    """Return the artifact folder for the gate of a version. One run can make several versions if it is resumed."""
    return f"gate/version-{version.number}"


def record_archive(version: Version, settings: TrackingSettings, place: str, sha256: str) -> None:
    """Write the absolute path or address, and the SHA-256, of the version's archive to the version's tags."""
    set_tags(settings, version, {ARCHIVE_PATH: place, ARCHIVE_SHA256: sha256})


def find_archive(version: str, settings: TrackingSettings) -> Archive:
    """Return the archive of the version with this number or alias; fetch it if it is on object storage.

    Raises TrackingError if the version has no archive yet.
    """
    found = find(settings, version)
    if ARCHIVE_PATH not in found.tags or ARCHIVE_SHA256 not in found.tags:
        raise TrackingError(
            f"Version {found.number} of {found.name} ('{version}') has no archive yet. Make it: "
            f"hire package --version {found.number}"
        )
    place = found.tags[ARCHIVE_PATH]
    folder, _, name = place.rpartition("/")
    return Archive(found, fetch(folder) / name if is_address(place) else Path(place), found.tags[ARCHIVE_SHA256])


def truncate(text: str, limit: int = DESCRIPTION_LIMIT) -> str:
    """Return `text`, or the whole lines of it that fit in `limit` characters, followed by "(cut)"."""
    if len(text) <= limit:
        return text
    mark = "\n\n(cut)"
    head = text[: limit - len(mark)]
    return (head[: head.rfind("\n")] if "\n" in head else head) + mark


def _make_version(found: ModelVersion) -> Version:
    return Version(
        name=found.name,
        number=str(found.version),
        run_id=found.run_id or "",
        aliases=tuple(sorted(found.aliases)),
        tags=dict(found.tags),
        model_id=model[1] if (model := re.fullmatch(r"models:/(m-\w+)", found.source or "")) else "",
    )

"""Versions of the registered model: found by number or alias, listed, and told things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hire_model.settings import TrackingSettings
from hire_model.tracking.run import TrackingError, connect, telling

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from hire_model.gate import Decision

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
DECISION, JUDGED_AGAINST = "gate.decision", "gate.champion"
RSUM, _CHECK = "gate.rsum", "gate.check."
NOBODY = "none"  # in a tag, where a version's number would stand
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
        """What loads it: models:/hire/3."""
        return f"models:/{self.name}/{self.number}"


@contextmanager
def registry(settings: TrackingSettings, do: str) -> Iterator[MlflowClient]:
    """A client of the store of the settings, under `telling`: "MLflow's store ... did not DO"."""
    connect(settings)
    with telling(do):
        from mlflow import MlflowClient

        yield MlflowClient()


def find(settings: TrackingSettings, version: str) -> Version:
    """The version with that number or alias. Raises TrackingError naming those that there are."""
    name = settings.model_name
    with registry(settings, f"look for version '{version}' of '{name}'") as client:
        found = find_in(client, name, version)
    if found is not None:
        return found
    known = listed(settings)
    have = ", ".join(" = ".join([one.number, *one.aliases]) for one in known[:10])
    there = f"there are {have}" if known else "the model has none yet; 'hire train' registers one"
    raise TrackingError(f"'{name}' has no version or alias '{version}': {there}. See 'hire registry show'.")


def find_in(client: MlflowClient, name: str, version: str) -> Version | None:
    """The version with that number or alias, or None; for callers that hold a client of `registry`."""
    from mlflow.exceptions import MlflowException

    if not version:
        return None
    try:
        by_number = version.isdecimal()
        ask = client.get_model_version if by_number else client.get_model_version_by_alias
        return _of(ask(name, version))
    except MlflowException as error:
        if error.error_code == _MISSING or "not found" in str(error).lower():
            return None
        raise


def champion(settings: TrackingSettings) -> Version | None:
    """The version in force, or None where nothing was promoted yet."""
    with registry(settings, f"look for the champion of '{settings.model_name}'") as client:
        return find_in(client, settings.model_name, CHAMPION)


def listed(settings: TrackingSettings) -> list[Version]:
    """All versions, the newest first; none where nothing was registered."""
    name, found, token = settings.model_name, [], None
    with registry(settings, f"list the versions of '{name}'") as client:
        while token != "":
            page = client.search_model_versions(f"name = '{name}'", _PAGE, ["version_number DESC"], token)
            found += [_of(one) for one in page]
            token = page.token or ""
        aliases = client.get_registered_model(name).aliases if found else {}  # a search leaves them out
    return [replace(one, aliases=tuple(sorted(a for a, n in aliases.items() if str(n) == one.number))) for one in found]


def tell(settings: TrackingSettings, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version in the order given; a value that is too long for the store is cut."""
    with registry(settings, f"write to version {version.number} of '{version.name}'") as client:
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, cut(value))


def record(settings: TrackingSettings, version: Version, decision: Decision) -> None:
    """Write a decision to tags of its version: the details first, and last the one that says whether it passed."""
    ground, now = decision.evidence.ground, find(settings, version.number)
    tags = {
        JUDGED_AGAINST: decision.champion or NOBODY,
        "gate.reasons": "\n".join(decision.reasons()) or "none",
        "gate.data.digest": ground.digest,
        "gate.split": f"{ground.split}, {ground.images} images",
        "gate.protocol": ground.protocol,
        RSUM: f"{decision.evidence.figures[f'{ground.protocol}/rsum']:.2f}",
        "gate.date": decision.evidence.facts.get("date", ""),
        **{f"{_CHECK}{check.name}": f"{check.verdict}: {check.words}" for check in decision.checks},
    }
    with registry(settings, f"forget an earlier decision about version {version.number}") as client:
        for key in now.tags:
            if key.startswith(_CHECK) and key not in tags:
                client.delete_model_version_tag(version.name, version.number, key)
    tell(settings, version, tags | {DECISION: PASSED if decision.passed else FAILED})


def describe(settings: TrackingSettings, version: Version, text: str) -> None:
    """Set a version's description; MLflow shows it as Markdown."""
    with registry(settings, f"describe version {version.number} of '{version.name}'") as client:
        client.update_model_version(version.name, version.number, cut(text))


def keep(settings: TrackingSettings, version: Version, path: Path, folder: str | None = None) -> None:
    """Keep a file with the run that made the version, below `folder`; nothing where it names no run."""
    if version.run_id:
        with registry(settings, f"keep {path.name} with run {version.run_id}") as client:
            client.log_artifact(version.run_id, str(path), folder)


def kept(settings: TrackingSettings, version: Version, path: str) -> str | None:
    """The text of an artifact of the version's run, None where there is none."""
    if not version.run_id:
        return None
    folder, _, _ = path.rpartition("/")
    with registry(settings, f"give {path} of run {version.run_id}") as client:
        if path not in {found.path for found in client.list_artifacts(version.run_id, folder or None)}:
            return None
        return Path(client.download_artifacts(version.run_id, path)).read_text("utf-8")


def gate_folder(version: Version) -> str:
    """Where a version's gate keeps its files in the run: a run that goes on may make several versions."""
    return f"gate/version-{version.number}"


def cut(text: str, limit: int = DESCRIPTION_LIMIT) -> str:
    """`text`, or as many whole lines of it as the store takes, with a word that there was more."""
    if len(text) <= limit:
        return text
    more = "\n\n(cut)"
    head = text[: limit - len(more)]
    return (head[: head.rfind("\n")] if "\n" in head else head) + more


def _of(found: ModelVersion) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", tuple(sorted(found.aliases)), dict(found.tags))

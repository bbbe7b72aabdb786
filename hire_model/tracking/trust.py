"""Check that a model folder is the one that was registered, and the one that the gate judged.

Registration stores one digest of the whole model folder in the tags of the version (weights, config, tokenizer, model
card and any other file), and the digest of each file, so that an error can name the file that changed. Nothing in the
folder changes after registration: the gate and `hire card` write their cards elsewhere. So no file is excluded.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from hire_model.model.artifact import digest_table, hash_files
from hire_model.settings import TrackingSettings
from hire_model.tracking import versions
from hire_model.tracking.connection import TrackingError
from hire_model.tracking.versions import ARTIFACT_FILES, ARTIFACT_SHA256, GATED_SHA256, Version

log = logging.getLogger(__name__)


class ArtifactChangedError(TrackingError):
    """The files of a registered version differ from its recorded digest."""


def make_tags(folder: Path) -> dict[str, str]:
    """Return the tags that record the model folder: the digest of each file, and of the whole folder."""
    table = hash_files(folder)
    return {ARTIFACT_FILES: json.dumps(table), ARTIFACT_SHA256: digest_table(table)}


def record(folder: Path, version: Version, settings: TrackingSettings) -> None:
    """Record the model folder in the tags of a version that has no digest yet; an existing digest is never changed."""
    if ARTIFACT_SHA256 not in version.tags:
        versions.set_tags(settings, version, make_tags(folder))


def check_registered(folder: Path, version: Version) -> None:
    """Raise ArtifactChangedError if the model folder is not the one that was registered as `version`.

    Only log a warning if the version has no digest, because an earlier release registered it.
    """
    recorded = version.tags.get(ARTIFACT_SHA256)
    if recorded is None:
        warn_unrecorded(version)
        return
    table = hash_files(folder)
    if digest_table(table) != recorded:
        raise ArtifactChangedError(
            f"{version.uri}: the SHA-256 of the model differs from the one recorded at registration: "
            f"{_describe_changes(table, version)}. The files in {folder} were damaged or replaced. Restore them from a "
            "backup, or register the model again with 'hire train'."
        )


def check_gated(folder: Path, version: Version) -> None:
    """Raise ArtifactChangedError if the gate judged another model folder as `version`. No gate is not an error."""
    judged = version.tags.get(GATED_SHA256)
    if judged and digest_table(hash_files(folder)) != judged:
        raise ArtifactChangedError(
            f"{version.uri}: the SHA-256 of the model differs from that of the model that the gate judged. Run 'hire "
            f"gate --version {version.number}' to judge the present one."
        )


def warn_unrecorded(version: Version) -> None:
    """Log a warning that the version has no digest, and how to record one."""
    log.warning(
        "%s was registered by an earlier release without a digest, so its files are not checked. "
        "'hire gate --version %s' records the digest.",
        version.uri,
        version.number,
    )


def read_table(version: Version) -> dict[str, str]:
    """Return the recorded digest of each file of a version; {} if it is missing, or differs from the whole digest."""
    try:
        table = json.loads(version.tags.get(ARTIFACT_FILES, ""))
    except json.JSONDecodeError:
        return {}
    return table if digest_table(table) == version.tags.get(ARTIFACT_SHA256) else {}


def _describe_changes(table: dict[str, str], version: Version) -> str:
    recorded = read_table(version)
    if not recorded:
        return "the list of its files is not recorded"
    words = {
        "changed": sorted(name for name in table.keys() & recorded.keys() if table[name] != recorded[name]),
        "missing": sorted(recorded.keys() - table.keys()),
        "not registered": sorted(table.keys() - recorded.keys()),
    }
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in words.items() if names)

"""Choose the data for the evaluation of a registered version: by default, the data set that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hire_model.data.schema import Manifest
from hire_model.data.splits import SCENES, open_dataset
from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.settings import Settings
from hire_model.tracking import versions
from hire_model.tracking.versions import Version

log = logging.getLogger(__name__)
_SHORT = 12  # digits of a digest in messages


def use_training_data(settings: Settings, version: Version | None) -> Settings:
    """Return settings with data.path set to the data set that `version` was trained on.

    Return them unchanged if data.path is set, if the version is None or has no digest of its data, or if it was trained
    on the default data set.

    Raises:
        HireError: the default data set has another digest, and the recorded folder no longer has that data set.
    """
    digest = version.tags.get(versions.DATA_DIGEST, "") if version is not None else ""
    if version is None or settings.data.path is not None or not digest or _has_digest(SCENES, digest):
        return settings
    recorded = versions.read_data_folder(settings.tracking, version)
    if recorded is not None and _has_digest(recorded, digest):
        log.info("Version %s was trained on the data set in %s, so it is used.", version.number, recorded)
        return settings.model_copy(update={"data": settings.data.model_copy(update={"path": recorded})})
    may_be_default = recorded is None or recorded.name == SCENES.name
    if may_be_default and not SCENES.exists() and open_dataset(settings.data).manifest.digest == digest:
        return settings
    where = f"'{recorded.name}', registered in {recorded}" if recorded is not None else "a data set"
    raise HireError(
        f"Version {version.number} of '{version.name}' was trained on {where}, digest {digest[:_SHORT]}. Neither that "
        f"folder nor the default data set {SCENES} has this digest. Name the data set to use: --data FOLDER."
    )


def use_common_data(settings: Settings, found: Sequence[Version | None]) -> Settings:
    """Return settings as `use_training_data`, for several versions. Raise HireError if their data differ."""
    trained = [version for version in found if version is not None and versions.DATA_DIGEST in version.tags]
    digests = {version.tags[versions.DATA_DIGEST] for version in trained}
    if settings.data.path is None and len(digests) > 1:
        listing = ", ".join(f"version {each.number}: {each.tags[versions.DATA_DIGEST][:_SHORT]}" for each in trained)
        raise HireError(f"The versions were trained on different data ({listing}). Name the data set: --data FOLDER.")
    return use_training_data(settings, trained[0] if trained else None)


def describe_evaluation(model: str, split: Split, found: Sequence[Version | None] = ()) -> str:
    """Return the line that introduces an evaluation: model, data set, digest, split and number of images."""
    manifest = split.dataset.manifest
    trained_on = {version.tags.get(versions.DATA_DIGEST) for version in found if version is not None}
    note = ""
    if trained_on == {manifest.digest}:
        note = " (the data of its training)"
    elif trained_on - {None}:
        note = " (not the data of its training)"
    return (
        f"Evaluating {model} on {manifest.name}{note}: digest {manifest.digest[:_SHORT]}, split {split.name}, "
        f"{len(split.images):,} images."
    )


def name_model(address: str, version: Version | None) -> str:
    """Return the address, followed by the number of the version if the address has an alias."""
    return address if version is None or version.uri == address else f"{address} (version {version.number})"


def _has_digest(folder: Path, digest: str) -> bool:
    try:
        return Manifest.read(folder).digest == digest
    except (DataError, OSError):
        return False

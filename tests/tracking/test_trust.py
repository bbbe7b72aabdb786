"""A registered version whose files differ from the recorded digest is refused, and the error names the file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from damage import flip_byte
from model_examples import make_model
from registrations import pass_gate

from hire_model.model import artifact
from hire_model.settings import TrackingSettings
from hire_model.tracking import registry, trust, versions
from hire_model.tracking.connection import connect
from hire_model.tracking.promotion import promote
from hire_model.tracking.trust import ArtifactChangedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = artifact.save(make_model(), tmp_path / "model")
    (folder / "model_card.md").write_text("# A card\n")
    return folder


@pytest.fixture
def hire(folder: Path, tracking: TrackingSettings, request: pytest.FixtureRequest) -> TrackingSettings:
    """Register the folder as version 1 of a model with the test's name, with its digest."""
    settings = tracking.model_copy(update={"model_name": re.sub(r"\W+", "-", request.node.name)})
    client = mlflow.MlflowClient(connect(settings))
    client.create_registered_model(settings.model_name)
    client.create_model_version(settings.model_name, str(folder))
    client.set_registered_model_alias(settings.model_name, "challenger", "1")
    trust.record(folder, versions.find(settings, "1"), settings)
    return settings


def test_an_unchanged_version_is_fetched_by_every_address(hire: TrackingSettings, folder: Path) -> None:
    for suffix in ("/1", "@challenger", "/latest"):
        assert registry.fetch(f"models:/{hire.model_name}{suffix}", hire) == folder


@pytest.mark.parametrize("suffix", ["/1", "@challenger", "/latest"])
def test_a_flipped_byte_in_any_file_is_refused_and_named(hire: TrackingSettings, folder: Path, suffix: str) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.name for path in files} == {"config.json", "model.safetensors", "model_card.md", "tokenizer.json"}
    for path in files:
        with (
            flip_byte(path),
            pytest.raises(ArtifactChangedError, match=rf"SHA-256.*: changed: {path.name}\. .*Restore"),
        ):
            registry.fetch(f"models:/{hire.model_name}{suffix}", hire)
    registry.fetch(f"models:/{hire.model_name}{suffix}", hire)


def _set_temperature(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    changed = config.replace('"word_temperature": 9', '"word_temperature": 3')
    assert changed != config
    (folder / "config.json").write_text(changed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set_temperature, "changed: config.json"),
        (lambda folder: (folder / "model_card.md").unlink(), "missing: model_card.md"),
        (lambda folder: (folder / "new.py").write_text(""), "not registered: new.py"),
        (lambda folder: (folder / "model_card.md").rename(folder / "b.md"), "missing: model_card.md; not registered"),
    ],
)
def test_a_changed_setting_and_a_missing_new_or_renamed_file_are_refused(
    folder: Path, hire: TrackingSettings, change: Callable[[Path], None], words: str
) -> None:
    change(folder)
    artifact.read_config(folder)  # readable: only the digest shows the change
    with pytest.raises(ArtifactChangedError, match=words):
        registry.fetch(f"models:/{hire.model_name}/1", hire)


def test_a_version_without_a_digest_is_fetched_with_a_warning(
    folder: Path, hire: TrackingSettings, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.MlflowClient().create_model_version(hire.model_name, str(folder))
    with caplog.at_level(logging.WARNING):
        registry.fetch(f"models:/{hire.model_name}/2", hire)
        pass_gate(hire, "2")
        promote(hire, "2")
    assert caplog.text.count("'hire gate --version 2' records the digest") == 2


def test_a_recorded_digest_is_never_replaced(folder: Path, hire: TrackingSettings) -> None:
    before = versions.find(hire, "1")
    _set_temperature(folder)
    trust.record(folder, before, hire)
    assert versions.find(hire, "1").tags == before.tags


def test_a_changed_list_of_files_does_not_hide_a_change(folder: Path, hire: TrackingSettings) -> None:
    _set_temperature(folder)
    changed = trust.make_tags(folder)[versions.ARTIFACT_FILES]
    versions.set_tags(hire, versions.find(hire, "1"), {versions.ARTIFACT_FILES: changed})
    with pytest.raises(ArtifactChangedError, match="the list of its files is not recorded"):
        registry.fetch(f"models:/{hire.model_name}/1", hire)


@pytest.mark.parametrize("force", ["", "a reason"])
def test_a_version_that_changed_after_its_gate_is_not_promoted(
    folder: Path, hire: TrackingSettings, force: str
) -> None:
    pass_gate(hire, "1")
    with flip_byte(folder / "config.json"), pytest.raises(ArtifactChangedError, match=r"changed: config\.json"):
        promote(hire, "1", force)
    assert versions.find_champion(hire) is None
    assert promote(hire, "1", force).changed


def test_a_version_whose_gate_judged_other_files_is_not_promoted(hire: TrackingSettings) -> None:
    pass_gate(hire, "1")
    versions.set_tags(hire, versions.find(hire, "1"), {versions.GATED_SHA256: "0" * 64})
    with pytest.raises(ArtifactChangedError, match=r"the gate judged.*hire gate --version 1"):
        promote(hire, "1")
    assert promote(hire, "1", "checked by hand").changed

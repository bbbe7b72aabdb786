"""Packaging a version twice gives the same bytes, and only an archive that scores its golden pairs is published."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registered import RegisteredModel

from hire_model.data.schema import hash_file
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.packaging import archive as module
from hire_model.packaging.archive import PackagedArchive, make_golden, package
from hire_model.packaging.rehearse import rehearse, rehearse_in_process
from hire_model.packaging.verify import GOLDEN, MANIFEST, ArchiveError, Golden, verify
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import deserialize_image
from hire_model.tracking import versions
from hire_model.tracking.connection import TrackingError
from hire_model.tracking.registry import read_example_request
from hire_model.tracking.trust import ArtifactChangedError
from hire_model.tracking.versions import find, find_archive
from serving import HANDLER


@pytest.fixture(scope="module")
def made(registered_model: RegisteredModel, tmp_path_factory: pytest.TempPathFactory) -> PackagedArchive:
    return package("challenger", registered_model.settings, HANDLER, tmp_path_factory.mktemp("archives"))


def test_the_registry_records_path_and_digest_of_the_archive(
    made: PackagedArchive, registered_model: RegisteredModel
) -> None:
    assert made.path.parts[-2:] == ("1", "hire.mar") and made.sha256 == hash_file(made.path).sha256
    recorded = find_archive("1", registered_model.settings.tracking)
    assert (recorded.path, recorded.sha256, recorded.version.number) == (made.path, made.sha256, "1")


def test_packaging_twice_gives_the_same_bytes_also_on_object_storage(
    made: PackagedArchive, registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIRE_CACHE", str(tmp_path / "cache"))
    tracking = registered_model.settings.tracking
    handler = tmp_path / "other" / "handler.py"
    handler.parent.mkdir()
    handler.write_bytes(HANDLER.read_bytes())
    again = package("1", registered_model.settings, handler, Path("memory://archives"))
    assert again.path.read_bytes() == made.path.read_bytes()
    found = find_archive("1", tracking)
    assert found.path != again.path and found.path.read_bytes() == made.path.read_bytes(), "it is fetched"
    versions.record_archive(found.version, tracking, str(made.path), made.sha256)
    assert [path.name for path in again.path.parent.iterdir()] == ["hire.mar"], "no temporary file remains"


def test_an_archive_contains_the_model_and_the_facts_of_its_version(
    made: PackagedArchive, registered_model: RegisteredModel
) -> None:
    manifest = verify(made.path, made.sha256)
    version = find(registered_model.settings.tracking, "1")
    facts = artifact.read_config(registered_model.folder)["facts"]
    assert (manifest.version, manifest.run_id) == ("1", version.run_id)
    assert manifest.dataset_digest == Dataset.open(registered_model.dataset).manifest.digest
    assert manifest.git_commit == facts.get("git.commit", "")
    with zipfile.ZipFile(made.path) as opened:
        assert set(opened.namelist()) == {*manifest.files, MANIFEST}
        assert {entry.date_time for entry in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for path in registered_model.folder.iterdir():
            assert opened.read(f"model/{path.name}") == path.read_bytes(), "the registry's model folder, unchanged"
        golden = Golden.model_validate_json(opened.read(GOLDEN))
    example = read_example_request(version, registered_model.settings.tracking)
    pairs = [(deserialize_image(json.dumps(pair["image"])), pair["text"]) for pair in example["pairs"]]
    expected = Scorer.load(registered_model.folder).predict(pairs)
    np.testing.assert_allclose(golden.scores, expected[: len(golden.scores)], atol=1e-6)


def test_a_clean_interpreter_reproduces_the_golden_scores(made: PackagedArchive) -> None:
    assert rehearse(made.path) <= Golden.TOLERANCE


def _replace_file(source: Path, target: Path, name: str, content: bytes) -> Path:
    """Copy an archive, with other content for one file and a manifest that matches."""
    with zipfile.ZipFile(source) as opened:
        files = {entry: opened.read(entry) for entry in opened.namelist()}
    manifest = json.loads(files[MANIFEST])
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files |= {name: content, MANIFEST: json.dumps(manifest).encode()}
    with zipfile.ZipFile(target, "w") as archive:
        for entry, value in files.items():
            archive.writestr(entry, value)
    return target


def test_other_golden_scores_are_refused(made: PackagedArchive, tmp_path: Path) -> None:
    with zipfile.ZipFile(made.path) as opened:
        golden = json.loads(opened.read(GOLDEN))
    golden["scores"][0] += 1e-3
    changed = _replace_file(made.path, tmp_path / "a.mar", GOLDEN, json.dumps(golden).encode())
    with pytest.raises(HireError, match="scores of the golden pairs differ by"):  # raised by the handler
        rehearse_in_process(changed)
    with pytest.raises(ArchiveError, match="golden pairs cannot be scored"):
        rehearse(changed)


def test_a_handler_with_two_classes_is_not_published(
    made: PackagedArchive, registered_model: RegisteredModel, tmp_path: Path
) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text(HANDLER.read_text("utf-8") + "\n\nclass Second:\n    pass\n")
    with pytest.raises(ArchiveError, match="defines 2 classes"):
        package("1", registered_model.settings, handler, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.mar"))
    assert find_archive("1", registered_model.settings.tracking).sha256 == made.sha256, (
        "the registry still has the first archive"
    )


def test_a_model_that_does_not_match_its_digest_is_not_packaged(
    registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shutil.copytree(registered_model.folder, tmp_path / "model")
    weights = bytearray((changed / artifact.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (changed / artifact.WEIGHTS).write_bytes(weights)
    monkeypatch.setattr(module.registry, "fetch", lambda *_: changed)
    with pytest.raises(HireError, match="SHA-256"):
        package("1", registered_model.settings, HANDLER, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.mar"))


def test_a_model_that_the_gate_did_not_judge_is_not_packaged(
    registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = find(registered_model.settings.tracking, "1")
    other = replace(version, tags={**version.tags, versions.GATED_SHA256: "0" * 64})
    monkeypatch.setattr(module.versions, "find", lambda *_: other)
    with pytest.raises(ArtifactChangedError, match="the gate judged"):
        package("1", registered_model.settings, HANDLER, tmp_path)
    assert not list(tmp_path.iterdir())


def test_golden_scores_are_those_recorded_at_registration(registered_model: RegisteredModel) -> None:
    tracking = registered_model.settings.tracking
    version, folder = find(tracking, "1"), registered_model.folder
    pairs = read_example_request(version, tracking)["pairs"]
    recorded = json.loads(version.tags[versions.GOLDEN_SCORES])
    assert len(recorded) == len(pairs) and make_golden(folder, pairs, version).scores == recorded

    def shift(difference: float) -> Golden:
        tags = {**version.tags, versions.GOLDEN_SCORES: json.dumps([recorded[0] + difference, *recorded[1:]])}
        return make_golden(folder, pairs, replace(version, tags=tags))

    assert shift(5e-6).scores[0] == pytest.approx(recorded[0] + 5e-6, abs=1e-9)
    with pytest.raises(ArchiveError, match=r"differ by 1\.0e-04 from the scores recorded at registration"):
        shift(1e-4)
    with pytest.raises(ArchiveError, match="recorded at registration"):
        make_golden(folder, [pairs[0] | {"text": "a red cat"}, *pairs[1:]], version)
    unrecorded = replace(version, tags={})
    assert make_golden(folder, pairs, unrecorded).scores == recorded, "computed for versions of earlier releases"


def test_an_unknown_version_is_refused(registered_model: RegisteredModel, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no version or alias '99'"):
        package("99", registered_model.settings, HANDLER, tmp_path)
    with pytest.raises(TrackingError, match="no version or alias 'champion'"):
        find_archive("champion", registered_model.settings.tracking)


def _fail_copy(*_: object, **__: object) -> None:
    raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])


def _fail_archiver(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 1, "", "OSError: [Errno 28] No space left on device")


def _fail_write(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("place", "fail"),
    [("shutil.copytree", _fail_copy), ("subprocess.run", _fail_archiver), ("_write_archive", _fail_write)],
)
def test_a_full_disk_gives_one_clear_message_and_publishes_nothing(
    made: PackagedArchive,
    registered_model: RegisteredModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    fail: Callable[..., object],
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    name, _, attribute = place.rpartition(".")
    monkeypatch.setattr(getattr(module, name) if name else module, attribute, fail)
    with pytest.raises(ArchiveError) as caught:
        package("1", registered_model.settings, HANDLER, tmp_path / "out")
    message = str(caught.value)
    assert "hire.mar: the disk is full. Nothing was published." in message and "TMPDIR" in message
    assert "Errno" not in message and "\n" not in message
    assert not list((tmp_path / "tmp").iterdir()) and not list((tmp_path / "out").rglob("*.mar"))
    assert find_archive("1", registered_model.settings.tracking).sha256 == made.sha256

"""A damaged or manipulated archive is refused, and the error names the reason."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from hire_model.data.schema import FileFacts, hash_file
from hire_model.packaging.verify import (
    MANIFEST,
    ArchiveError,
    ArchiveManifest,
    extract,
    verify,
    verify_folder,
)

CONTENT = {"handler.py": b"x = 1\n", "model/config.json": b"{}", "model/model.safetensors": bytes(range(256)) * 8}


def _make_manifest(files: dict[str, bytes]) -> bytes:
    facts = {name: FileFacts(bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in files.items()}
    manifest = ArchiveManifest(
        model="hire", version="1", run_id="r", dataset_digest="d", git_commit="c", files=dict(facts)
    )
    return manifest.model_dump_json().encode()


def _write_archive(path: Path, files: dict[str, bytes], **changes: bytes) -> Path:
    """Write an archive of `files` with their manifest; `changes` are not in the manifest."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | {MANIFEST: _make_manifest(files)} | changes).items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return _write_archive(tmp_path / "hire.mar", CONTENT)


def test_a_valid_archive_is_verified_and_unpacked(good: Path, tmp_path: Path) -> None:
    assert verify(good, hash_file(good).sha256).files.keys() == CONTENT.keys()
    extract(good, tmp_path / "out")
    assert (tmp_path / "out/model/config.json").read_bytes() == b"{}"
    verify_folder(tmp_path / "out")


def test_an_archive_with_another_digest_than_in_the_registry_is_refused(good: Path) -> None:
    with pytest.raises(ArchiveError, match="SHA-256 differs from the registry's"):
        verify(good, "0" * 64)


def test_a_changed_byte_is_refused_or_does_not_change_the_content(good: Path) -> None:
    """With the registry's digest every changed byte is refused; without it, some bytes (such as times) may change."""
    original, digest, expected = good.read_bytes(), hash_file(good).sha256, verify(good).files
    for offset in range(0, len(original), 97):
        changed = bytearray(original)
        changed[offset] ^= 1
        good.write_bytes(changed)
        with pytest.raises(ArchiveError):
            verify(good, digest)
        with contextlib.suppress(ArchiveError):
            assert verify(good).files == expected
    good.write_bytes(original)
    assert verify(good, digest).files == expected


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_compressed_archive_raises_only_archive_errors(tmp_path: Path, method: int) -> None:
    """Each compression method raises different errors for damaged bytes."""
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (CONTENT | {MANIFEST: _make_manifest(CONTENT)}).items():
            archive.writestr(name, content)
    original = path.read_bytes()
    for offset in range(0, len(original), 7):
        path.write_bytes(original[:offset] + bytes([original[offset] ^ 0xFF]) + original[offset + 1 :])
        with contextlib.suppress(ArchiveError):
            verify(path)


def test_a_file_name_that_is_not_utf8_is_refused(good: Path) -> None:
    original = good.read_bytes()
    start = original.rindex(b"PK\x01\x02")
    names = original[start:].replace(b"manifest.json", b"manif\xff\xff\xff.json")
    flags = names[:8] + b"\x00\x08" + names[10:]  # a flag that promises a UTF-8 name
    good.write_bytes(original[:start] + flags)
    with pytest.raises(ArchiveError, match="not an archive, or damaged"):
        verify(good)


def test_a_file_with_an_empty_name_is_refused(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b"handler.py", b"\x00andler.py"))  # a name ends at the first zero byte
    with pytest.raises(ArchiveError, match="a file has no name"):
        verify(good)


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_with_other_content_is_refused(tmp_path: Path, name: str) -> None:
    changed = _write_archive(tmp_path / "a.mar", CONTENT, **{name: CONTENT[name][:-1] + b"?"})
    with pytest.raises(ArchiveError, match=f"{name}: its SHA-256"):
        verify(changed)


@pytest.mark.parametrize("name", CONTENT)
def test_an_archive_with_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for other, content in (CONTENT | {MANIFEST: _make_manifest(CONTENT)}).items():
            if other != name:
                archive.writestr(other, content)
    with pytest.raises(ArchiveError, match="expected exactly once in the archive"):
        verify(path)


def test_a_file_that_is_not_in_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"evil\.py"):
        verify(_write_archive(tmp_path / "a.mar", CONTENT, **{"evil.py": b"x"}))


def test_a_file_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = _write_archive(tmp_path / "a.mar", CONTENT)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("handler.py", CONTENT["handler.py"])
    with pytest.raises(ArchiveError, match=r"handler\.py"):
        verify(path)


@pytest.mark.parametrize(
    "name", ["../evil.py", "model/../../evil.py", "/etc/evil.json", "..\\evil.py", "C:evil.py", "model\\..\\..\\x.py"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    files = CONTENT | {name: b"x"}
    with pytest.raises(ArchiveError, match="the path leaves the folder"):
        extract(_write_archive(tmp_path / "a.mar", files), tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "out").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = _write_archive(tmp_path / "a.mar", CONTENT)
    link = zipfile.ZipInfo("model/link.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="a link or folder"):
        verify(path)


@pytest.mark.parametrize("name", ["model/weights.pkl", "model/weights.pt", "model/weights.bin", "lib.so", "extra"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="not allowed in an archive"):
        verify(_write_archive(tmp_path / "a.mar", CONTENT | {name: b"x"}))


def _save_with_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [pickle.dumps({}, protocol) for protocol in (2, 3, 4, 5)] + [_save_with_torch()])
def test_a_pickle_named_as_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match="pickle"):
        verify(_write_archive(tmp_path / "a.mar", CONTENT | {"model/model.safetensors": content}))


def test_a_file_larger_than_in_the_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (CONTENT | {MANIFEST: _make_manifest(CONTENT)}).items():
            archive.writestr(name, content if name != "handler.py" else b"\0" * 50_000_000)
    with pytest.raises(ArchiveError, match=r"handler\.py: its SHA-256"):
        verify(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and then nothing"])
def test_a_missing_file_and_a_file_that_is_not_an_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mar"
    with pytest.raises(ArchiveError, match="no archive here"):
        verify(path)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="not an archive"):
        verify(path)


def test_an_archive_with_another_manifest_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"manifest\.json is missing or not valid"):
        verify(_write_archive(tmp_path / "a.mar", CONTENT, **{MANIFEST: b'{"format": 2}'}))


def test_a_changed_file_in_the_unpacked_folder_is_refused(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(good, out)
    (out / "log.txt").write_text("written by the server")
    verify_folder(out)
    (out / "model/config.json").write_text("[]")
    with pytest.raises(ArchiveError, match=r"config\.json"):
        verify_folder(out)

"""Archives that were tampered with are refused, each for what is wrong with it."""

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


def _manifest(files: dict[str, bytes]) -> bytes:
    facts = {name: FileFacts(bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in files.items()}
    manifest = ArchiveManifest(
        model="hire", version="1", run_id="r", dataset_digest="d", git_commit="c", files=dict(facts)
    )
    return manifest.model_dump_json().encode()


def _archive(path: Path, files: dict[str, bytes], **changes: bytes) -> Path:
    """An archive of `files` with a manifest of them; `changes` are put in after the manifest was made."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | {MANIFEST: _manifest(files)} | changes).items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return _archive(tmp_path / "hire.mar", CONTENT)


def test_a_whole_archive_passes_and_unpacks(good: Path, tmp_path: Path) -> None:
    assert verify(good, hash_file(good).sha256).files.keys() == CONTENT.keys()
    extract(good, tmp_path / "out")
    assert (tmp_path / "out/model/config.json").read_bytes() == b"{}"
    verify_folder(tmp_path / "out")


def test_another_digest_than_the_registrys(good: Path) -> None:
    with pytest.raises(ArchiveError, match="not the one that the registry has"):
        verify(good, "0" * 64)


def test_every_changed_byte_is_seen(good: Path, tmp_path: Path) -> None:
    """Nothing but an ArchiveError comes of it, and no content is taken for another."""
    whole, digest, expected = good.read_bytes(), hash_file(good).sha256, verify(good).files
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 1
        good.write_bytes(changed)
        with pytest.raises(ArchiveError):
            verify(good, digest)
        with contextlib.suppress(ArchiveError):  # without the registry's digest some bytes do not matter: times, say
            assert verify(good).files == expected
    good.write_bytes(whole)
    assert verify(good, digest).files == expected


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_told_as_such_however_it_is_compressed(tmp_path: Path, how: int) -> None:
    """Each way to compress has an error of its own."""
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in (CONTENT | {MANIFEST: _manifest(CONTENT)}).items():
            archive.writestr(name, content)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(ArchiveError):
            verify(path)


def test_a_name_that_is_no_text(good: Path) -> None:
    whole = good.read_bytes()
    place = whole.rindex(b"PK\x01\x02")
    names = whole[place:].replace(b"manifest.json", b"manif\xff\xff\xff.json")
    flags = names[:8] + b"\x00\x08" + names[10:]  # its name is UTF-8, it says
    good.write_bytes(whole[:place] + flags)
    with pytest.raises(ArchiveError, match="not an archive, or damaged"):
        verify(good)


def test_a_file_without_a_name(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b"handler.py", b"\x00andler.py"))  # a name ends at its first zero
    with pytest.raises(ArchiveError, match="without a name"):
        verify(good)


@pytest.mark.parametrize("name", CONTENT)
def test_exchanged_content(tmp_path: Path, name: str) -> None:
    harmed = _archive(tmp_path / "a.mar", CONTENT, **{name: CONTENT[name][:-1] + b"?"})
    with pytest.raises(ArchiveError, match=f"{name}: its SHA-256"):
        verify(harmed)


@pytest.mark.parametrize("name", CONTENT)
def test_missing_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for other, content in (CONTENT | {MANIFEST: _manifest(CONTENT)}).items():
            if other != name:
                archive.writestr(other, content)
    with pytest.raises(ArchiveError, match="not once in both"):
        verify(path)


def test_a_file_more_than_the_manifest_names(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"evil\.py"):
        verify(_archive(tmp_path / "a.mar", CONTENT, **{"evil.py": b"x"}))


def test_a_name_twice(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.mar", CONTENT)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("handler.py", CONTENT["handler.py"])
    with pytest.raises(ArchiveError, match=r"handler\.py"):
        verify(path)


@pytest.mark.parametrize(
    "name", ["../evil.py", "model/../../evil.py", "/etc/evil.json", "..\\evil.py", "C:evil.py", "model\\..\\..\\x.py"]
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    files = CONTENT | {name: b"x"}
    with pytest.raises(ArchiveError, match="leads out"):
        extract(_archive(tmp_path / "a.mar", files), tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "out").exists()


def test_a_link(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.mar", CONTENT)
    link = zipfile.ZipInfo("model/link.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="a link or folder"):
        verify(path)


@pytest.mark.parametrize("name", ["model/weights.pkl", "model/weights.pt", "model/weights.bin", "lib.so", "extra"])
def test_kinds_of_files_that_have_no_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="have no place"):
        verify(_archive(tmp_path / "a.mar", CONTENT | {name: b"x"}))


def _torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [pickle.dumps({}, protocol) for protocol in (2, 3, 4, 5)] + [_torch_saved()])
def test_a_pickle_under_an_honest_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match="pickle"):
        verify(_archive(tmp_path / "a.mar", CONTENT | {"model/model.safetensors": content}))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (CONTENT | {MANIFEST: _manifest(CONTENT)}).items():
            archive.writestr(name, content if name != "handler.py" else b"\0" * 50_000_000)
    with pytest.raises(ArchiveError, match=r"handler\.py: its SHA-256"):
        verify(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and then nothing"])
def test_no_archive_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mar"
    with pytest.raises(ArchiveError, match="no archive there"):
        verify(path)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="not an archive"):
        verify(path)


def test_an_archive_of_somebody_else(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="none of ours"):
        verify(_archive(tmp_path / "a.mar", CONTENT, **{MANIFEST: b'{"format": 2}'}))


def test_a_changed_file_in_the_unpacked_folder(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(good, out)
    (out / "log.txt").write_text("the server's own")
    verify_folder(out)
    (out / "model/config.json").write_text("[]")
    with pytest.raises(ArchiveError, match=r"config\.json"):
        verify_folder(out)

"""Verify an archive before anything in it is used: it is complete, every file is known, and none is a pickle.

    MAR-INF/MANIFEST.json   TorchServe's manifest: name, version, handler
    handler.py              TorchServe's adapter
    manifest.json           our manifest: registry version, run, data digest, commit, and SHA-256 of every other file
    golden.json             a request, and the scores that it must get
    bom.cdx.json            CycloneDX bill of materials: the model, its data, and the libraries that run it
    model/                  the registry's model folder, unchanged

The digests in the archive show that it is not damaged. The SHA-256 of the whole archive, a tag of the registry version,
shows that it is the archive that was packaged.
"""

from __future__ import annotations

import hashlib
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.data.schema import FileFacts, hash_file
from hire_model.errors import HireError

MANIFEST, GOLDEN, BOM, MODEL = "manifest.json", "golden.json", "bom.cdx.json", "model"
SERVER_MANIFEST = "MAR-INF/MANIFEST.json"
ALLOWED = {".py", ".json", ".md", ".safetensors", ".onnx"}  # an ONNX graph contains no code to run
# First bytes of pickle protocols 2 to 5, and of zip files, because torch.save writes pickles into a zip file.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_LARGEST, _LARGEST_MANIFEST = 8 << 30, 1 << 20
_CHUNK = 1 << 20
# What zipfile raises for damaged bytes: bz2 raises OSError, an invalid name UnicodeDecodeError (a ValueError).
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, ValueError, RuntimeError, EOFError,
)  # fmt: skip


class ArchiveError(HireError):
    """An archive is damaged, was replaced, or contains a file that does not belong in an archive."""


class ArchiveManifest(BaseModel):
    """What an archive contains: the model's version and origin, and the digest of each file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    version: str
    run_id: str
    dataset_digest: str
    git_commit: str
    files: dict[str, FileFacts]


class Golden(BaseModel):
    """The golden pairs: a request in JSON, and the score of each of its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    TOLERANCE: ClassVar[float] = 1e-5
    request: dict[str, list[dict[str, object]]]
    scores: list[float]

    def measure_difference(self, scores: list[float]) -> float:
        """Return the largest difference to `scores`; infinity if their number differs."""
        if len(scores) != len(self.scores):
            return float("inf")
        return max(abs(score - golden) for score, golden in zip(scores, self.scores, strict=True))


def verify(archive: Path, sha256: str = "") -> ArchiveManifest:
    """Check every byte of an archive.

    Args:
        archive: the file.
        sha256: its SHA-256 in the registry; not compared if empty.

    Returns:
        The manifest.

    Raises:
        ArchiveError: if it is not an archive, its SHA-256 differs, a file is not in the manifest or differs from it, a
            path leaves the folder, or a file is a link or a pickle.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no archive here. Make it with 'hire package'.")
    if sha256 and hash_file(archive).sha256 != sha256:
        raise ArchiveError(
            f"{archive}: its SHA-256 differs from the registry's for this version: damaged or replaced. Make it again "
            "with 'hire package'."
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            return _check_archive(archive, opened)
    except _DAMAGE as error:
        raise ArchiveError(f"{archive}: not an archive, or damaged: {error}.") from error


def extract(archive: Path, folder: Path, sha256: str = "") -> ArchiveManifest:
    """Verify `archive`, then unpack it into `folder`."""
    manifest = verify(archive, sha256)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return manifest


def verify_folder(folder: Path) -> ArchiveManifest:
    """Check the digests of an unpacked archive and return its manifest. Raises ArchiveError if a file differs.

    Other files are ignored, because a server unpacks the archive itself and adds its own files.
    """
    manifest = _parse_manifest((folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b"", folder)
    for name, facts in manifest.files.items():
        if not (folder / name).is_file() or hash_file(folder / name) != facts:
            raise ArchiveError(f"{folder / name}: missing, or different from {MANIFEST}. Deploy the archive again.")
    return manifest


def _check_archive(archive: Path, opened: zipfile.ZipFile) -> ArchiveManifest:
    entries = opened.infolist()
    if sum(entry.file_size for entry in entries) > _LARGEST:
        raise ArchiveError(f"{archive}: unpacks to more than {_LARGEST >> 30} GiB.")
    for entry in entries:
        _check_entry(archive, entry)
    names = [entry.filename for entry in entries]
    readable = MANIFEST in names and opened.getinfo(MANIFEST).file_size <= _LARGEST_MANIFEST
    manifest = _parse_manifest(opened.read(MANIFEST) if readable else b"", archive)
    expected = sorted([MANIFEST, *manifest.files])
    if sorted(names) != expected:
        wrong = sorted(set(names) ^ set(expected)) or sorted({name for name in names if names.count(name) > 1})
        raise ArchiveError(
            f"{archive}: {wrong[0]}: expected exactly once in the archive and once in its manifest. Make it again with "
            "'hire package'."
        )
    for name, facts in manifest.files.items():
        _check_content(f"{archive}: {name}", opened, name, facts)
    return manifest


def _check_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    if not entry.filename:
        raise ArchiveError(f"{archive}: a file has no name.")
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise ArchiveError(f"{archive}: {entry.filename!r}: the path leaves the folder of the archive.")
    if entry.is_dir() or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ArchiveError(f"{archive}: {entry.filename}: a link or folder; expected plain files only.")
    if path.suffix not in ALLOWED:
        raise ArchiveError(
            f"{archive}: {entry.filename}: this kind of file is not allowed in an archive (a pickle can run code). "
            f"Expected {', '.join(sorted(ALLOWED))}."
        )


def _check_content(where: str, opened: zipfile.ZipFile, name: str, facts: FileFacts) -> None:
    """Check one file against the manifest. It is read as a stream, and not beyond its size in the manifest."""
    digest, size = hashlib.sha256(), 0
    with opened.open(name) as file:
        while chunk := file.read(_CHUNK):
            if not size and chunk.startswith(_PICKLES):
                raise ArchiveError(f"{where}: contains a pickle, which can run code. Expected weights as safetensors.")
            size += len(chunk)
            if size > facts.bytes:
                break
            digest.update(chunk)
    if size != facts.bytes or digest.hexdigest() != facts.sha256:
        raise ArchiveError(f"{where}: its SHA-256 differs from {MANIFEST}: damaged or replaced.")


def _parse_manifest(text: bytes, where: Path) -> ArchiveManifest:
    try:
        return ArchiveManifest.model_validate_json(text)
    except ValidationError as error:
        raise ArchiveError(f"{where}: {MANIFEST} is missing or not valid. Make it with 'hire package'.") from error

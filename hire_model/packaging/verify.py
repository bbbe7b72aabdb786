"""What an archive must be before anything in it is used: whole, known file by file, and free of pickles.

    MAR-INF/MANIFEST.json   the server's: name, version, handler
    handler.py              the adapter
    manifest.json           ours: registry version, run, data digest, commit, and SHA-256 of every other file
    golden.json             a request, and the scores that it must get
    model/                  the registry's model artifact, unchanged

The digests inside say whether the archive is whole. That it is the one that was packaged is said by its own SHA-256,
a tag of the registry version.
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

MANIFEST, GOLDEN, MODEL = "manifest.json", "golden.json", "model"
SERVER_MANIFEST = "MAR-INF/MANIFEST.json"
ALLOWED = {".py", ".json", ".md", ".safetensors"}
# Protocols 2 to 5 of pickle, and zip, as which torch.save writes its pickles.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_LARGEST, _LARGEST_MANIFEST = 8 << 30, 1 << 20
_CHUNK = 1 << 20
# What zipfile raises on damaged bytes; bz2 says OSError, a name that is no text UnicodeDecodeError (a ValueError).
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, ValueError, RuntimeError, EOFError,
)  # fmt: skip


class ArchiveError(HireError):
    """An archive that is damaged, exchanged, or holds what no archive of ours holds."""


class ArchiveManifest(BaseModel):
    """What an archive is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    version: str
    run_id: str
    dataset_digest: str
    git_commit: str
    files: dict[str, FileFacts]


class Golden(BaseModel):
    """A request in JSON, and the score of each of its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    TOLERANCE: ClassVar[float] = 1e-5
    request: dict[str, list[dict[str, object]]]
    scores: list[float]

    def measure_difference(self, scores: list[float]) -> float:
        """Return the largest difference to `scores`; infinity if their number differs."""
        if len(scores) != len(self.scores):
            return float("inf")
        return max(abs(one - other) for one, other in zip(scores, self.scores, strict=True))


def verify(archive: Path, sha256: str = "") -> ArchiveManifest:
    """The manifest of `archive`, once every byte of it has been checked; `sha256` is what the registry says of it.

    Raises ArchiveError: not an archive, another SHA-256, a file that the manifest does not name or that differs from
    it, a name that leaves the folder, a link, a pickle.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no archive there. Make it with 'hire package'.")
    if sha256 and hash_file(archive).sha256 != sha256:
        raise ArchiveError(
            f"{archive}: its SHA-256 is not the one that the registry has for this version: damaged or exchanged. "
            "Make it again with 'hire package'."
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
    """The manifest of an unpacked archive, the digests of its files checked; further files are not looked at.

    A server unpacks archives itself, and puts files of its own beside ours. Raises ArchiveError.
    """
    manifest = _parse_manifest((folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b"", folder)
    for name, facts in manifest.files.items():
        if not (folder / name).is_file() or hash_file(folder / name) != facts:
            raise ArchiveError(f"{folder / name}: missing, or not what {MANIFEST} says. Deploy the archive again.")
    return manifest


def _check_archive(archive: Path, opened: zipfile.ZipFile) -> ArchiveManifest:
    entries = opened.infolist()
    if sum(entry.file_size for entry in entries) > _LARGEST:
        raise ArchiveError(f"{archive}: unpacks to more than {_LARGEST >> 30} GiB.")
    for entry in entries:
        _check_entry(archive, entry)
    names = [entry.filename for entry in entries]
    known = MANIFEST in names and opened.getinfo(MANIFEST).file_size <= _LARGEST_MANIFEST
    manifest = _parse_manifest(opened.read(MANIFEST) if known else b"", archive)
    expected = sorted([MANIFEST, *manifest.files])
    if sorted(names) != expected:
        odd = sorted(set(names) ^ set(expected)) or sorted({name for name in names if names.count(name) > 1})
        raise ArchiveError(f"{archive}: {odd[0]}: in the archive or in its manifest, but not once in both.")
    for name, facts in manifest.files.items():
        _check_content(f"{archive}: {name}", opened, name, facts)
    return manifest


def _check_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    if not entry.filename:
        raise ArchiveError(f"{archive}: a file without a name.")
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise ArchiveError(f"{archive}: {entry.filename!r}: a name that leads out of the archive's folder.")
    if entry.is_dir() or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ArchiveError(f"{archive}: {entry.filename}: a link or folder; expected plain files only.")
    if path.suffix not in ALLOWED:
        raise ArchiveError(
            f"{archive}: {entry.filename}: files like this have no place in an archive (a pickle can run code). "
            f"Expected {', '.join(sorted(ALLOWED))}."
        )


def _check_content(where: str, opened: zipfile.ZipFile, name: str, facts: FileFacts) -> None:
    """Read as a stream, and no further than the size that the manifest says."""
    digest, size = hashlib.sha256(), 0
    with opened.open(name) as file:
        while chunk := file.read(_CHUNK):
            if not size and chunk.startswith(_PICKLES):
                raise ArchiveError(f"{where}: holds a pickle, which can run code. Weights come as safetensors.")
            size += len(chunk)
            if size > facts.bytes:
                break
            digest.update(chunk)
    if size != facts.bytes or digest.hexdigest() != facts.sha256:
        raise ArchiveError(f"{where}: its SHA-256 is not the one in {MANIFEST}: damaged or exchanged.")


def _parse_manifest(text: bytes, where: Path) -> ArchiveManifest:
    try:
        return ArchiveManifest.model_validate_json(text)
    except ValidationError as error:
        raise ArchiveError(f"{where}: {MANIFEST} is missing or none of ours. Make it with 'hire package'.") from error

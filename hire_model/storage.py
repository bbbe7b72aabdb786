"""Folders on object storage: publish a data set, a gallery or an archive, and fetch it into a local cache.

An address is `PROTOCOL://...` of fsspec, such as s3://bucket/scenes. A published folder consists of objects:

    files/SHA-256   the content of one or more files; never changed
    folder.json     path, size and SHA-256 of each file; written last, in one step

A reader sees the old or the new folder.json; an interrupted upload is never seen. Equal files are stored and fetched
once, so a changed gallery sends only its new segments. Data is read from local files (features and records are
memory-mapped), so a folder is fetched as a whole. Credentials come only from the environment of the client library.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hire_model.errors import HireError
from hire_model.files import atomic_write, find_cache_folder, scratch_folder
from hire_model.progress import show_progress

LISTING, FILES = "folder.json", "files"
_ADDRESS = re.compile(r"([a-z][a-z0-9+.]+):/{1,2}(?=[^/])")  # one slash: pathlib joins two of them
_THREADS = 4  # s3fs takes up to 0.5 GB for each large file that it sends
_CREDENTIALS = (
    "For S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for another server than Amazon's also "
    "AWS_ENDPOINT_URL."
)


class StoredFile(BaseModel):
    """A file of a published folder; `path` is relative to the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern=r"^[^/\\]")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Listing(BaseModel):
    """Content of folder.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    files: tuple[StoredFile, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Published:
    """Result of `publish`: number of files, and how many objects and bytes were sent."""

    files: int
    sent: int
    sent_bytes: int


def is_address(text: str | Path) -> bool:
    """Return whether `text` is an address on object storage instead of a local path."""
    return _ADDRESS.match(str(text)) is not None


def localize(text: str | Path) -> str:
    """Return the local copy of the folder at an address, see `fetch`; return a local path unchanged."""
    return str(fetch(text)) if is_address(text) else str(text)


def fetch(address: str | Path) -> Path:
    """Fetch the folder published at `address` into the cache, and return its path there.

    Files that an earlier fetch has left are not fetched again; the folder appears in the cache in one step. Do not
    change it: `pull` makes a copy to change.

    Raises:
        HireError: nothing is published there, the storage does not answer, or a file is damaged.
    """
    address = normalize(address)
    with _translate_errors(address):
        system, root = _open(address)
        text = _read_listing(system, root, address)
        listing = _parse_listing(text, address)
        cache = find_cache_folder() / "storage"
        folder = cache / "folders" / hashlib.sha256(text).hexdigest()[:32] / root.rstrip("/").rpartition("/")[2]
        (cache / FILES).mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.parent.name}.lock"):
            if folder.is_dir():
                return folder
            with scratch_folder("fetch-", cache) as scratch:
                _fetch_files(system, root, listing, cache / FILES)
                for file in listing.files:
                    path = scratch / folder.name / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.link(cache / FILES / file.sha256, path)
                folder.parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / folder.name, folder)
    return folder


def pull(address: str, out: Path) -> Path:
    """Fetch the folder at `address` and copy it to `out`, which must not exist; return `out`."""
    out = out.expanduser()
    if out.exists():
        raise HireError(f"{out}: exists already. Choose another folder.")
    folder = fetch(address)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(f".{out.name}.", out.parent) as scratch:
        shutil.copytree(folder, scratch / out.name)
        for path in (scratch / out.name).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.replace(scratch / out.name, out)
    return out


def publish(folder: Path, address: str) -> Published:
    """Publish `folder` at `address`; links and hidden files are left out. Objects that are there are not sent again.

    Raises:
        HireError: the folder is empty or missing, or the storage refuses it.
    """
    folder, address = folder.expanduser(), normalize(address)
    paths = _list_files(folder)
    with _translate_errors(address):
        system, root = _open(address)
        known = _list_objects(system, root)
        files = [
            StoredFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=_hash(path))
            for path in show_progress(paths, "reading files")
        ]
        missing = {file.sha256: file for file in files if known.get(file.sha256) != file.bytes}

        def send(file: StoredFile) -> None:
            system.put_file(str(folder / file.path), f"{root}/{FILES}/{file.sha256}")

        _run_in_threads(send, list(missing.values()), "sending files")
        text = Listing(files=tuple(files)).model_dump_json(indent=1).encode() + b"\n"
        system.pipe_file(f"{root}/{LISTING}", text)
    return Published(len(files), len(missing), sum(file.bytes for file in missing.values()))


def normalize(address: str | Path) -> str:
    """Return an address with its two slashes, which pathlib joins, and without one at its end.

    Raises HireError if it contains credentials.
    """
    address = _ADDRESS.sub(r"\1://", str(address)).rstrip("/")
    protocol, _, rest = address.partition("://")
    if "@" in rest.partition("/")[0]:
        raise HireError(f"{protocol}://...: credentials in an address are refused. {_CREDENTIALS}")
    return address


def _open(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it."""
    import fsspec

    system, root = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    return system, root.rstrip("/")


def _read_listing(system: Any, root: str, address: str) -> bytes:
    try:
        text = system.cat_file(f"{root}/{LISTING}")
    except FileNotFoundError as error:
        reason = "" if "bucket" not in str(error) else f" ({error})"
        raise HireError(
            f"{address}: no folder is published here: {LISTING} is missing{reason}. Check the address, or publish the "
            f"folder: hire push FOLDER {address}"
        ) from error
    return bytes(text)


def _parse_listing(text: bytes, address: str) -> Listing:
    try:
        listing = Listing.model_validate_json(text)
    except ValidationError as error:
        raise HireError(f"{address}/{LISTING}: not a list of files of format 1. Publish the folder again.") from error
    if any(".." in Path(file.path).parts for file in listing.files):
        raise HireError(f"{address}/{LISTING}: a path leaves the folder. The list was changed; do not use it.")
    return listing


def _list_objects(system: Any, root: str) -> dict[str, int]:
    """Return the size of each object below files/ by its name."""
    try:
        found = system.ls(f"{root}/{FILES}", detail=True)
    except FileNotFoundError:
        return {}
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found}


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise HireError(f"{folder}: no such folder. Expected a data set, a gallery or a folder with an archive.")
    visible = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    paths = [path for path in visible if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    if not paths:
        raise HireError(f"{folder}: contains no files. Expected a data set, a gallery or a folder with an archive.")
    return paths


def _fetch_files(system: Any, root: str, listing: Listing, cache: Path) -> None:
    """Fetch the files that `cache` lacks, and check each against its SHA-256."""

    def fetch_file(file: StoredFile) -> None:
        with atomic_write(cache / file.sha256, mode=0o444) as partial:
            system.get_file(f"{root}/{FILES}/{file.sha256}", str(partial))
            if partial.stat().st_size != file.bytes or _hash(partial) != file.sha256:
                raise HireError(
                    f"{root}/{FILES}/{file.sha256}: damaged: its SHA-256 is not its name. It belongs to {file.path}. "
                    "Delete this object and publish the folder again."
                )

    missing = {file.sha256: file for file in listing.files if not (cache / file.sha256).is_file()}
    _run_in_threads(fetch_file, list(missing.values()), "fetching files")


def _run_in_threads(work: Callable[[StoredFile], None], files: Sequence[StoredFile], description: str) -> None:
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for _ in show_progress(pool.map(work, files), description, len(files)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    """Raise a HireError for each error of the storage's client library, whose types differ."""
    try:
        yield
    except HireError:
        raise
    except ImportError as error:
        protocol = address.partition("://")[0]
        extra = " pip install 'hire-model[s3]'." if protocol == "s3" else ""
        raise HireError(f"{address}: needs a package that is not installed: {error}.{extra}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # of a local file
            raise
        kind, reason = type(error).__name__, str(error).partition("\n")[0] or type(error).__name__
        advice = f" {_CREDENTIALS}" if "Credentials" in kind or isinstance(error, PermissionError) else ""
        raise HireError(f"{address}: the storage answered: {reason.rstrip('.')}.{advice}") from error

"""The parts of cache keys: the state of a data set, the bytes of a folder, the source code."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hire_model.data.schema import MANIFEST
from hire_model.data.store import Dataset
from hire_model.settings.fingerprint import hash_json

_CODE = (".py", ".toml", ".json")


@cache
def hash_code(*packages: str) -> str:
    """Return the digest of the source, recipes and suites of `packages`, wherever they are installed."""
    files: dict[str, str] = {}
    for package in packages:
        spec = find_spec(package)
        assert spec and spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        files |= {f"{package}/{p.relative_to(folder)}": _hash_file(p) for p in folder.rglob("*") if p.suffix in _CODE}
    return hash_json(files)


def hash_folder(folder: Path) -> str:
    """Return the digest of all files in `folder`, such as a model's."""
    return hash_json({str(p.relative_to(folder)): _hash_file(p) for p in folder.rglob("*") if p.is_file()})


def read_data_state(folder: Path) -> list[Any]:
    """Return a data set's digest, and size and time of each file: a file changed without the manifest counts too.

    Hashing all files would take as long as what the cache saves.
    """
    manifest = Dataset.open(folder).manifest
    files = []
    for name in [MANIFEST, *sorted(manifest.files)]:
        stat = (folder / name).stat()
        files.append((name, (stat.st_size, stat.st_mtime_ns)))
    return [manifest.digest, files]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

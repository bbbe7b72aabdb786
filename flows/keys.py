"""What a result depends on, as cache keys: the data's digest and state on disk, the settings, the code."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hire_model.data.schema import MANIFEST
from hire_model.data.store import Dataset

_CODE = (".py", ".toml", ".json")


def key_of(*parts: Any) -> str:
    """A digest of JSON-able parts; paths and the like count by their text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_digest(*packages: str) -> str:
    """A digest of the source, recipes and suites of `packages`; installed or not makes no difference."""
    files: dict[str, str] = {}
    for package in packages:
        spec = find_spec(package)
        assert spec and spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        files |= {f"{package}/{p.relative_to(folder)}": _digest(p) for p in folder.rglob("*") if p.suffix in _CODE}
    return key_of(files)


def data_key(folder: Path) -> list[Any]:
    """A data set's digest, and size and time of each file: a file changed behind the manifest's back counts as well.

    Reading all of it to be sure would take as long as what the cache saves.
    """
    manifest = Dataset.open(folder).manifest
    names = [MANIFEST, *sorted(manifest.files)]
    return [manifest.digest, [(name, _state(folder / name)) for name in names]]


def folder_digest(folder: Path) -> str:
    """A digest of all files in `folder`, such as a model's."""
    return key_of({str(p.relative_to(folder)): _digest(p) for p in folder.rglob("*") if p.is_file()})


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

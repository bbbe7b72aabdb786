"""Package a registered version as one archive. The same version always gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from hire_model.data.schema import FileFacts, hash_file
from hire_model.files import atomic_write, find_cache_folder, is_disk_full, scratch_folder
from hire_model.model import artifact
from hire_model.packaging.bom import make_bom
from hire_model.packaging.rehearse import rehearse
from hire_model.packaging.signing import sign
from hire_model.packaging.verify import (
    BOM,
    GOLDEN,
    MANIFEST,
    MODEL,
    SERVER_MANIFEST,
    ArchiveError,
    ArchiveManifest,
    Golden,
    verify,
)
from hire_model.settings import Settings
from hire_model.storage import is_address, normalize, publish
from hire_model.tracking import registry, trust, versions
from hire_model.tracking.versions import Version

NAME = "hire"  # also in the URL path /predictions/hire
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip file
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PackagedArchive:
    """A published archive: its file here, its SHA-256, its registry version, and its place: that file or an address."""

    path: Path
    sha256: str
    version: str
    place: str


def package(version: str, settings: Settings, handler: Path, out: Path) -> PackagedArchive:
    """Write the archive OUT/VERSION/hire.mar, sign it, and record its place and SHA-256 in the registry.

    The file is published atomically, and only after a clean interpreter has scored the golden pairs from it. It is
    signed if settings.signing.private_key is set.

    Args:
        version: an alias (champion, challenger) or a number.
        settings: where the registry is.
        handler: the adapter's file; its only class answers requests.
        out: the folder of archives, or an address of `hire_model.storage`; the archive is then built in the cache.

    Raises:
        HireError: if there is no such version, the model is damaged or not the one that was registered and judged, it
            has no example pairs, or the scores differ.
    """
    registered = versions.find(settings.tracking, version)
    model = registry.fetch(registered.uri, settings.tracking)
    address = f"{normalize(out)}/{registered.number}" if is_address(out) else ""
    # Versions of other registries have the same numbers, so the folder in the cache is named by the place.
    folder = (
        find_cache_folder() / "archives" / hashlib.sha256(address.encode()).hexdigest()[:16]
        if address
        else out.expanduser()
    )
    target = folder / registered.number / f"{NAME}.mar"
    try:
        _build(registered, model, settings, handler, target)
    except (OSError, ArchiveError) as error:
        if is_disk_full(error):
            size = sum(path.stat().st_size for path in model.rglob("*")) / 1e6
            raise ArchiveError(
                f"{target}: the disk is full. Nothing was published. Packaging needs {size:,.0f} MB in this folder and "
                f"{4 * size:,.0f} MB in {tempfile.gettempdir()}. Free disk space, or use another disk with --out and "
                "TMPDIR; then repeat the command."
            ) from error
        if isinstance(error, OSError):
            raise ArchiveError(f"{target}: cannot be written: {error}. Nothing was published.") from error
        raise
    sign(target, settings.signing)
    digest = hash_file(target).sha256
    if address:
        publish(target.parent, address)
    place = f"{address}/{target.name}" if address else str(target.resolve())
    versions.record_archive(registered, settings.tracking, place, digest)
    return PackagedArchive(target, digest, registered.number, place)


def _build(registered: Version, model: Path, settings: Settings, handler: Path, target: Path) -> None:
    """Write the archive of the model folder `model` to `target`, after all checks."""
    with scratch_folder("hire-package-") as scratch:
        staging = scratch / "stage"
        shutil.copytree(model, staging / MODEL)
        trust.check_registered(staging / MODEL, registered)  # again: the copy is what is packaged
        trust.check_gated(staging / MODEL, registered)
        pairs = registry.read_example_request(registered, settings.tracking)["pairs"]
        golden = make_golden(staging / MODEL, pairs, registered)
        (staging / GOLDEN).write_text(golden.model_dump_json(indent=1) + "\n", "utf-8")
        (staging / BOM).write_text(make_bom(staging / MODEL, registered), "utf-8")
        raw = _run_archiver(staging, handler, registered.number, scratch)
        with atomic_write(target) as partial:
            _write_archive(raw, _make_manifest(model, registered), partial)
            verify(partial)
            difference = rehearse(partial)
            if not difference <= Golden.TOLERANCE:
                raise ArchiveError(
                    f"{registered.uri}: the scores of the golden pairs from the archive differ by {difference:.1e} "
                    f"from the model's scores here; at most {Golden.TOLERANCE} was expected. Nothing was published."
                )


def make_golden(model: Path, pairs: list[dict[str, Any]], version: Version) -> Golden:
    """Make golden pairs from `pairs`, with the scores that were recorded when the version was registered.

    Raise ArchiveError if the model in folder `model` gives other scores. Versions of earlier releases have no recorded
    scores; theirs are computed.
    """
    scores = registry.score_pairs(model, pairs)
    recorded = version.tags.get(versions.GOLDEN_SCORES)
    golden = Golden(request={"pairs": pairs}, scores=json.loads(recorded) if recorded else scores)
    difference = golden.measure_difference(scores)
    if not difference <= Golden.TOLERANCE:
        raise ArchiveError(
            f"{version.uri}: the scores of the golden pairs differ by {difference:.1e} from the scores recorded at "
            f"registration; at most {Golden.TOLERANCE} was expected. Nothing was published. The model or its example "
            "request was changed, or this machine scores differently."
        )
    return golden


def _make_manifest(model: Path, version: Version) -> ArchiveManifest:
    """Make the manifest, without files yet. It contains neither folder nor time, so repeated builds are equal."""
    facts = artifact.read_config(model)["facts"]
    return ArchiveManifest(
        model=version.name,
        version=version.number,
        run_id=version.run_id,
        dataset_digest=facts.get("data digest", ""),
        git_commit=facts.get("git.commit", ""),
        files={},
    )


def _run_archiver(staging: Path, handler: Path, version: str, scratch: Path) -> Path:
    """Run torch-model-archiver in its own TMPDIR, because it deletes and uses TMPDIR/NAME."""
    private = scratch / "tmp"
    private.mkdir()
    command = [
        str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", NAME, "--version", version,
        "--handler", str(handler), "--extra-files", str(staging), "--export-path", str(scratch),
    ]  # fmt: skip
    try:
        result = subprocess.run(
            command, env=os.environ | {"TMPDIR": str(private)}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ArchiveError("torch-model-archiver is not installed: pip install 'hire-model[serving]'.") from error
    if result.returncode:
        raise ArchiveError(f"torch-model-archiver failed: {(result.stderr or result.stdout).strip()[-600:]}")
    return scratch / f"{NAME}.mar"


def _write_archive(raw: Path, manifest: ArchiveManifest, target: Path) -> None:
    """Write the files of `raw`, sorted by name and without times, and add our manifest.

    Nothing is compressed: weights hardly get smaller, and another version of zlib would give other bytes.
    """
    files = {}
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as sink:
        for name in sorted(source.namelist()):
            with source.open(name) as content:
                files[name] = _add_file(
                    sink, name, _remove_time(content.read()) if name == SERVER_MANIFEST else content
                )
        manifest = manifest.model_copy(update={"files": files})
        _add_file(sink, MANIFEST, io.BytesIO(manifest.model_dump_json(indent=1).encode() + b"\n"))


def _remove_time(server_manifest: bytes) -> BinaryIO:
    content = json.loads(server_manifest) | {"createdOn": "01/01/1980 00:00:00"}
    return io.BytesIO(json.dumps(content, indent=1, sort_keys=True).encode())


def _add_file(sink: zipfile.ZipFile, name: str, content: IO[bytes]) -> FileFacts:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    digest, size = hashlib.sha256(), 0
    with sink.open(entry, "w", force_zip64=True) as file:
        while chunk := content.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return FileFacts(bytes=size, sha256=digest.hexdigest())

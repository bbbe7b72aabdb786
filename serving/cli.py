"""The commands `hire package`, `hire serve` and `hire demo`. Heavy imports happen inside the functions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hire_model.cli.gallery import find_gallery
from hire_model.cli.hints import print_next
from hire_model.cli.options import GALLERIES, OR_ADDRESS, GalleryFolder, VersionName, localize

if TYPE_CHECKING:
    from hire_model.settings import Settings
    from hire_model.tracking.versions import Archive
    from serving import server

Folder = Annotated[
    Path, typer.Option(metavar="FOLDER", file_okay=False, help="Folder for the server's files, logs and tokens.")
]

ARCHIVES = Path("runs/archives")
_SHARE = 0.1  # of the requests, in a journal


def package(
    version: VersionName = "champion",
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help=f"Output folder{OR_ADDRESS}. The archive is FOLDER/VERSION/hire.mar."),
    ] = ARCHIVES,
) -> None:
    """Build the archive of a registered version and check that it reproduces its golden pairs."""
    from hire_model.packaging.archive import package as build_archive
    from hire_model.settings import resolve
    from hire_model.tracking import versions
    from serving import HANDLER

    settings = resolve(None).settings
    archive = build_archive(version, settings, HANDLER, out)
    size = archive.path.stat().st_size / 1e6
    print(f"{archive.place}  {size:.1f} MB  version {archive.version}  SHA-256 {archive.sha256}")
    is_champion = versions.CHAMPION in versions.find(settings.tracking, archive.version).aliases
    print_next(["hire", "serve", *([] if is_champion else ["--version", archive.version])])


def serve(
    version: Annotated[
        str,
        typer.Option(help="Version number or alias. Default: champion; after a crash, the version served before."),
    ] = "",
    kind: Annotated[
        Literal["torchserve", "gunicorn"] | None,
        typer.Option("--server", help="Kind of server. A first server is torchserve, which needs Java."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1. A first server has 8080.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of worker processes, one thread each. A first server has 1.")
    ] = None,
    galleries: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=localize, help=f"Folder that contains galleries{OR_ADDRESS}."),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Record served scores in this folder, for 'hire monitor'.")
    ] = None,
    journal_share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of the requests to record.")] = _SHARE,
    journal_text: Annotated[bool, typer.Option("--journal-text", help="Record the sentences too.")] = False,
    folder: Folder = Path("runs/serve"),
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server and wait until it has ended.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Print version, address, health and memory.")] = False,
) -> None:
    """Serve a version with TorchServe or gunicorn. Replace a running server without downtime.

    A version without an archive is packaged first.

    The address stays the same. --server, --port, --workers, --galleries and --journal keep their last values if you
    leave them out, also after a crash; --stop forgets them.
    """
    from serving import server

    if stop:
        stopped = server.stop(folder)
        print("\n".join(f"Stopped version {each.version}." for each in stopped) or "No server was running.")
        return
    if status:
        state = server.get_status(folder)
        _print_status(state, server.find_crashed_version(folder))
        raise typer.Exit(0 if state and state.healthy else 1)
    from hire_model.errors import HireError
    from hire_model.files import check_writable
    from hire_model.monitoring.journal import JournalSettings
    from hire_model.settings import resolve

    if journal is None and (journal_share != _SHARE or journal_text):
        raise HireError("--journal-share and --journal-text need a journal. Add --journal FOLDER.")
    if galleries and not galleries.is_dir():
        raise HireError(f"--galleries {galleries}: no such folder. 'hire gallery build' creates 'galleries'.")
    journal_settings = JournalSettings(journal.resolve(), journal_share, journal_text) if journal else None
    if journal_settings:
        check_writable(journal_settings.folder / "part")
    version = version or server.find_crashed_version(folder) or "champion"
    archive = _find_or_build_archive(version, resolve(None).settings)
    running = server.serve(
        archive, folder, version=version, kind=kind, port=port, workers=workers, galleries=galleries,
        journal=journal_settings,
    )  # fmt: skip
    _print_access(running, folder)


def _find_or_build_archive(version: str, settings: Settings) -> Archive:
    """Return the archive of a version. Build it if there is none, or if its file is not on this machine.

    With signing.public_key, an archive without a valid signature is an error.
    """
    from hire_model.packaging.archive import package as build_archive
    from hire_model.packaging.signing import check_signature
    from hire_model.storage import is_address
    from hire_model.tracking import versions
    from serving import HANDLER

    found = versions.find(settings.tracking, version)
    path = found.tags.get(versions.ARCHIVE_PATH, "")
    if not path or not (is_address(path) or Path(path).is_file()):
        print(f"Version {found.number} has no archive {f'at {path}' if path else 'yet'}; packaging it.", flush=True)
        built = build_archive(found.number, settings, HANDLER, ARCHIVES)
        print(f"{built.path}  SHA-256 {built.sha256}", flush=True)
    archive = versions.find_archive(found.number, settings.tracking)
    check_signature(archive.path, settings.signing)
    return archive


def demo(
    gallery: GalleryFolder = GALLERIES,
    model: Annotated[
        str, typer.Option(help="Model address or folder. Default: the model that encoded the gallery.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 selects a free one.")] = 8090,
) -> None:
    """Show a gallery in the browser: search pictures by sentence, rank sentences for a picture, explain scores."""
    from hire_model.settings import resolve
    from serving import demo

    demo.run(model, find_gallery(gallery), port, resolve(None).settings.tracking)


def _print_status(status: server.Status | None, crashed: str) -> None:
    if status is None:
        ended = f"Version '{crashed}' was served and has ended. " if crashed else ""
        print(f"No server is running. {ended}Start {'it again' if crashed else 'one'}: hire serve")
        return
    health = "golden pairs right" if status.healthy else "golden pairs wrong or not answered"
    print(f"Version {status.server.version} at {status.address or status.server.address}: {health}.")
    workers = ", ".join(f"{size:.0f}" for size in status.worker_mb)
    print(f"Memory: {status.memory_mb:.0f} MB, including workers with {workers} MB. Files: {status.server.folder}")


def _print_access(running: server.Server, folder: Path) -> None:
    from serving.address import find_front
    from serving.contract import PREDICTIONS
    from serving.tokens import KEYS

    for label, path in (("Galleries", running.galleries), ("Journal", running.journal and running.journal.folder)):
        if path:
            print(f"{label}: {path}")
    front = find_front(folder)
    address = (front or running).address + PREDICTIONS
    print(f"Version {running.version} answers at {address}. Its scores for the golden pairs are right.")
    print(f"Token: {folder / KEYS} (address and token stay the same; for those of the proxy see docs/operations.md)")
    print(f"Try it: {format_curl_command(address, folder)}")


def format_curl_command(address: str, folder: Path) -> str:
    """Return a complete curl command for the server in `folder`. curl reads the token and the request from files."""
    from serving.server import CURRENT, EXAMPLE
    from serving.tokens import HEADER

    files = folder / CURRENT
    command = ["curl", "-s", "-w", "\\n", address, "-H", f"@{folder / HEADER}", "-H", "Content-Type: application/json"]
    return shlex.join([*command, "--data", f"@{files / EXAMPLE}"])

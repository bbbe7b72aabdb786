"""The commands `hire package`, `hire serve` and `hire demo`. Heavy imports happen inside the functions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.gallery import find_gallery
from hire_model.cli.hints import print_next
from hire_model.cli.options import GALLERIES, GalleryFolder, VersionName

if TYPE_CHECKING:
    from serving import server

Folder = Annotated[
    Path, typer.Option(metavar="FOLDER", file_okay=False, help="Folder for the server's files, logs and tokens.")
]

_SHARE = 0.1  # of the requests, in a journal


def package(
    version: VersionName = "champion",
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Output folder. The archive is FOLDER/VERSION/hire.mar.")
    ] = Path("runs/archives"),
) -> None:
    """Build the archive of a registered version and check that it reproduces its golden pairs."""
    from hire_model.packaging.archive import package as build_archive
    from hire_model.settings import resolve
    from hire_model.tracking import versions
    from serving import HANDLER

    settings = resolve(None).settings
    archive = build_archive(version, settings, HANDLER, out)
    size = archive.path.stat().st_size / 1e6
    print(f"{archive.path}  {size:.1f} MB  version {archive.version}  SHA-256 {archive.sha256}")
    is_champion = versions.CHAMPION in versions.find(settings.tracking, archive.version).aliases
    print_next(["hire", "serve", *([] if is_champion else ["--version", archive.version])])


def serve(
    version: VersionName = "champion",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of worker processes, one thread each. A first server has 1.")
    ] = None,
    galleries: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder that contains galleries.")] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Record served scores in this folder, for 'hire monitor'.")
    ] = None,
    journal_share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of the requests to record.")] = _SHARE,
    journal_text: Annotated[bool, typer.Option("--journal-text", help="Record the sentences too.")] = False,
    folder: Folder = Path("runs/serve"),
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server and wait until it has ended.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Print version, address, health and memory.")] = False,
) -> None:
    """Serve a packaged version with TorchServe. Replace a running server without downtime.

    --workers, --galleries and --journal keep the values of the running server if you leave them out.
    """
    from serving import server

    if stop:
        stopped = server.stop(folder)
        print("\n".join(f"Stopped version {each.version}." for each in stopped) or "No server was running.")
        return
    if status:
        state = server.get_status(folder)
        _print_status(state)
        raise typer.Exit(0 if state and state.healthy else 1)
    from hire_model.errors import HireError
    from hire_model.files import check_writable
    from hire_model.monitoring.journal import JournalSettings
    from hire_model.settings import resolve
    from hire_model.tracking.versions import find_archive

    if journal is None and (journal_share != _SHARE or journal_text):
        raise HireError("--journal-share and --journal-text need a journal. Add --journal FOLDER.")
    if galleries and not galleries.is_dir():
        raise HireError(f"--galleries {galleries}: no such folder. 'hire gallery build' creates 'galleries'.")
    journal_settings = JournalSettings(journal.resolve(), journal_share, journal_text) if journal else None
    if journal_settings:
        check_writable(journal_settings.folder / "part")
    running = server.serve(
        find_archive(version, resolve(None).settings.tracking), folder, port=port, workers=workers, galleries=galleries,
        journal=journal_settings,
    )  # fmt: skip
    _print_access(running, folder)


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


def _print_status(status: server.Status | None) -> None:
    if status is None:
        print("No server is running. Start one: hire serve")
        return
    health = "golden pairs right" if status.healthy else "golden pairs wrong or not answered"
    print(f"Version {status.server.version} at {status.server.address}: {health}.")
    workers = ", ".join(f"{size:.0f}" for size in status.worker_mb)
    print(f"Memory: {status.memory_mb:.0f} MB, including workers with {workers} MB. Files: {status.server.folder}")


def _print_access(running: server.Server, folder: Path) -> None:
    from serving.contract import PREDICTIONS
    from serving.server import CURRENT
    from serving.tokens import KEYS

    for label, path in (("Galleries", running.galleries), ("Journal", running.journal and running.journal.folder)):
        if path:
            print(f"{label}: {path}")
    address = running.address + PREDICTIONS
    print(f"Version {running.version} answers at {address}. Its scores for the golden pairs are right.")
    print(f"Tokens: {folder / CURRENT / KEYS} (valid for a year; for the tokens of the proxy see docs/operations.md)")
    print(f"Try it: {format_curl_command(address, folder)}")


def format_curl_command(address: str, folder: Path) -> str:
    """Return a complete curl command for the server in `folder`. curl reads the token and the request from files."""
    from serving.server import CURRENT, EXAMPLE
    from serving.tokens import HEADER

    files = folder / CURRENT
    command = ["curl", "-s", address, "-H", f"@{files / HEADER}", "-H", "Content-Type: application/json"]
    return shlex.join([*command, "--data", f"@{files / EXAMPLE}"])

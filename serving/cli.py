"""The commands `hire package`, `hire serve` and `hire demo`. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hire_model.cli.gallery import find_gallery
from hire_model.cli.options import GALLERIES, GalleryFolder, VersionName

if TYPE_CHECKING:
    from serving import server

Folder = Annotated[
    Path, typer.Option(metavar="FOLDER", file_okay=False, help="Where the server's files, logs and tokens lie.")
]

_SHARE = 0.1  # of the requests, in a journal


def package(
    version: VersionName = "champion",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The archive becomes FOLDER/VERSION/hire.mar.")] = Path(
        "runs/archives"
    ),
) -> None:
    """Build the archive of a registered version, and score its golden pairs from it."""
    from hire_model.packaging.archive import package as make
    from hire_model.settings import resolve
    from serving import HANDLER

    done = make(version, resolve(None).settings, HANDLER, out)
    size = done.path.stat().st_size / 1e6
    print(f"{done.path}  {size:.1f} MB  version {done.version}  SHA-256 {done.sha256}")
    print(f"Serve it: hire serve --version {done.version}")


def serve(
    version: VersionName = "champion",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 8080,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that score, each with one thread; 1 at first.")
    ] = None,
    galleries: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of galleries by name.")] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Log figures of scored pairs here, for 'hire monitor'.")
    ] = None,
    journal_share: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Share of the requests in the journal.")
    ] = _SHARE,
    journal_text: Annotated[bool, typer.Option("--journal-text", help="Log the sentences too.")] = False,
    folder: Folder = Path("runs/serve"),
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server, and return when it has stopped.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what is served, and how it is.")] = False,
) -> None:
    """Serve a packaged version with TorchServe; where one is served already, change to this one without a gap.

    Workers, galleries and journal that are not named stay as they are at the server that runs.
    """
    from serving import server

    if stop:
        ended = server.stop(folder)
        print("\n".join(f"Stopped version {one.version}." for one in ended) or "No server was running.")
        return
    if status:
        found = server.status(folder)
        _show(found)
        raise typer.Exit(0 if found and found.healthy else 1)
    from hire_model.errors import HireError
    from hire_model.files import check_writable
    from hire_model.monitoring.journal import JournalSettings
    from hire_model.settings import resolve
    from hire_model.tracking.versions import find_archive
    from serving.contract import PREDICTIONS

    if journal is None and (journal_share != _SHARE or journal_text):
        raise HireError("--journal-share and --journal-text say how the journal is kept; say where: --journal FOLDER.")
    if galleries and not galleries.is_dir():
        raise HireError(f"--galleries {galleries}: no such folder; 'hire gallery build' makes 'galleries'.")
    noted = JournalSettings(journal.resolve(), journal_share, journal_text) if journal else None
    if noted:
        check_writable(noted.folder / "part")
    running = server.serve(
        find_archive(version, resolve(None).settings.tracking), folder, port=port, workers=workers, galleries=galleries,
        journal=noted,
    )  # fmt: skip
    for what, place in (("Galleries", running.galleries), ("Journal", running.journal and running.journal.folder)):
        if place:
            print(f"{what}: {place}")
    tokens = folder / server.CURRENT / "key_file.json"
    print(f"Version {running.version} answers at {running.address}{PREDICTIONS}; its golden pairs were scored right.")
    print(f"Tokens: {tokens} (good for a year; those of the proxy: docs/operations.md)")
    print(f"Try it: {curl_line(running.address + PREDICTIONS, folder)}")


def demo(
    gallery: GalleryFolder = GALLERIES,
    model: Annotated[
        str, typer.Option(help="The model's address or folder; the one that encoded the gallery without it.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes a free one.")] = 8090,
) -> None:
    """Show a gallery in the browser: find pictures by a sentence, rank sentences for a picture, see why."""
    from hire_model.settings import resolve
    from serving import demo

    demo.run(model, find_gallery(gallery), port, resolve(None).settings.tracking)


def _show(found: server.Status | None) -> None:
    if found is None:
        print("No server is running. Start one: hire serve")
        return
    says = "answers, golden pairs right" if found.healthy else "does not answer its golden pairs right"
    print(f"Version {found.instance.version} at {found.instance.address}: {says}.")
    workers = ", ".join(f"{size:.0f}" for size in found.worker_mb)
    print(f"Memory {found.memory_mb:.0f} MB, of it workers {workers} MB. Files: {found.instance.folder}")


def curl_line(address: str, folder: Path) -> str:
    """A line that works as it is: it takes the token, and a request, from the files of the server in `folder`."""
    here = folder / "current"
    token = f"python3 -c \"import json; print(json.load(open('{here}/key_file.json'))['inference']['key'])\""
    return (
        f'curl -s {address} -H "Authorization: Bearer $({token})" -H "Content-Type: application/json" '
        f"--data @{here}/example.json"
    )

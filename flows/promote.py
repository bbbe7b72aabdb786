"""Flows `promote` and `package`: make a version the champion, and build its archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow, task
from pydantic import WithJsonSchema

from flows.parameters import Overrides, Recipe, Version, resolve_settings
from flows.prefect_support import RETRY_IO, name_runs, show_markdown
from hire_model.settings import Settings, TrackingSettings

Out = Annotated[
    Path,
    WithJsonSchema({"type": "string", "format": "path", "description": "Folder on the worker's machine for archives."}),
]


@flow(name="promote", flow_run_name=name_runs("promote"), log_prints=True)
def promote(version: Version = "challenger", recipe: Recipe = "", overrides: Overrides = ()) -> str:
    """Move the alias 'champion' to the version, and 'previous' to the old champion. Artifact: a summary.

    Returns:
        The number of the champion.

    Raises:
        HireError: the version has not passed the gate against the current champion.
    """
    summary, champion = move_aliases(resolve_settings(recipe, overrides=overrides).settings.tracking, version)
    show_markdown("promotion", summary)
    print(summary)
    return champion


@flow(name="package", flow_run_name=name_runs("package"), log_prints=True)
def package(
    version: Version = "champion",
    recipe: Recipe = "",
    overrides: Overrides = (),
    out: Out = Path("runs/archives"),
) -> str:
    """Build and verify the archive of a version. Return its path or address. Artifact: the same, and its SHA-256."""
    place, digest = build_archive(resolve_settings(recipe, overrides=overrides).settings, version, out)
    show_markdown("package", f"`{place}`\n\nSHA-256 `{digest}`")
    print(f"{place}, SHA-256 {digest}")
    return place


@task(name="move aliases", timeout_seconds=600, **RETRY_IO)
def move_aliases(settings: TrackingSettings, version: str) -> tuple[str, str]:
    """Promote the version; return a summary and the champion's number. A second call changes nothing."""
    from hire_model.tracking import promotion

    result = promotion.promote(settings, version)
    return result.summary(), result.champion


@task(name="build the archive", log_prints=True, timeout_seconds=3600, **RETRY_IO)
def build_archive(settings: Settings, version: str, out: Path) -> tuple[str, str]:
    """Build the archive; return its place and SHA-256."""
    import serving
    from hire_model.packaging import archive
    from hire_model.storage import is_address

    handler = Path(str(serving.__file__)).with_name("handler.py")
    built = archive.package(version, settings, handler, out if is_address(out) else out.resolve())
    return built.place, built.sha256

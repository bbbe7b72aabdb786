"""Flow `package`: a version as an archive that TorchServe takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow, task
from pydantic import WithJsonSchema

from flows import artifacts
from flows.parameters import Overrides, Recipe, Version, resolve_settings
from flows.retries import ON_IO
from hire_model.settings import Settings

Out = Annotated[
    Path,
    WithJsonSchema({"type": "string", "format": "path", "description": "Folder on the worker that takes the archive."}),
]


@flow(name="package", log_prints=True)
def package(
    version: Version = "champion",
    recipe: Recipe = "",
    overrides: Overrides = (),
    out: Out = Path("runs/archives"),
) -> Path:
    """Build and check the archive of a version; the artifact 'package' has its path and SHA-256. Returns the path."""
    path, digest = packaged(resolve_settings(recipe, overrides=overrides).settings, version, out)
    artifacts.markdown("package", f"`{path}`\n\nSHA-256 `{digest}`")
    print(f"{path}, SHA-256 {digest}")
    return path


@task(name="build the archive", log_prints=True, timeout_seconds=3600, **ON_IO)
def packaged(settings: Settings, version: str, out: Path) -> tuple[Path, str]:
    """(path, SHA-256) of the archive."""
    import serving
    from hire_model.packaging import archive

    done = archive.package(version, settings, Path(str(serving.__file__)).with_name("handler.py"), out.resolve())
    return done.path, done.sha256

"""`hire push` and `hire pull`: publish a folder on object storage, and copy one from there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hire_model.errors import HireError

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="Such as s3://BUCKET/NAME.")]


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Data set, gallery or folder with an archive.")],
    address: Address,
) -> None:
    """Publish a data set, a gallery or an archive on object storage. Readers see the old or the new folder."""
    from hire_model.storage import publish

    done = publish(folder, _check(address))
    typer.echo(f"{address}: {done.files:,} files, {done.sent:,} sent with {done.sent_bytes / 1e6:,.1f} MB.")


def pull(
    address: Address,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the copy; must not exist.")],
) -> None:
    """Copy a folder that 'hire push' published to this machine, and check every file."""
    from hire_model.storage import pull

    typer.echo(f"{pull(_check(address), folder)}: complete, all files match their SHA-256.")


def _check(address: str) -> str:
    from hire_model.storage import is_address

    if not is_address(address):
        raise HireError(f"ADDRESS {address}: expected an address such as s3://BUCKET/NAME.")
    return address

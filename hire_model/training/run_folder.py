"""The folder of a training. `runs/latest` is a link to that of the last one, so a new training replaces nothing."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from datetime import datetime
from pathlib import Path

from hire_model.settings import ResolvedSettings
from hire_model.training.checkpoint import lock_folder

log = logging.getLogger(__name__)
LATEST = "latest"
_TIME = "%Y%m%d-%H%M%S"  # local time


def choose_run_folder(resolved: ResolvedSettings, resume: bool) -> ResolvedSettings:
    """Return the settings with train.out set to the folder of this training.

    If train.out ends in `latest`, a new training gets a new folder beside it, named after the time, and `latest`
    becomes a link to it. A resumed training gets the folder that the link points to. Another train.out is not changed.
    """
    settings = resolved.settings
    out = find_run_folder(settings.train.out) if resume else _begin_run_folder(settings.train.out)
    train = settings.train.model_copy(update={"out": out})
    return dataclasses.replace(resolved, settings=settings.model_copy(update={"train": train}))


def find_run_folder(out: Path) -> Path:
    """Return the folder that `out` points to if it is a link; else `out`."""
    return out.parent / os.readlink(out) if out.is_symlink() else out


def _begin_run_folder(out: Path) -> Path:
    """Create the folder of a new training and the link `out`. Return `out` itself if it does not end in `latest`."""
    if out.name != LATEST:
        return out
    if out.is_dir() and not out.is_symlink():  # of an earlier release, or copied
        with lock_folder(out):
            kept = _find_free_name(out, datetime.fromtimestamp(out.stat().st_mtime))
            out.rename(kept)
        log.info("%s was the folder of an earlier training; it is %s now.", out, kept)
    folder = _find_free_name(out, datetime.now())
    with lock_folder(folder):  # creates it, or says that it cannot be written
        _link(out, folder)
    return folder


def _find_free_name(out: Path, time: datetime) -> Path:
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (out.with_name(time.strftime(_TIME) + name) for name in names)
    return next(path for path in paths if not path.exists())


def _link(out: Path, folder: Path) -> None:
    """Make `out` a link to `folder` atomically. Only log a warning where links are impossible."""
    new = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        new.symlink_to(folder.name, target_is_directory=True)
        os.replace(new, out)
    except OSError as error:
        new.unlink(missing_ok=True)
        log.warning(
            "%s cannot be a link to %s (%s). Use %s wherever the documentation says %s; to resume this training, add "
            "--set train.out=%s.",
            *(out, folder, error.strerror or error, folder, out, folder),
        )

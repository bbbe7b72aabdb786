"""The galleries of a server by name: subfolders of one folder, opened at the first request and kept open."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from threading import Lock

from hire_model.errors import HireError
from hire_model.gallery.format import MANIFEST
from hire_model.gallery.store import Gallery
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import RequestFault

log = logging.getLogger(__name__)
GALLERIES_VARIABLE = "HIRE_GALLERIES"
"""Environment variable that names the folder of galleries: a server's worker has no other settings."""


def find_galleries_folder() -> Path | None:
    """Return the folder that the environment variable HIRE_GALLERIES names, or None if it is not set."""
    folder = os.environ.get(GALLERIES_VARIABLE)
    return Path(folder) if folder else None


class Galleries:
    """Galleries by name, all encoded by the model of `scorer`.

    Args:
        folder: each of its subfolders is a gallery; None for no galleries.
        scorer: the model that must have encoded the galleries.
    """

    def __init__(self, folder: Path | None, scorer: Scorer) -> None:
        self.folder, self.scorer = folder, scorer
        self._lock = Lock()
        self._open: dict[str, tuple[int, Gallery | None]] = {}  # time of the manifest; None: this build is unusable
        self._added: dict[str, Gallery] = {}

    def add(self, name: str, gallery: Gallery) -> None:
        """Serve `gallery` under `name`, wherever its folder is. Raises HireError if another model encoded it."""
        gallery.check_model(self.scorer.model)
        self._added[name] = gallery

    def open(self, name: str, path: str) -> Gallery:
        """Return the gallery `name`. A gallery that was rebuilt is opened again.

        A name contains no separator (see contract.Name), so it cannot leave the folder. Raises RequestFault (404) with
        the JSON `path`.
        """
        if name in self._added:
            return self._added[name]
        manifest = self.folder / name / MANIFEST if self.folder else None
        if manifest is None or not manifest.is_file():
            raise RequestFault(404, path, f"there is no gallery '{name}' on this server.")
        stamp = manifest.stat().st_mtime_ns
        with self._lock:
            known = self._open.get(name)
            if known is None or known[0] != stamp:
                known = self._open[name] = (stamp, self._open_checked(manifest.parent, name))
        if known[1] is None:
            message = f"gallery '{name}' does not fit this model, or is damaged; build it again with this version."
            raise RequestFault(404, path, message)
        return known[1]

    def open_all(self) -> None:
        """Open every gallery now: checking the digests takes longer than a request may take."""
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")) if self.folder else []:
            with contextlib.suppress(RequestFault):  # it is logged, and each request for it is refused
                self.open(manifest.parent.name, "")

    def _open_checked(self, folder: Path, name: str) -> Gallery | None:
        try:
            gallery = Gallery.open(folder)
            gallery.check_model(self.scorer.model)
        except HireError as error:
            log.error("Gallery %s: %s", name, error)  # the answer contains no path of this machine
            return None
        return gallery

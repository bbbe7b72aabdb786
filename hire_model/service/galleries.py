"""The galleries of a server by name: subfolders of one folder. Each is opened at its first request and stays open."""

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
"""Environment variable with the folder of galleries. A server's worker gets its settings only in this way."""


def find_galleries_folder() -> Path | None:
    """Return the folder in the environment variable HIRE_GALLERIES, or None if it is not set."""
    folder = os.environ.get(GALLERIES_VARIABLE)
    return Path(folder) if folder else None


class Galleries:
    """Galleries by name, all encoded by the model of `scorer`.

    Args:
        folder: each of its subfolders is a gallery; None for no galleries.
        scorer: the model. A gallery that another model encoded is refused, the others are served.
        address: address of the model, for the command that builds a gallery again.
    """

    def __init__(self, folder: Path | None, scorer: Scorer, address: str = "MODEL") -> None:
        self.folder, self.scorer, self.address = folder, scorer, address
        self._lock = Lock()
        # By name: file and time of the manifest, and the gallery, or the reason why it cannot be used.
        self._open: dict[str, tuple[tuple[int, int], Gallery | str]] = {}
        self._added: dict[str, Gallery] = {}

    def add(self, name: str, gallery: Gallery) -> None:
        """Serve `gallery` under `name`; its folder can be anywhere. Raises HireError if another model encoded it."""
        gallery.check_model(self.scorer.model)
        self._added[name] = gallery

    def open(self, name: str, path: str) -> Gallery:
        """Return the gallery `name` in its current generation.

        A name contains no separator (see contract.Name), so it cannot leave the folder. Raises RequestFault (404) with
        the JSON `path` if there is no such gallery or it cannot be used.
        """
        if name in self._added:
            return self._added[name]
        manifest = f"{self.folder}/{name}/{MANIFEST}" if self.folder else ""
        try:
            facts = os.stat(manifest)
        except OSError as error:
            raise RequestFault(404, path, f"this server has no gallery '{name}'.") from error
        stamp = facts.st_ino, facts.st_mtime_ns  # each generation has a new file
        with self._lock:
            entry = self._open.get(name)
            if entry is None or entry[0] != stamp:
                previous = entry[1] if entry is not None and isinstance(entry[1], Gallery) else None
                entry = self._open[name] = (stamp, self._open_and_check(Path(manifest).parent, name, previous))
        if isinstance(entry[1], str):
            raise RequestFault(
                404,
                path,
                f"gallery '{name}' cannot be used: {entry[1]}. Build it again: hire gallery build DATASET "
                f"--model {self.address} --out GALLERIES/{name} --overwrite",
            )
        return entry[1]

    def open_all(self) -> None:
        """Open every gallery now and read its tables: both take longer than a request may take."""
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")) if self.folder else []:
            with contextlib.suppress(RequestFault):  # already logged; each request for this gallery gets the fault
                gallery = self.open(manifest.parent.name, "")
                gallery.find("")
                gallery.layout(0)

    def _open_and_check(self, folder: Path, name: str, previous: Gallery | None) -> Gallery | str:
        """Return the gallery, or the reason why it cannot be used, without paths: clients read it.

        Segments of the `previous` generation that did not change are not checked again.
        """
        reason = "it is damaged"
        try:
            gallery = Gallery.open(folder, previous)
            reason = "another model encoded it"
            gallery.check_model(self.scorer.model)
        except HireError as error:
            log.warning("Gallery %s is not served: %s", name, error)
            return reason
        return gallery

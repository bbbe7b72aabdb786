"""The galleries of a server: folders below one folder, opened when first asked for and kept open."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from threading import Lock

from hire_model.errors import HireError
from hire_model.gallery.format import MANIFEST, Gallery
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import RequestFault

log = logging.getLogger(__name__)
VARIABLE = "HIRE_GALLERIES"


def named() -> Path | None:
    """The folder of galleries that the environment names, if it does: a server's worker has no other settings."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


class Galleries:
    """Galleries by name: the subfolders of `folder`, each encoded by the model of `scorer`; none without a folder."""

    def __init__(self, folder: Path | None, scorer: Scorer) -> None:
        self.folder, self.scorer = folder, scorer
        self._lock = Lock()
        self._open: dict[str, tuple[int, Gallery | None]] = {}  # None: cannot be used, as long as it is the same
        self._kept: dict[str, Gallery] = {}

    def keep(self, name: str, gallery: Gallery) -> None:
        """Answer for `name` with `gallery`, wherever it lies. Raises HireError where another model encoded it."""
        gallery.check_model(self.scorer.model)
        self._kept[name] = gallery

    def open(self, name: str, path: str) -> Gallery:
        """The gallery `name`, opened again where it was built anew. Raises RequestFault (404) naming the JSON `path`.

        A name holds no separator (see contract.Name) and so cannot leave the folder.
        """
        if name in self._kept:
            return self._kept[name]
        manifest = self.folder / name / MANIFEST if self.folder else None
        if manifest is None or not manifest.is_file():
            raise RequestFault(404, path, f"there is no gallery '{name}' on this server.")
        stamp = manifest.stat().st_mtime_ns
        with self._lock:
            known = self._open.get(name)
            if known is None or known[0] != stamp:
                known = self._open[name] = (stamp, self._checked(manifest.parent, name))
        if known[1] is None:
            message = f"gallery '{name}' does not fit this model, or is damaged; build it again with this version."
            raise RequestFault(404, path, message)
        return known[1]

    def open_all(self) -> None:
        """Open every gallery that is there now: its digests are checked, which takes longer than a request may."""
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")) if self.folder else []:
            with contextlib.suppress(RequestFault):  # it is in the log; requests for it are told
                self.open(manifest.parent.name, "")

    def _checked(self, folder: Path, name: str) -> Gallery | None:
        try:
            gallery = Gallery.open(folder)
            gallery.check_model(self.scorer.model)
        except HireError as error:
            log.error("Gallery %s: %s", name, error)  # the answer tells no path of this machine
            return None
        return gallery

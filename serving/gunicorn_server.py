"""Start one gunicorn server. serving/wsgi.py is what it runs."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

from hire_model.files import atomic_write, make_scratch
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import extract
from serving.process import Server, copy_archive, find_free_ports, launch
from serving.tokens import KEYS


def start(
    archive: Path,
    sha256: str,
    version: str,
    folder: Path,
    *,
    workers: int = 1,
    galleries: Path | None = None,
    journal: JournalSettings | None = None,
) -> Server:
    """Start a server of `archive` in the empty folder `folder`, and return before it answers. Raises HireError."""
    copy = copy_archive(archive, sha256, folder)
    scratch = make_scratch("hire-serve-")
    model, socket, metrics = (scratch[0] / name for name in ("model", "http", "metrics"))
    extract(copy, model)
    metrics.mkdir()
    token, [port] = secrets.token_urlsafe(32), find_free_ports(1)
    with atomic_write(folder / KEYS, 0o600) as partial:
        partial.write_text(json.dumps({"inference": {"key": token}}) + "\n", "utf-8")
    options = [str(each) for each in (model, socket, folder.resolve() / KEYS, workers, port)]
    return launch(
        [sys.executable, "-I", "-m", "serving.wsgi", *options], folder, scratch, kind="gunicorn", version=version,
        sha256=sha256, workers=workers, galleries=galleries, journal=journal, socket=socket, metrics_port=port,
        variables={"PROMETHEUS_MULTIPROC_DIR": str(metrics)},
    )  # fmt: skip

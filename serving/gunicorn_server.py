"""Start one gunicorn server. serving/wsgi.py is what it runs."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

from hire_model.files import atomic_write, make_scratch
from hire_model.packaging.verify import extract
from serving.process import Deployment, Server, copy_archive, find_free_ports, launch
from serving.tokens import KEYS

COMMAND = [sys.executable, "-I", "-m", "serving.wsgi"]


def start(deployment: Deployment, folder: Path) -> Server:
    """Start the server of `deployment` in the empty folder `folder`, and return before it answers. Raises HireError."""
    copy = copy_archive(deployment, folder)
    scratch = make_scratch("hire-serve-")
    model, socket, metrics = (scratch[0] / name for name in ("model", "http", "metrics"))
    extract(copy, model)
    metrics.mkdir()
    token, [port] = secrets.token_urlsafe(32), find_free_ports(1)
    with atomic_write(folder / KEYS, 0o600) as partial:
        partial.write_text(json.dumps({"inference": {"key": token}}) + "\n", "utf-8")
    options = [str(each) for each in (model, socket, folder.resolve() / KEYS, deployment.workers, port)]
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    return launch(
        [*COMMAND, *options], deployment, folder, scratch, variables, kind="gunicorn", socket=socket, metrics_port=port
    )

"""A gunicorn server for serving_load.py: with a handler that does nothing, or with several threads per worker.

python benchmarks/other_wsgi.py nothing|THREADS MODEL SOCKET KEYS WORKERS METRICS_PORT     as serving.wsgi
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from serving.wsgi import HireServer, StartResponse, _Body


class EmptyServer(HireServer):
    """Reads each request and returns "{}"."""

    def load(self) -> Any:
        """Return the application. It needs no model."""
        return answer_nothing


class ThreadedServer(HireServer):
    """The server of `hire serve` with several threads per worker."""

    def load_config(self) -> None:
        """Set the number of threads after the fork: threads of the master would not exist in the workers."""
        super().load_config()
        self.cfg.set("post_fork", lambda arbiter, worker: torch.set_num_threads(int(sys.argv[1])))


def answer_nothing(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request as `HireApp`, without a service, a token and metrics."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return _Body(b"{}", environ.get("gunicorn.socket"))


if __name__ == "__main__":
    server = EmptyServer if sys.argv[1] == "nothing" else ThreadedServer
    model, listen, keys = (Path(each) for each in sys.argv[2:5])
    server(model, listen, keys, int(sys.argv[5]), int(sys.argv[6])).run()

"""The gunicorn server of `hire serve --server gunicorn`: the contract as a WSGI application.

    python -I -m serving.wsgi MODEL SOCKET KEYS WORKERS METRICS_PORT        serving/gunicorn_server.py starts it

MODEL is the unpacked archive, KEYS the file with the token. The server listens on the file SOCKET, which only its owner
can open, so its only clients are the front and the proxy. They send complete requests.

The master process loads the model and forks the workers, which share its memory. A worker takes a connection only when
it is idle, so the queue of the socket distributes the requests and limits how many wait. A killed worker is replaced at
once; the front repeats its request. A worker that is busy for more than TIMEOUT_S is killed.
"""

from __future__ import annotations

import gc
import json
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication

from hire_model.service.contract import PROBE, TRACEPARENT, Fault
from hire_model.service.parsing import Request
from hire_model.service.service import Reply, Service
from hire_model.service.timings import Timings
from serving.front import MAX_BODY
from serving.metrics import Metrics, serve_metrics
from serving.process import QUEUE

TIMEOUT_S = 15  # as default_response_timeout in serving/config/config.properties
_PATH = re.compile(r"/(?:predictions|(?P<explain>explanations))/hire(?:/(?P<version>[0-9]+))?")
_PROBE, _TRACEPARENT = ("HTTP_" + name.upper().replace("-", "_") for name in (PROBE, TRACEPARENT))
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Body(list[bytes]):
    """Body of an answer. gunicorn calls `close` when it is sent.

    Close the connection then. gunicorn would wait until the client has closed it, to protect answers to requests that
    are not read completely, and an answer on a Unix socket stays readable.
    """

    def __init__(self, content: bytes, connection: socket.socket | None) -> None:
        super().__init__([content])
        self.connection = connection

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()


class HireApp:
    """WSGI application of one worker: answers one request at a time."""

    def __init__(self, service: Service, token: str, metrics: Metrics) -> None:
        self.service, self.metrics = service, metrics
        self.authorization = f"Bearer {token}".encode()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request with the status and the body of the service. Never raises."""
        start, size = time.time(), int(environ.get("CONTENT_LENGTH") or 0)
        sent = environ["wsgi.input"].read(size) if size <= MAX_BODY else None
        reply, timings = self._answer(environ, sent)
        body = reply.body.encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        self.metrics.count_request(timings, reply.status, environ.get("HTTP_X_REQUEST_START", ""), start)
        return _Body(body, environ.get("gunicorn.socket") if sent is not None else None)

    def _answer(self, environ: dict[str, Any], body: bytes | None) -> tuple[Reply, Timings]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if not secrets.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode(), self.authorization):
            return self._refuse(401, "no valid token.")
        if path == "/ping" and method == "GET":
            return Reply(200, '{"status": "Healthy"}'), Timings()
        match = _PATH.fullmatch(path)
        if match is None or match["version"] not in (None, self.service.facts.version):
            return self._refuse(404, f"no such path; this server has version {self.service.facts.version}.")
        if method != "POST":
            return self._refuse(405, "use POST for this path.")
        if body is None:
            return self._refuse(413, f"the body is larger than {MAX_BODY >> 20} MiB.")
        probe, traceparent = environ.get(_PROBE) == "1", environ.get(_TRACEPARENT, "")
        request = Request(body, explain=bool(match["explain"]), probe=probe, traceparent=traceparent)
        try:
            [reply], timings = self.service.answer([request])
        except SystemExit:  # gunicorn ends a worker that is busy for too long with SIGABRT; answer before it exits
            return self._refuse(503, f"the request took longer than {TIMEOUT_S} s: send less.")
        return reply, timings

    def _refuse(self, status: int, message: str) -> tuple[Reply, Timings]:
        fault = Fault(status=status, path="", message=message, model=self.service.facts)
        return Reply(status, fault.model_dump_json()), Timings()


class HireServer(BaseApplication):
    """gunicorn with the settings of `hire serve`. Nothing is read from gunicorn's own files and variables."""

    def __init__(self, model: Path, listen: Path, keys: Path, workers: int, metrics_port: int) -> None:
        self.model, self.listen, self.keys, self.workers, self.metrics_port = model, listen, keys, workers, metrics_port
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's configuration."""
        settings = {
            "bind": f"unix:{self.listen}", "umask": 0o077, "backlog": QUEUE * self.workers,
            "workers": self.workers, "worker_class": "sync", "preload_app": True, "timeout": TIMEOUT_S,
            "graceful_timeout": TIMEOUT_S, "control_socket_disable": True, "proc_name": "hire",
            "when_ready": self._start_metrics,
        }  # fmt: skip
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> HireApp:
        """Verify and load the model, and check its golden pairs. After an exception the server does not start."""
        import torch

        from hire_model.packaging.opening import open_service

        torch.set_num_threads(1)  # a second thread per worker makes a shared machine slower; and threads end in a fork
        token = str(json.loads(self.keys.read_text("utf-8"))["inference"]["key"])
        start = time.time()
        service = open_service(self.model)
        return HireApp(service, token, Metrics(load_seconds=time.time() - start))

    def _start_metrics(self, _: object) -> None:
        serve_metrics(self.metrics_port)
        gc.collect()
        gc.freeze()  # the workers do not write to the memory of these objects, so it stays shared


if __name__ == "__main__":
    model, listen, keys = (Path(each) for each in sys.argv[1:4])
    HireServer(model, listen, keys, int(sys.argv[4]), int(sys.argv[5])).run()

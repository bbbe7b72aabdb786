"""An HTTP server that answers each request with the next step of a script, to produce faults on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int, body: bytes = b"") -> Step:
    """Return a step that answers with `status` and `body`."""

    def step(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return step


def drop(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.close_connection = True
    request.connection.close()


def hang(seconds: float) -> Step:
    """Return a step that accepts the request and does not answer it."""

    def step(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        time.sleep(seconds)

    return step


def drip(seconds: float) -> Step:
    """Return a step that sends an endless header, byte by byte."""

    def step(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        end = time.monotonic() + seconds
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while time.monotonic() < end:
            try:
                request.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.05)

    return step


@dataclass
class ScriptedServer:
    """The server's address, the remaining steps, the requests received, and the highest number of them at a time."""

    address: str = ""
    steps: list[Step] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    open_requests: int = 0
    most_open_requests: int = 0


@contextmanager
def run_scripted_server(*steps: Step) -> Iterator[ScriptedServer]:
    """Run a server of `steps`; it repeats the last one."""
    record, lock = ScriptedServer(steps=list(steps)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                record.paths.append(self.path)
                record.bodies.append(body)
                record.headers.append(dict(self.headers.items()))
                step = record.steps.pop(0) if len(record.steps) > 1 else record.steps[0]
                record.open_requests += 1
                record.most_open_requests = max(record.most_open_requests, record.open_requests)
            try:
                step(self)
            finally:
                with lock:
                    record.open_requests -= 1

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    record.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A server that answers as a test says, one step per request: for faults that a real server has only now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[[BaseHTTPRequestHandler], None]


def says(status: int, body: bytes = b"") -> Step:
    """Answers."""

    def step(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return step


def drops(request: BaseHTTPRequestHandler) -> None:
    """Loses the connection."""
    request.close_connection = True
    request.connection.close()


def hangs(seconds: float) -> Step:
    """Takes the request, and never answers it."""

    def step(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        time.sleep(seconds)

    return step


def drips(seconds: float) -> Step:
    """Sends a header byte by byte."""

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
class Scripted:
    """What it was asked: bodies, headers, and the most requests at a time."""

    address: str = ""
    steps: list[Step] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    at_once: int = 0
    most: int = 0


@contextmanager
def scripted(*steps: Step) -> Iterator[Scripted]:
    """A server of `steps`; the last one is repeated."""
    told, lock = Scripted(steps=list(steps)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                told.bodies.append(body)
                told.headers.append(dict(self.headers.items()))
                step = told.steps.pop(0) if len(told.steps) > 1 else told.steps[0]
                told.at_once += 1
                told.most = max(told.most, told.at_once)
            try:
                step(self)
            finally:
                with lock:
                    told.at_once -= 1

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

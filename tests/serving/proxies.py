"""Run an unprivileged nginx with serving/deploy/nginx.conf in a folder like that of `hire serve`."""

from __future__ import annotations

import os
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from serving.process import Server, find_free_ports

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
TOKEN = "a-token-of-the-proxy"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TRACES = {
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": True,
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more": False,
    "nonsense": False,
}
"""Values of the header traceparent, and whether front and proxy forward them."""
ECHO_SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        time.sleep(0.02)
        answer = repr([sys.argv[2], self.path, sorted(self.headers.items()), len(body)]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_GET = do_POST
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def find_nginx() -> str:
    """Return the path of nginx, or skip the test."""
    path = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    return path or pytest.skip("nginx is not installed: apt-get install -y nginx")


def write_proxy_files(folder: Path, server: Server, listen: str = "") -> int:
    """Write the files of `hire serve` and of its user that nginx reads into `folder`. Return the port of the proxy."""
    [port] = find_free_ports(1)
    (folder / "nginx.conf").write_text((DEPLOY / "nginx.conf").read_text("utf-8"))
    (folder / "listen.conf").write_text(listen.format(port=port) or f"listen 127.0.0.1:{port};\n")
    (folder / "clients.conf").write_text(f'"Bearer {TOKEN}" laptop;\n')
    (folder / "upstream.conf").write_text(f"server {server.upstream};\n")
    current = folder / "current"
    if not current.exists():
        current.symlink_to(server.folder, target_is_directory=True)
    return port


@contextmanager
def run_proxy(folder: Path, port: int) -> Iterator[str]:
    """Run nginx until the block ends, and yield its address."""
    user = "user root;" if os.geteuid() == 0 else ""  # nginx as root would switch to a user who cannot read the folder
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [find_nginx(), "-p", f"{folder}/", "-c", "nginx.conf", "-g", f"daemon off; {user}"], stdout=log, stderr=log
        )
    try:
        _wait_until_listening(port, process, folder / "nginx.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def run_echo_server(folder: Path, name: str) -> Iterator[Server]:
    """Run a server that answers with [name, path, headers, body size] of the request. Yield its record."""
    [port] = find_free_ports(1)
    process = subprocess.Popen([sys.executable, "-c", ECHO_SERVER, str(port), name])
    server_folder = folder / name
    server_folder.mkdir()
    (server_folder / "token.conf").write_text(f'proxy_set_header Authorization "Bearer of-{name}";\n')
    try:
        _wait_until_listening(port, process, server_folder)
        yield Server(
            folder=server_folder, scratch=server_folder / "scratch", pid=process.pid,
            started=psutil.Process(process.pid).create_time(), version="1", sha256="", inference_port=port,
            management_port=1, metrics_port=2,
        )  # fmt: skip
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def hold_half_headers(port: int, most: int = 2000) -> Iterator[int]:
    """Keep connections to `port` open that send half a header, and open them again when they are closed.

    Yield their number: `most`, or what the limit of open files allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(most, hard - 300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end, full, opened = threading.Event(), threading.Event(), selectors.DefaultSelector()

    def hold() -> None:
        while not end.wait(0.2):
            for key, _ in opened.select(0):  # readable: closed by the server
                opened.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
            while len(opened.get_map()) < count and not end.is_set():
                with suppress(OSError):
                    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
                    raw.sendall(b"POST /predictions/hire HTTP/1.1\r\nHost: ")
                    opened.register(raw, selectors.EVENT_READ)
            full.set()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert full.wait(60)
        yield count
    finally:
        end.set()
        holder.join()
        for key in list(opened.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text() if log.is_file() else "the process ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no process listens on port {port}")

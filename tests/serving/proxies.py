"""A real nginx with serving/deploy/nginx.conf, unprivileged, in a folder as `hire serve` has it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from serving.instance import Instance, free_ports

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
TOKEN = "a-token-of-the-proxy"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NOTHING = """
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
    """nginx, or a skip that says how to get it."""
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    return found or pytest.skip("nginx is not installed: apt-get install -y nginx")


def files_for(folder: Path, instance: Instance, listen: str = "") -> int:
    """Write into `folder` what `hire serve` and its user write there; the port of the proxy."""
    [port] = free_ports(1)
    (folder / "nginx.conf").write_text((DEPLOY / "nginx.conf").read_text("utf-8"))
    (folder / "listen.conf").write_text(listen.format(port=port) or f"listen 127.0.0.1:{port};\n")
    (folder / "clients.conf").write_text(f'"Bearer {TOKEN}" laptop;\n')
    (folder / "upstream.conf").write_text(f"server 127.0.0.1:{instance.inference_port};\n")
    current = folder / "current"
    if not current.exists():
        current.symlink_to(instance.folder, target_is_directory=True)
    return port


@contextmanager
def proxy(folder: Path, port: int) -> Iterator[str]:
    """The proxy's address, while it runs."""
    user = "user root;" if os.geteuid() == 0 else ""  # as root, it would become a user that cannot read the folder
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [find_nginx(), "-p", f"{folder}/", "-c", "nginx.conf", "-g", f"daemon off; {user}"], stdout=log, stderr=log
        )
    try:
        _wait(port, process, folder / "nginx.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def nothing(folder: Path, name: str) -> Iterator[Instance]:
    """A server that tells what it was sent, its record as of `hire serve`; `name` is part of what it tells."""
    [port] = free_ports(1)
    process = subprocess.Popen([sys.executable, "-c", NOTHING, str(port), name])
    place = folder / name
    place.mkdir()
    (place / "token.conf").write_text(f'proxy_set_header Authorization "Bearer of-{name}";\n')
    try:
        _wait(port, process, place)
        yield Instance(
            folder=place, scratch=place / "scratch", pid=process.pid, started=psutil.Process(process.pid).create_time(),
            version="1", sha256="", inference_port=port, management_port=1, metrics_port=2,
        )  # fmt: skip
    finally:
        process.kill()
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text() if log.is_file() else "it ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")

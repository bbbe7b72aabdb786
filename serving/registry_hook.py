"""Serve the champion whenever its alias moves: a receiver for the webhooks of an MLflow server.

    python -m serving.registry_hook SECRET_FILE [--hook-port 8070] [options of hire serve]

A delivery must be signed with the secret and be younger than five minutes. It only says that something changed: the
receiver runs `hire serve --version champion`, which reads the alias and checks the version itself. Deliveries that
arrive during a run cause one more run. docs/registry.md has the recipe.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hire_model.errors import HireError
from hire_model.settings import resolve
from hire_model.tracking.versions import CHAMPION

log = logging.getLogger("hire_model.registry_hook")
PORT, MAX_BODY, MAX_AGE_S = 8070, 64 << 10, 300
_ID, _TIME, _SIGNATURE = "X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature"
_EVENT = ("model_version_alias", "created")  # MLflow sends it also when an alias moves


def is_authentic(secret: bytes, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether a delivery was signed with `secret` (HMAC-SHA256) within MAX_AGE_S of `now`, a Unix time."""
    delivery, sent, signature = (headers.get(name) or "" for name in (_ID, _TIME, _SIGNATURE))
    digest = hmac.new(secret, f"{delivery}.{sent}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    fresh = sent.isdecimal() and len(sent) < 12 and abs(now - int(sent)) <= MAX_AGE_S
    return bool(delivery) and fresh and hmac.compare_digest(signature.encode(), expected)


class Receiver(ThreadingHTTPServer):
    """Listens on 127.0.0.1:PORT. `run` is called in one thread, after the champion of `model` has changed."""

    daemon_threads = True

    def __init__(self, port: int, secret: bytes, model: str, run: Callable[[], object]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.secret, self.model, self.run = secret, model, run
        self.seen: deque[str] = deque(maxlen=1000)  # delivery ids, so that a repeated delivery does nothing
        self.changed = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        """Take a delivery. Return the status of its answer."""
        if not is_authentic(self.secret, headers, body, time.time()):
            return 401
        try:
            sent = json.loads(body)
            event, name, alias = (sent["entity"], sent["action"]), sent["data"]["name"], sent["data"].get("alias")
        except (ValueError, LookupError, TypeError, AttributeError):
            return 400
        delivery = headers[_ID]
        if (event, name, alias) == (_EVENT, self.model, CHAMPION) and delivery not in self.seen:
            self.seen.append(delivery)
            self.changed.set()
        return 204

    def _work(self) -> None:
        while self.changed.wait():
            self.changed.clear()
            try:
                self.run()
            except Exception:
                log.exception("The champion is not served. What was served before is unchanged")


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 10

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length") or ""
        if not size.isdecimal() or len(size) > 9 or int(size) > MAX_BODY:
            self.send_error(413)
            return
        self.send_response(self.server.receive(self.headers, self.rfile.read(int(size))))  # type: ignore[arg-type]
        self.end_headers()


def main(arguments: list[str]) -> None:
    """Receive webhooks until the process is ended. Serve the present champion first."""
    parser = argparse.ArgumentParser(prog="python -m serving.registry_hook", allow_abbrev=False)
    parser.add_argument("secret", type=Path, metavar="SECRET_FILE")
    parser.add_argument("--hook-port", type=int, default=PORT, metavar="PORT")
    parsed, options = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        secret = parsed.secret.read_bytes().strip()
    except OSError as error:
        raise HireError(f"{parsed.secret}: the secret cannot be read: {error}.") from error
    if len(secret) < 16:
        raise HireError(f"{parsed.secret}: expected a secret of 16 bytes or more: openssl rand -hex 32")
    command = [sys.executable, "-m", "hire_model", "serve", "--version", CHAMPION, *options]
    model = resolve(None).settings.tracking.model_name
    receiver = Receiver(parsed.hook_port, secret, model, lambda: subprocess.run(command, check=True))
    log.info("Waiting on http://127.0.0.1:%s for the champion of '%s'", receiver.server_port, model)
    receiver.changed.set()
    receiver.serve_forever()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HireError as error:
        sys.exit(str(error))

"""The receiver of MLflow's webhooks: what it accepts, and when it serves the champion."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import httpx
import pytest

from hire_model.errors import HireError
from serving.registry_hook import MAX_AGE_S, MAX_BODY, Receiver, main

SECRET = b"sixteen bytes or more"
MOVED = {"entity": "model_version_alias", "action": "created", "data": {"name": "hire", "alias": "champion"}}


@pytest.fixture
def runs() -> Queue[str]:
    return Queue()


@pytest.fixture
def address(runs: Queue[str]) -> Iterator[str]:
    with Receiver(0, SECRET, "hire", lambda: runs.put("served")) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{receiver.server_port}"
        receiver.shutdown()


def sign(body: bytes, age: float = 0, delivery: str = "1", secret: bytes = SECRET) -> dict[str, str]:
    """Return the headers of a delivery as MLflow sends them."""
    sent = str(int(time.time() - age))
    digest = hmac.new(secret, f"{delivery}.{sent}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(digest).decode()
    return {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": sent, "X-MLflow-Signature": signature}


def test_the_champion_is_served_once_per_delivery(address: str, runs: Queue[str]) -> None:
    body = json.dumps(MOVED).encode()
    for delivery, expected in (("1", 1), ("1", 0), ("2", 1)):
        assert httpx.post(address, content=body, headers=sign(body, delivery=delivery)).status_code == 204
        for _ in range(expected):
            runs.get(timeout=30)
        with pytest.raises(Empty):
            runs.get(timeout=0.2)


@pytest.mark.parametrize(
    "change",
    [{"action": "deleted"}, {"entity": "model_version_tag"}, {"data": {"name": "other", "alias": "champion"}},
     {"data": {"name": "hire", "alias": "challenger"}}, {"data": {"name": "hire"}}],
)  # fmt: skip
def test_other_events_do_nothing(change: dict[str, object], address: str, runs: Queue[str]) -> None:
    body = json.dumps(MOVED | change).encode()
    assert httpx.post(address, content=body, headers=sign(body)).status_code == 204
    with pytest.raises(Empty):
        runs.get(timeout=0.2)


def test_a_delivery_without_a_valid_signature_is_refused(address: str, runs: Queue[str]) -> None:
    body = json.dumps(MOVED).encode()
    good = sign(body)
    wrong = [
        {}, sign(body, secret=b"another secret"), sign(body + b" "), sign(body, age=MAX_AGE_S + 60),
        sign(body, age=-MAX_AGE_S - 60), good | {"X-MLflow-Timestamp": str(int(time.time()) - 1)},
        good | {"X-MLflow-Delivery-Id": "3"}, good | {"X-MLflow-Signature": ""}, good | {"X-MLflow-Timestamp": "x"},
    ]  # fmt: skip
    assert [httpx.post(address, content=body, headers=each).status_code for each in wrong] == [401] * len(wrong)
    assert httpx.post(address, content=b"[]", headers=sign(b"[]")).status_code == 400
    assert httpx.post(address, content=b"x" * (MAX_BODY + 1)).status_code == 413
    assert httpx.get(address).status_code == 501
    with pytest.raises(Empty):
        runs.get(timeout=0.2)


def test_a_failed_run_does_not_end_the_receiver() -> None:
    calls: Queue[str] = Queue()

    def fail() -> None:
        calls.put("called")
        raise OSError("no champion")

    with Receiver(0, SECRET, "hire", fail) as receiver:
        for _ in range(2):
            receiver.changed.set()
            assert calls.get(timeout=30) == "called"


def test_a_short_or_missing_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HireError, match="cannot be read"):
        main([str(tmp_path / "nowhere")])
    (tmp_path / "secret").write_text("short\n")
    with pytest.raises(HireError, match="16 bytes"):
        main([str(tmp_path / "secret")])

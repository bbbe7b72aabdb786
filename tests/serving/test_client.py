"""The client: typed answers and errors, retries until the deadline, and tokens only for the server itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import answer, drip, drop, hang, run_scripted_server

from hire_model.data.store import Split
from serving import client, messages
from serving.client import (
    AsyncHireClient,
    BadRequest,
    ClientError,
    DeadlineExceeded,
    HireClient,
    NotFound,
    StoredImage,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

MODEL = {"name": "hire", "version": "1", "run_id": "r", "weights_sha256": "0"}
ANSWER_SCORE = answer(200, json.dumps({"model": MODEL, "scores": [0.5]}).encode())
NO_TOKEN = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
PAIR = [(StoredImage(gallery="g", id="1"), "a dog")]


def _make_fault(status: int, path: str) -> bytes:
    return json.dumps({"status": status, "path": path, "message": "why", "model": MODEL}).encode()


def test_a_string_in_place_of_a_list_of_sentences_is_refused() -> None:
    refused = pytest.raises(BadRequest, match=r"expected a list of sentences, as in \['a dog'\]")
    with HireClient("http://127.0.0.1:1", "token") as hire, refused:
        hire.search("g", "a dog")


@pytest.mark.parametrize(
    "fault",
    [answer(500), answer(503, b'{"code": 503, "type": "x", "message": "busy"}'), answer(507), answer(502), drop],
)
def test_a_temporary_fault_is_retried_with_the_same_request(fault: Any) -> None:
    with run_scripted_server(fault, fault, ANSWER_SCORE) as server, HireClient(server.address) as hire:
        result = hire.score(PAIR)
    assert result.scores == [0.5] and result.model.version == "1"
    assert len(server.bodies) == 3 and len(set(server.bodies)) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "path"),
    [
        (400, _make_fault(400, "pairs[0].image"), BadRequest, "pairs[0].image"),
        (404, _make_fault(404, "gallery"), NotFound, "gallery"),
        (413, _make_fault(413, ""), TooLarge, ""),
        (413, b"", TooLarge, ""),
        (429, b"<html>slow down</html>", TooManyRequests, ""),
        (401, b'{"detail": "Wrong token."}', Unauthorized, ""),
        (400, json.dumps(NO_TOKEN).encode(), Unauthorized, ""),
        (405, b"", ClientError, ""),
        (302, b"", ClientError, ""),
        (200, b"<html>welcome</html>", ClientError, ""),
    ],
)
def test_a_refused_request_is_not_retried_and_raises_the_error_of_its_status(
    status: int, body: bytes, kind: type[ClientError], path: str
) -> None:
    with (
        run_scripted_server(answer(status, body)) as server,
        HireClient(server.address, lambda: "t") as hire,
        pytest.raises(ClientError) as caught,
    ):
        hire.score(PAIR)
    assert type(caught.value) is kind and (caught.value.status, caught.value.path) == (status, path)
    assert str(caught.value) and len(server.bodies) == 1


@given(
    status=st.integers(201, 599),
    content=st.binary() | st.just(b"[" * 100_000) | st.text().map(json.dumps).map(str.encode),
)
def test_every_answer_other_than_200_becomes_an_error_with_its_status(status: int, content: bytes) -> None:
    error = messages.to_error(status, content)
    assert error.status == status and str(error) and isinstance(error, Unavailable) == (status >= 500)


def test_a_request_to_a_hung_server_is_retried() -> None:
    with run_scripted_server(hang(20), ANSWER_SCORE) as server, HireClient(server.address, attempt=0.5) as hire:
        assert hire.score(PAIR).scores == [0.5]
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("step", "kind"), [(hang(20), DeadlineExceeded), (drip(20), DeadlineExceeded), (answer(503), Unavailable)]
)
def test_a_call_ends_at_its_deadline(step: Any, kind: type[ClientError]) -> None:
    with run_scripted_server(step) as server, HireClient(server.address, deadline=100) as hire:
        start = time.monotonic()
        with pytest.raises(ClientError, match="no answer within 1 s") as caught:
            hire.score(PAIR, deadline=1)
        seconds = time.monotonic() - start
    assert type(caught.value) is kind and 0.9 < seconds < 4


def test_a_missing_server_raises_an_error_that_names_it(tmp_path: Path) -> None:
    with HireClient("http://127.0.0.1:9") as hire:
        with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9"):
            hire.score(PAIR, deadline=0.5)
        assert hire.health(deadline=0.3) is False
    with pytest.raises(ClientError, match="not a server address"):
        HireClient("localhost:8080")
    with pytest.raises(ClientError, match="nowhere: no such folder"):
        HireClient(tmp_path / "nowhere")
    with HireClient(tmp_path) as hire, pytest.raises(Unavailable, match="Start one: hire serve"):
        hire.score(PAIR, deadline=0.5)
    hire.close()
    with pytest.raises(ClientError, match="has been closed"):
        hire.health()


def test_a_refused_token_is_read_again_once(tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text('{"inference": {"key": "old"}}')
    refused = answer(400, json.dumps(NO_TOKEN).encode())

    def renew_and_refuse(request: Any) -> None:
        keys.write_text('{"inference": {"key": "new"}}')
        refused(request)

    with run_scripted_server(renew_and_refuse, ANSWER_SCORE) as server, HireClient(server.address, keys) as hire:
        assert hire.score(PAIR).scores == [0.5] and hire.score(PAIR).scores == [0.5]
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer old", "Bearer new", "Bearer new"]
    keys.unlink()
    with HireClient("http://127.0.0.1:9", keys) as hire, pytest.raises(Unauthorized, match=r"key_file\.json"):
        hire.score(PAIR)


def test_the_limit_of_connections_is_kept() -> None:
    def answer_slowly(request: Any) -> None:
        time.sleep(0.05)
        ANSWER_SCORE(request)

    with (
        run_scripted_server(answer_slowly) as server,
        HireClient(server.address, connections=3) as hire,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(lambda _: hire.score(PAIR), range(24)))
    assert len(answers) == 24 and server.most_open_requests == 3


def test_a_proxy_of_the_environment_receives_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_scripted_server(ANSWER_SCORE) as server, run_scripted_server(ANSWER_SCORE) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with HireClient(server.address) as hire:
            hire.score(PAIR)
    assert len(server.bodies) == 1 and not proxy.bodies


def test_an_invalid_request_is_refused_before_sending(scenes: Split) -> None:
    image = scenes.regions(0)
    broken = replace(image, features=np.full_like(image.features, np.nan))
    with run_scripted_server(ANSWER_SCORE) as server, HireClient(server.address) as hire:
        for call, path in (
            (lambda: hire.score([(image, "a"), (broken, "b")]), "pairs[1].image"),
            (lambda: hire.score([(image, "")]), "pairs[0].text"),
            (lambda: hire.score([]), "pairs"),
            (lambda: hire.matrix([image, broken], ["a"]), "images[1]"),
            (lambda: hire.score([(image, "\ud800")]), "pairs[0].text"),
            (lambda: hire.score([("photo.jpg", "a")]), "pairs[0].image"),  # type: ignore[list-item]
            (lambda: hire.rank([image], ["a"], top_k=0), "top_k"),
            (lambda: hire.search("../etc", ["a"]), "gallery"),
            (lambda: hire.search("g"), ""),
        ):
            with pytest.raises(BadRequest) as caught:
                call()
            assert (caught.value.path, caught.value.status) == (path, 0)
    assert not server.bodies


def test_python_exits_with_an_open_client() -> None:
    code = "from serving.client import HireClient; HireClient('http://127.0.0.1:9').health(deadline=0.1); print('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "end\n" and not done.stderr


def test_both_clients_have_the_same_methods() -> None:
    def list_public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert list_public(HireClient) == list_public(AsyncHireClient)
    assert set(client.__all__) <= set(vars(client)) and messages.Image is not None

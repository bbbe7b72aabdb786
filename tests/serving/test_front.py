"""The front of `hire serve`: the same address for all versions, and what it refuses."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from proxies import TRACES, hold_half_headers, run_echo_server

from serving import server
from serving.address import Front, ServeState, find_front, read_state, start_front, write_state
from serving.client import HireClient
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.front import MAX_BODY, MAX_WAITING
from serving.process import ServeError, Server, find_free_ports
from serving.tokens import HEADER, KEYS

pytestmark = pytest.mark.live


def make_current(folder: Path, upstream: Server) -> None:
    """Make the echo server `upstream` the current server, with its own token."""
    (upstream.folder / "server.json").write_text(upstream.model_dump_json())
    keys = {"inference": {"key": f"of-{upstream.folder.name}"}}
    (upstream.folder / KEYS).write_text(json.dumps(keys))
    server._make_current(folder, upstream)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    with run_echo_server(folder, "first") as upstream:
        make_current(folder, upstream)
        front = start_front(folder, find_free_ports(1)[0])
        yield front
        front.stop()


@pytest.fixture
def headers(front: Front) -> dict[str, str]:
    return {"Authorization": f"Bearer {front.get_token()}", "Content-Type": "application/json"}


def read_answer(raw: socket.socket) -> tuple[int, dict[str, object]]:
    """Read an answer up to its end. Return status and body."""
    raw.settimeout(60)
    received = b""
    while b"\r\n\r\n" not in received or not received.partition(b"\r\n\r\n")[2].endswith(b"\n"):
        part = raw.recv(1 << 16)
        if not part:
            break
        received += part
    assert received.startswith(b"HTTP/1.1 "), received
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])


def connect(front: Front) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=60)


def test_only_path_body_and_trace_are_forwarded_with_the_servers_token(front: Front, headers: dict[str, str]) -> None:
    extra = {"explain": "True", "Cookie": "a=b", "Connection": "close", "ts_request_sequence_id": "1"}
    for path in (PREDICTIONS, PREDICTIONS + "/3", EXPLANATIONS):
        answer = httpx.post(f"{front.address}{path}?url=file:///x", content=b"{}", headers=headers | extra, timeout=60)
        name, forwarded, received, size = ast.literal_eval(answer.text)
        assert (name, forwarded, size) == ("first", path, 2)
        assert dict(received)["Authorization"] == "Bearer of-first"
        assert {key.lower() for key, _ in received} == {"authorization", "content-length", "content-type", "host"}
    assert httpx.get(f"{front.address}/ping", timeout=60).status_code == 200
    for trace, forwarded in TRACES.items():
        send = [*headers.items(), ("Traceparent", trace)]
        received = ast.literal_eval(httpx.post(front.address + PREDICTIONS, content=b"{}", headers=send).text)[2]
        assert dict(received).get("traceparent") == (trace if forwarded else None)
    assert (front.folder / HEADER).read_text() == f"Authorization: {headers['Authorization']}\n"
    assert all((front.folder / name).stat().st_mode & 0o077 == 0 for name in (HEADER, KEYS))


@pytest.mark.parametrize(
    ("method", "path", "changed", "status"),
    [
        ("POST", PREDICTIONS, {"Authorization": ""}, 401),
        ("POST", PREDICTIONS, {"Authorization": "Bearer wrong"}, 401),
        ("POST", PREDICTIONS, {"Authorization": "Bearer of-first"}, 200),  # the token of the current server
        *[(method, PREDICTIONS, {}, 405) for method in ("GET", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH")],
        ("POST", "/ping", {}, 405),
        ("POST", PREDICTIONS, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", PREDICTIONS, {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ("POST", PREDICTIONS, {"Content-Encoding": "gzip"}, 415),
        *[("POST", path, {}, 404) for path in (
            "/", "/v1/models/hire:predict", "/v2/models/hire/infer", "/invocations", "/models", "/predictions/other",
            "/predictions/hire/x", "/predictions/hire/../../models", "/explanations/hire/1",
        )],
    ],
)  # fmt: skip
def test_other_requests_are_refused_in_the_form_of_the_contract(
    front: Front, headers: dict[str, str], method: str, path: str, changed: dict[str, str], status: int
) -> None:
    answer = httpx.request(method, front.address + path, content=b"{}", headers=headers | changed, timeout=60)
    assert answer.status_code == status
    if status != 200:
        fault = answer.json()
        assert list(fault) == ["status", "path", "message", "model"] and fault["status"] == status and fault["message"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET / HTTP/9.0\r\nHost: a\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"CONNECT example.org:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST http://example.org/ping HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"POST /predictions/hire HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501),
        (b"POST /predictions/hire HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 413),
    ],
)
def test_invalid_http_is_refused_in_the_form_of_the_contract(front: Front, lines: bytes, status: int) -> None:
    with connect(front) as raw:
        raw.sendall(lines)
        found, fault = read_answer(raw)
    assert found == status == fault["status"] and fault["message"]


def format_lines(headers: dict[str, str], **more: object) -> bytes:
    fields = headers | {"Host": "a"} | {name.replace("_", "-"): str(value) for name, value in more.items()}
    lines = [f"POST {PREDICTIONS} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def test_bodies_are_read_completely_and_too_large_ones_are_refused(front: Front, headers: dict[str, str]) -> None:
    large = httpx.post(front.address + PREDICTIONS, content=bytes(MAX_BODY), headers=headers, timeout=120)
    assert ast.literal_eval(large.text)[3] == MAX_BODY
    chunks = (b"{" for _ in range(3))
    chunked = httpx.post(front.address + PREDICTIONS, content=chunks, headers=headers, timeout=60)
    assert ast.literal_eval(chunked.text)[3] == 3, "chunks are put together"
    with connect(front) as raw:
        raw.sendall(format_lines(headers, Content_Length=MAX_BODY + 1))
        assert read_answer(raw)[0] == 413
    with connect(front) as raw:
        raw.sendall(format_lines(headers, Content_Length=1, Expect="100-continue"))
        assert raw.recv(100).startswith(b"HTTP/1.1 100 ")


def test_the_memory_of_large_bodies_goes_back_to_the_system(front: Front, headers: dict[str, str]) -> None:
    process = front.find_process()
    assert process is not None
    before, chunk = process.memory_full_info().uss, b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(front)) for _ in range(8)]
        for raw in opened:
            raw.sendall(format_lines(headers, **{"Transfer-Encoding": "chunked"}))
        for _ in range(16):
            for raw in opened:
                raw.sendall(chunk)
        held = process.memory_full_info().uss
        for raw in opened:
            raw.sendall(chunk)
            assert read_answer(raw)[0] == 413
    assert held > before + (64 << 20) and process.memory_full_info().uss < before + (32 << 20)


def test_pipelined_requests_are_answered_in_order(front: Front, headers: dict[str, str]) -> None:
    sizes = [5, 1, 4, 2, 3]
    with connect(front) as raw:
        raw.sendall(b"".join(format_lines(headers, Content_Length=n) + b"x" * n for n in sizes))
        received = b""
        while received.count(b"'first'") < len(sizes):
            received += raw.recv(1 << 16)
            time.sleep(0.05)
    bodies = [line for line in received.decode().splitlines() if line.startswith("['first'")]
    assert [int(body.split("]")[-2].rpartition(",")[2]) for body in bodies] == sizes


def test_a_stalled_body_gets_408_and_a_silent_connection_is_closed(front: Front, headers: dict[str, str]) -> None:
    with connect(front) as stalled, connect(front) as half, connect(front) as silent:
        stalled.sendall(format_lines(headers, Content_Length=9) + b"{")
        half.sendall(b"POST /predictions/hire HTTP/1.1\r\nHost:")
        assert read_answer(half)[0] == 408 and read_answer(stalled)[0] == 408
        silent.settimeout(60)
        assert silent.recv(10) == b""


def test_two_thousand_half_sent_headers_do_not_delay_others(front: Front, headers: dict[str, str]) -> None:
    """Half-open connections beyond a bound are closed, the oldest first."""
    with hold_half_headers(front.port) as count:
        answers = [
            httpx.post(front.address + PREDICTIONS, content=b"{}", headers=headers, timeout=10) for _ in range(40)
        ]
    assert count > MAX_WAITING and [answer.status_code for answer in answers] == [200] * 40


def test_the_address_and_the_token_stay_while_the_server_is_replaced_and_restarted(tmp_path: Path) -> None:
    """No request of a client without retries fails; without a server, it gets 503 and Retry-After."""
    answers: list[httpx.Response] = []
    end, port = threading.Event(), find_free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(run_echo_server(tmp_path, name)) for name in ("old", "new"))
        make_current(tmp_path, old)
        front = start_front(tmp_path, port)
        stack.callback(front.stop)
        headers = {"Authorization": f"Bearer {front.get_token()}", "Content-Type": "application/json"}
        client = stack.enter_context(httpx.Client(timeout=60))

        def send_requests() -> None:
            while not end.wait(0.03):
                answers.append(client.post(front.address + PREDICTIONS, content=b"{}", headers=headers))

        threads = [threading.Thread(target=send_requests) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        make_current(tmp_path, new)
        start = time.monotonic()
        server._drain(old)
        assert time.monotonic() - start < server.DRAIN_S, "the front keeps no connection to the old server"
        old.find_process().kill()  # type: ignore[union-attr]
        time.sleep(1)
        end.set()
        for thread in threads:
            thread.join()
        assert start_front(tmp_path, port) == front, "a running front is used again"
        (tmp_path / "current").unlink()
        answer = client.post(front.address + PREDICTIONS, content=b"{}", headers=headers)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["status"]) == (503, "2", 503)
        make_current(tmp_path, new)
        assert client.post(front.address + PREDICTIONS, content=b"{}", headers=headers).status_code == 200
        os.kill(front.pid, 9)
        while find_front(tmp_path):
            time.sleep(0.05)
        again = start_front(tmp_path, port)
        stack.callback(again.stop)
        assert again.get_token() == front.get_token() and again.pid != front.pid
        with HireClient(tmp_path) as hire:
            assert hire.health()
    assert {answer.status_code for answer in answers} == {200}
    assert {ast.literal_eval(answer.text)[0] for answer in answers} == {"old", "new"}


def test_a_used_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ServeError, match="used by another program"):
        start_front(tmp_path, other.getsockname()[1])
    assert find_front(tmp_path) is None


def test_what_should_run_is_remembered_until_stop(tmp_path: Path) -> None:
    state = ServeState(version="champion", port=9000, workers=2, galleries=tmp_path)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state and server.find_crashed_version(tmp_path) == "champion"
    server.stop(tmp_path)
    assert read_state(tmp_path) is None and server.find_crashed_version(tmp_path) == ""
    (tmp_path / "serve.json").write_text("{")
    with pytest.raises(ServeError, match=r"serve\.json: cannot be read"):
        read_state(tmp_path)

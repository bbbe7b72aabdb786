"""nginx with serving/deploy/nginx.conf: what it forwards, what it refuses, and its limits."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest
from hostile_inputs import generate_corpus
from proxies import BEARER, TRACES, hold_half_headers, run_echo_server, run_proxy, write_proxy_files

from hire_model.data.store import Split
from hire_model.service.payload import serialize_image
from serving import server
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.process import Server

pytestmark = pytest.mark.live
JSON = BEARER | {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def echo_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a proxy in front of the echo server."""
    folder = tmp_path_factory.mktemp("proxy")
    with (
        run_echo_server(folder, "first") as upstream,
        run_proxy(folder, write_proxy_files(folder, upstream)) as address,
    ):
        yield f"http://{address}", folder


@pytest.fixture
def client(echo_proxy: tuple[str, Path]) -> Iterator[httpx.Client]:
    time.sleep(0.5)  # let the rate limit recover after the previous test
    with httpx.Client(base_url=echo_proxy[0], timeout=60, trust_env=False) as client:
        yield client


def test_only_path_body_and_trace_are_forwarded(client: httpx.Client) -> None:
    for path in (PREDICTIONS, PREDICTIONS + "/3", EXPLANATIONS, "/predictions/%68ire"):
        extra = {"explain": "True", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "ts_request_sequence_id": "1"}
        answer = client.post(path + "?url=file:///etc/passwd&body=1", content=b"{}", headers=JSON | extra)
        name, forwarded_path, headers, size = ast.literal_eval(answer.text)
        assert (name, size) == ("first", 2) and forwarded_path == path.replace("%68", "h")
        assert {key.lower() for key, _ in headers} == {"authorization", "content-length", "content-type", "host"}
        assert dict(headers)["Authorization"] == "Bearer of-first", "the server's token, not the client's"
    for trace, forwarded in TRACES.items():
        answer = client.post(PREDICTIONS, content=b"{}", headers=JSON | {"Traceparent": trace})
        assert dict(ast.literal_eval(answer.text)[2]).get("traceparent") == (trace if forwarded else None)
    assert client.get("/ping").status_code == 200, "a load balancer can use /ping without a token"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", PREDICTIONS, {"Content-Type": "application/json"}, 401),
        ("POST", PREDICTIONS, JSON | {"Authorization": "Bearer of-first"}, 401),
        ("POST", PREDICTIONS, JSON | {"Authorization": "bearer"}, 401),
        ("GET", PREDICTIONS, JSON, 405),
        ("PUT", PREDICTIONS, JSON, 405),
        ("DELETE", EXPLANATIONS, JSON, 405),
        ("POST", "/ping", JSON, 405),
        ("POST", PREDICTIONS, BEARER, 415),
        ("POST", PREDICTIONS, BEARER | {"Content-Type": "application/jsonp"}, 415),
        ("POST", PREDICTIONS, BEARER | {"Content-Type": "application/json; charset=utf-16"}, 415),
        ("POST", PREDICTIONS, JSON | {"Content-Encoding": "gzip"}, 415),
        *[("POST", path, JSON, 404) for path in (
            "/", "/models", "/models/hire", "/workflows", "/wfpredict/hire", "/metrics", "/api-description", "/token",
            "/predictions/other", "/predictions/hire/", "/predictions/hire/1/2", "/predictions/hire/../../models",
            "/predictions/hire/x", "/explanations/hire/1", "/predictions", "/fault", "/v2/models/hire/infer",
        )],
    ],
)  # fmt: skip
def test_every_other_request_is_refused_with_a_message(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, content=b"{}", headers=headers)
    fault = answer.json()
    assert (answer.status_code, fault["status"]) == (status, status) and fault["message"]
    assert answer.headers["content-type"] == "application/json" and "nginx/" not in str(answer.headers)


def test_a_large_body_is_refused_before_it_is_read(client: httpx.Client) -> None:
    answer = client.post(PREDICTIONS, content=bytes(16 << 20), headers=JSON)
    assert answer.status_code == 200
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as raw:
        lines = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: {BEARER['Authorization']}\r\n"
        raw.sendall(f"{lines}Content-Type: application/json\r\nContent-Length: {(16 << 20) + 1}\r\n\r\n".encode())
        assert raw.recv(20).startswith(b"HTTP/1.1 413 ")


def test_requests_above_the_rate_limit_get_429_and_retry_after(client: httpx.Client) -> None:
    answers = []

    def send_requests() -> None:
        for _ in range(40):
            answers.append(client.post(PREDICTIONS, content=b"{}", headers=JSON))

    threads = [threading.Thread(target=send_requests) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and len(answers) - len(refused) >= 100 and {a.status_code for a in answers} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" and answer.json()["status"] == 429 for answer in refused)


def test_a_slow_client_is_disconnected_and_does_not_delay_others(client: httpx.Client) -> None:
    start = time.monotonic()
    lines = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: {BEARER['Authorization']}\r\n".encode()
    slow = [socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) for _ in range(4)]
    for i, raw in enumerate(slow):
        raw.sendall(lines + (b"" if i % 2 else b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"))
    assert client.post(PREDICTIONS, content=b"{}", headers=JSON).status_code == 200
    ends = [raw.recv(1000) for raw in slow]
    assert time.monotonic() - start < 40 and all(end == b"" or b" 408 " in end for end in ends)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET / HTTP/9.0\r\nHost: a\r\n\r\n", 505),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT example.org:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
        (b"POST /predictions/hire HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501),
    ],
)
def test_invalid_http_is_refused_in_the_form_of_the_contract(client: httpx.Client, lines: bytes, status: int) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as raw:
        raw.sendall(lines)
        head, _, body = raw.recv(1 << 16).partition(b"\r\n\r\n")
        fault = json.loads(body or raw.recv(1 << 16))
    assert int(head.split()[1]) == status == fault["status"] and "unavailable" not in fault["message"]


def test_two_thousand_half_sent_headers_do_not_delay_others(client: httpx.Client) -> None:
    with hold_half_headers(client.base_url.port):
        answers = [client.post(PREDICTIONS, content=b"{}", headers=JSON, timeout=10) for _ in range(40)]
    assert [answer.status_code for answer in answers] == [200] * 40


def test_a_missing_upstream_gives_502_and_retry_after(
    client: httpx.Client, echo_proxy: tuple[str, Path], tmp_path: Path
) -> None:
    with run_echo_server(tmp_path, "gone") as gone:
        port = write_proxy_files(tmp_path, gone)
    with run_proxy(tmp_path, port) as address:
        answer = httpx.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON, timeout=60)
    assert answer.status_code == 502 and answer.headers["retry-after"] == "2" and answer.json()["status"] == 502


def test_no_request_fails_while_the_server_is_replaced(tmp_path: Path) -> None:
    """The replacement of `hire serve`, for clients that do not retry."""
    answers, end = [], threading.Event()
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(run_echo_server(tmp_path, name)) for name in ("old", "new"))
        address = stack.enter_context(run_proxy(tmp_path, write_proxy_files(tmp_path, old)))
        client = stack.enter_context(httpx.Client(timeout=60))

        def send_requests() -> None:
            while not end.wait(0.03):
                answers.append(client.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON))

        threads = [threading.Thread(target=send_requests) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server._make_current(tmp_path, new)
        server._drain(old)
        process = old.find_process()
        assert process is not None
        process.kill()
        time.sleep(1)
        end.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    received = [ast.literal_eval(answer.text) for answer in answers]
    assert {name for name, *_ in received} == {"old", "new"}
    assert all(dict(headers)["Authorization"] == f"Bearer of-{name}" for name, _, headers, _ in received)


def test_https_works_with_the_lines_of_listen_conf(tmp_path: Path) -> None:
    """The commented lines of listen.conf, for access from other machines."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *files],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    lines = (Path(server.__file__).parent / "deploy" / "listen.conf").read_text("utf-8").splitlines()
    tls = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    assert tls[0] == "listen 443 ssl;"
    listen = "\n".join(["listen 127.0.0.1:{port} ssl;", *tls[1:]])
    with (
        run_echo_server(tmp_path, "behind") as upstream,
        run_proxy(tmp_path, write_proxy_files(tmp_path, upstream, listen)) as address,
    ):
        answer = httpx.post(f"https://{address}{PREDICTIONS}", content=b"{}", headers=JSON, verify=False, timeout=60)
        plain = httpx.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON, timeout=60)
    assert answer.status_code == 200 and plain.status_code == 400


@pytest.mark.parametrize(("name", "inputs"), [("torchserve", None), ("gunicorn", 40)])
def test_a_real_server_behind_the_proxy_answers_without_5xx(
    request: pytest.FixtureRequest, scenes: Split, tmp_path: Path, name: str, inputs: int | None
) -> None:
    """The proxy does not change scores and errors, and no input of the hostile corpus gets a 5xx."""
    running: Server = request.getfixturevalue(name)
    pair = {"image": json.loads(serialize_image(scenes.regions(0))), "text": scenes.texts[0]}
    body = json.dumps({"pairs": [pair]}).encode()
    with (
        run_proxy(tmp_path, write_proxy_files(tmp_path, running)) as address,
        httpx.Client(base_url=f"http://{address}", timeout=60, trust_env=False) as client,
    ):
        answer = client.post(PREDICTIONS, content=body, headers=JSON)
        assert answer.json() == server.send_request(running, {"pairs": [pair]}).json()
        rerank = {"query": scenes.texts[0], "documents": ["scenes/" + scenes.image_id(0)]}
        answers = [client.post(path, json=rerank, headers=BEARER) for path in ("/rerank", "/v1/rerank", "/v2/rerank")]
        assert [each.json() for each in answers] == [server.send_request(running, rerank).json()] * 3
        assert client.get("/ping").json() == {"status": "Healthy"}
        assert client.post(PREDICTIONS, content=b"{", headers=JSON).json()["model"]["version"] == "1"
        for hostile in islice(generate_corpus(pair), inputs):
            answer = client.post(hostile.path, content=hostile.body, headers=[*hostile.headers, *BEARER.items()])
            assert answer.status_code in {200, 400, 404, 405, 413, 414, 415}, f"{hostile.label}: {answer.text[:500]}"
            assert not hostile.is_form or answer.status_code == 415, hostile.label
            time.sleep(0.02)

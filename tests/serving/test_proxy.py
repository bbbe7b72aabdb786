"""serving/deploy/nginx.conf in a real nginx: what it lets through, what it refuses, what it bounds."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hostile_inputs import corpus
from proxies import BEARER, files_for, nothing, proxy

from hire_model.data.store import Split
from hire_model.service.payload import serialize_image
from serving import server
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.instance import Instance

pytestmark = pytest.mark.live
JSON = BEARER | {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A proxy before a server that tells what it was sent: its address and its folder."""
    folder = tmp_path_factory.mktemp("proxy")
    with nothing(folder, "first") as upstream, proxy(folder, files_for(folder, upstream)) as address:
        yield f"http://{address}", folder


@pytest.fixture
def client(door: tuple[str, Path]) -> Iterator[httpx.Client]:
    time.sleep(0.5)  # what the test before used up of the rate comes back
    with httpx.Client(base_url=door[0], timeout=60, trust_env=False) as made:
        yield made


def test_only_path_and_body_are_handed_on(client: httpx.Client) -> None:
    for path in (PREDICTIONS, PREDICTIONS + "/3", EXPLANATIONS, "/predictions/%68ire"):
        more = {"explain": "True", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "ts_request_sequence_id": "1"}
        answer = client.post(path + "?url=file:///etc/passwd&body=1", content=b"{}", headers=JSON | more)
        name, seen, headers, size = ast.literal_eval(answer.text)
        assert (name, size) == ("first", 2) and seen == path.replace("%68", "h")
        assert {key.lower() for key, _ in headers} == {"authorization", "content-length", "content-type", "host"}
        assert dict(headers)["Authorization"] == "Bearer of-first", "the server's token, not the client's"
    assert client.get("/ping").status_code == 200, "a load balancer has no token"


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
def test_the_rest_is_refused_in_words(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, content=b"{}", headers=headers)
    said = answer.json()
    assert (answer.status_code, said["status"]) == (status, status) and said["message"]
    assert answer.headers["content-type"] == "application/json" and "nginx/" not in str(answer.headers)


def test_a_large_body_is_refused_before_it_is_read(client: httpx.Client) -> None:
    answer = client.post(PREDICTIONS, content=bytes(16 << 20), headers=JSON)
    assert answer.status_code == 200
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as raw:
        lines = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: {BEARER['Authorization']}\r\n"
        raw.sendall(f"{lines}Content-Type: application/json\r\nContent-Length: {(16 << 20) + 1}\r\n\r\n".encode())
        assert raw.recv(20).startswith(b"HTTP/1.1 413 ")


def test_too_many_requests_get_429_and_when_to_come_again(client: httpx.Client) -> None:
    answers = []

    def ask() -> None:
        for _ in range(40):
            answers.append(client.post(PREDICTIONS, content=b"{}", headers=JSON))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and len(answers) - len(refused) >= 100 and {a.status_code for a in answers} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" and answer.json()["status"] == 429 for answer in refused)


def test_a_slow_client_is_cut_off_and_holds_up_nobody(client: httpx.Client) -> None:
    start = time.monotonic()
    lines = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: {BEARER['Authorization']}\r\n".encode()
    slow = [socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) for _ in range(4)]
    for place, raw in enumerate(slow):
        raw.sendall(lines + (b"" if place % 2 else b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"))
    assert client.post(PREDICTIONS, content=b"{}", headers=JSON).status_code == 200
    ends = [raw.recv(1000) for raw in slow]
    assert time.monotonic() - start < 40 and all(end == b"" or b" 408 " in end for end in ends)


def test_no_server_behind_it(client: httpx.Client, door: tuple[str, Path], tmp_path: Path) -> None:
    with nothing(tmp_path, "gone") as gone:
        port = files_for(tmp_path, gone)
    with proxy(tmp_path, port) as address:
        answer = httpx.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON, timeout=60)
    assert answer.status_code == 502 and answer.headers["retry-after"] == "2" and answer.json()["status"] == 502


def test_another_version_takes_over_unnoticed(tmp_path: Path) -> None:
    """As `hire serve` does it, for a client that never tries again."""
    answers, end = [], threading.Event()
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(nothing(tmp_path, name)) for name in ("old", "new"))
        address = stack.enter_context(proxy(tmp_path, files_for(tmp_path, old)))
        client = stack.enter_context(httpx.Client(timeout=60))

        def ask() -> None:
            while not end.wait(0.03):
                answers.append(client.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for one in threads:
            one.start()
        time.sleep(0.5)
        server._switch(tmp_path, new)
        server._drain(old)
        process = old.process()
        assert process is not None
        process.kill()
        time.sleep(1)
        end.set()
        for one in threads:
            one.join()
    assert {answer.status_code for answer in answers} == {200}
    told = [ast.literal_eval(answer.text) for answer in answers]
    assert {name for name, *_ in told} == {"old", "new"}
    assert all(dict(headers)["Authorization"] == f"Bearer of-{name}" for name, _, headers, _ in told)


def test_with_a_certificate(tmp_path: Path) -> None:
    """The lines of listen.conf for other machines."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *files],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    lines = (Path(server.__file__).parent / "deploy" / "listen.conf").read_text("utf-8").splitlines()
    tls = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    assert tls[0] == "listen 443 ssl;"
    listen = "\n".join(["listen 127.0.0.1:{port} ssl;", *tls[1:]])
    with nothing(tmp_path, "behind") as upstream, proxy(tmp_path, files_for(tmp_path, upstream, listen)) as address:
        answer = httpx.post(f"https://{address}{PREDICTIONS}", content=b"{}", headers=JSON, verify=False, timeout=60)
        plain = httpx.post(f"http://{address}{PREDICTIONS}", content=b"{}", headers=JSON, timeout=60)
    assert answer.status_code == 200 and plain.status_code == 400


def test_before_a_real_server(torchserve: Instance, scenes: Split, tmp_path: Path) -> None:
    """Right scores, the contract's faults as they are, and of the corpus nothing gets a 5xx."""
    pair = {"image": json.loads(serialize_image(scenes.regions(0))), "text": scenes.texts[0]}
    body = json.dumps({"pairs": [pair]}).encode()
    with (
        proxy(tmp_path, files_for(tmp_path, torchserve)) as address,
        httpx.Client(base_url=f"http://{address}", timeout=60, trust_env=False) as client,
    ):
        answer = client.post(PREDICTIONS, content=body, headers=JSON)
        assert answer.json() == server.ask(torchserve, {"pairs": [pair]}).json()
        assert client.get("/ping").json() == {"status": "Healthy"}
        assert client.post(PREDICTIONS, content=b"{", headers=JSON).json()["model"]["version"] == "1"
        for hostile in corpus(pair):
            answer = client.post(hostile.path, content=hostile.body, headers=[*hostile.headers, *BEARER.items()])
            assert answer.status_code in {200, 400, 404, 405, 413, 414, 415}, f"{hostile.what}: {answer.text[:500]}"
            assert not hostile.form or answer.status_code == 415, hostile.what
            time.sleep(0.02)

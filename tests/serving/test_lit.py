"""The LitServe server: token, addresses, size limit, and a killed worker."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import psutil
import pytest
from processes import Endpoint

from hire_model.data.store import Split
from hire_model.packaging.verify import ArchiveError
from serving import lit
from serving.client import HireClient, StoredImage
from serving.contract import PREDICTIONS
from serving.tokens import HEADER, KEYS


def _list_processes(server: Endpoint) -> list[psutil.Process]:
    """Return the process of the server and its children."""
    port = server.address.rpartition(":")[2]
    [parent] = [
        process
        for process in _list_children(psutil.Process())
        if port in process.cmdline() and "serving.lit" in process.cmdline()
    ]
    return [parent, *_list_children(parent, recursive=True)]


def _list_children(process: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
    """Return the running children. Servers that earlier tests stopped can still be zombies of this process."""
    children = process.children(recursive=recursive)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.live
def test_requests_without_the_token_and_unknown_paths_are_refused(litserve: Endpoint) -> None:
    assert litserve.keys is not None
    for file in (litserve.keys, litserve.keys.with_name(HEADER)):
        assert file.stat().st_mode & 0o077 == 0, "only the owner can read the token"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eA=="}):
        for path in (PREDICTIONS, "/ping", "/info", "/"):
            method = "POST" if path == PREDICTIONS else "GET"
            assert httpx.request(method, litserve.address + path, headers=headers, timeout=60).status_code == 401
    for path in ("/docs", "/openapi.json", "/shutdown", "/models"):
        assert httpx.get(litserve.address + path, headers=litserve.make_headers(), timeout=60).status_code == 404
    answer = httpx.post(litserve.address + "/others/hire", content=b"{}", headers=litserve.make_headers(), timeout=60)
    assert answer.status_code == 404
    large = b"0" * (lit.BODY_BYTES + 1)
    answer = httpx.post(litserve.address + PREDICTIONS, content=large, headers=litserve.make_headers(), timeout=60)
    assert answer.status_code == 413


@pytest.mark.live
def test_the_server_listens_on_127_0_0_1_only(litserve: Endpoint) -> None:
    listening = {
        connection.laddr.ip
        for process in _list_processes(litserve)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.live
def test_a_killed_worker_is_replaced_and_no_request_is_lost(litserve: Endpoint, scenes: Split) -> None:
    pairs = [(StoredImage(gallery="scenes", id=scenes.image_id(0)), scenes.texts[0])]
    with HireClient(litserve.address, litserve.keys, deadline=300, attempt=2) as hire:
        before = hire.score(pairs)
        worker = max(_list_processes(litserve)[1:], key=lambda process: process.memory_info().rss)
        worker.kill()
        assert hire.score(pairs).scores == pytest.approx(before.scores, abs=1e-5)


def test_a_new_token_is_written_for_the_client_and_for_curl(tmp_path: Path) -> None:
    first, token = lit.write_token(tmp_path), lit.write_token(tmp_path)
    assert token != first
    assert json.loads((tmp_path / KEYS).read_text()) == {"inference": {"key": token}}
    assert (tmp_path / HEADER).read_text() == f"Authorization: Bearer {token}\n"


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hire.mar").write_bytes(b"PK")
    with pytest.raises(ArchiveError):
        lit.main(tmp_path / "hire.mar", folder=tmp_path / "lit")
    assert not (tmp_path / "lit").exists()

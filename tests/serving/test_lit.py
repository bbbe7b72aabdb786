"""LitServe's own side: who may ask, from where, how much, and what happens when its worker ends."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import psutil
import pytest
from processes import Server

from hire_model.data.store import Split
from hire_model.packaging.verify import ArchiveError
from serving import lit
from serving.client import HireClient, StoredImage
from serving.contract import PREDICTIONS


def _family(found: Server) -> list[psutil.Process]:
    """The server's process, and its children."""
    port = int(found.address.rpartition(":")[2])
    [parent] = [
        process
        for process in psutil.Process(os.getpid()).children()
        if str(port) in process.cmdline() and "serving.lit" in process.cmdline()
    ]
    return [parent, *parent.children(recursive=True)]


@pytest.mark.live
def test_only_with_the_token_and_only_what_is_offered(litserve: Server) -> None:
    assert litserve.keys is not None and litserve.keys.stat().st_mode & 0o077 == 0
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eA=="}):
        for path in (PREDICTIONS, "/ping", "/info", "/"):
            method = "POST" if path == PREDICTIONS else "GET"
            assert httpx.request(method, litserve.address + path, headers=headers, timeout=60).status_code == 401
    for path in ("/docs", "/openapi.json", "/shutdown", "/models"):
        assert httpx.get(litserve.address + path, headers=litserve.headers(), timeout=60).status_code == 404
    answer = httpx.post(litserve.address + "/others/hire", content=b"{}", headers=litserve.headers(), timeout=60)
    assert answer.status_code == 404
    large = b"0" * (lit.LARGEST + 1)
    answer = httpx.post(litserve.address + PREDICTIONS, content=large, headers=litserve.headers(), timeout=60)
    assert answer.status_code == 413


@pytest.mark.live
def test_nothing_listens_beyond_this_machine(litserve: Server) -> None:
    listening = {
        connection.laddr.ip
        for process in _family(litserve)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.live
def test_a_worker_that_is_killed_is_replaced_and_no_request_lost(litserve: Server, scenes: Split) -> None:
    pairs = [(StoredImage(gallery="scenes", id=scenes.image_id(0)), scenes.texts[0])]
    with HireClient(litserve.address, litserve.keys, deadline=300, attempt=2) as hire:
        before = hire.score(pairs)
        worker = max(_family(litserve)[1:], key=lambda process: process.memory_info().rss)
        worker.kill()
        assert hire.score(pairs).scores == pytest.approx(before.scores, abs=1e-5)


def test_an_archive_that_is_none_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "hire.mar").write_bytes(b"PK")
    with pytest.raises(ArchiveError):
        lit.main(tmp_path / "hire.mar", folder=tmp_path / "lit")
    assert not (tmp_path / "lit").exists()

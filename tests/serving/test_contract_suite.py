"""One contract, whoever serves it: the same request gets the same status, the same scores and the same fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel
from processes import Server
from registered import RegisteredModel
from test_handler import Context

from hire_model.data.store import Split
from hire_model.gallery.store import Gallery
from hire_model.packaging.opening import open_service
from hire_model.packaging.verify import extract
from hire_model.scoring.scorer import Scorer
from hire_model.service.galleries import GALLERIES_VARIABLE
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from hire_model.tracking.versions import Archive
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.handler import HireHandler
from serving.instance import Instance

Answer = tuple[int, dict[str, Any]]
Asking = Callable[[bytes, bool], Answer]


@pytest.fixture(scope="module")
def unpacked(archived: Archive, galleries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    extract(archived.path, folder, archived.sha256)
    return folder


@pytest.fixture(scope="module")
def service(unpacked: Path, galleries: Path) -> Service:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GALLERIES_VARIABLE, str(galleries))
        return open_service(unpacked)


def _direct(service: Service, body: bytes, explain: bool) -> Answer:
    [reply], _ = service.answer([Request(body, explain)])
    return reply.status, json.loads(reply.body)


@pytest.fixture(scope="module")
def by_handler(unpacked: Path, galleries: Path) -> Asking:
    handler = HireHandler()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GALLERIES_VARIABLE, str(galleries))
        handler.initialize(Context(unpacked))

    def ask(body: bytes, explain: bool) -> Answer:
        context = Context(unpacked, explain=(0,) if explain else ())
        [answer] = handler.handle([{"body": bytearray(body)}], context)
        return context.status[0][0], json.loads(answer)

    return ask


@pytest.fixture(scope="module")
def pyfunc(registered_model: RegisteredModel, galleries: Path) -> PyFuncModel:
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GALLERIES_VARIABLE, str(galleries))
        mlflow.set_tracking_uri(registered_model.settings.tracking.uri)
        model = mlflow.pyfunc.load_model(f"models:/{registered_model.settings.tracking.model_name}@challenger")
        mlflow.set_tracking_uri(before)

    return model


@pytest.fixture(scope="module")
def by_pyfunc(pyfunc: PyFuncModel) -> Asking:
    def ask(body: bytes, explain: bool) -> Answer:
        answer = pyfunc.predict(pd.DataFrame({"request": [body.decode()]}), params={"explain": explain})
        return int(answer["status"][0]), json.loads(answer["body"][0])

    return ask


@pytest.fixture(scope="module")
def by_mlflow_serve(mlflow_serve: Server) -> Asking:
    def ask(body: bytes, explain: bool) -> Answer:
        table = {"dataframe_split": {"columns": ["request"], "data": [[body.decode()]]}, "params": {"explain": explain}}
        answer = httpx.post(f"{mlflow_serve.address}/invocations", json=table, timeout=60)
        assert answer.status_code == 200, answer.text
        [row] = answer.json()["predictions"]
        return row["status"], json.loads(row["body"])

    return ask


def _over_http(address: str, headers: dict[str, str]) -> Asking:
    def ask(body: bytes, explain: bool) -> Answer:
        path = EXPLANATIONS if explain else PREDICTIONS
        answer = httpx.post(address + path, content=body, headers=headers, timeout=60)
        assert answer.headers["content-type"] == "application/json", answer.text
        return answer.status_code, answer.json()

    return ask


@pytest.fixture(scope="module")
def by_torchserve(torchserve: Instance) -> Asking:
    headers = {"Authorization": f"Bearer {torchserve.token()}", "Content-Type": "application/json"}
    return _over_http(torchserve.address, headers)


@pytest.fixture(scope="module")
def by_litserve(litserve: Server) -> Asking:
    return _over_http(litserve.address, litserve.headers())


@pytest.fixture(
    scope="module",
    params=[
        "by_handler", "by_pyfunc",
        *(pytest.param(name, marks=pytest.mark.live) for name in ("by_torchserve", "by_litserve", "by_mlflow_serve")),
    ],
)  # fmt: skip
def ask(request: pytest.FixtureRequest) -> Asking:
    """An adapter: the body of a request, and whether it wants explanations, to the answer's status and JSON."""
    return request.getfixturevalue(request.param)


def _image(split: Split, index: int) -> dict[str, Any]:
    return json.loads(serialize_image(split.regions(index)))


def good(split: Split) -> dict[str, tuple[dict[str, Any], bool]]:
    """Every kind of request that is answered."""
    sent = [_image(split, i) for i in range(3)]
    stored = [{"gallery": "scenes", "id": split.image_id(i)} for i in range(4)]
    pairs = {"pairs": [{"image": _image(split, i), "text": split.texts[i]} for i in range(4)]}
    mixed = {"pairs": [*pairs["pairs"][:1], {"image": stored[1], "text": split.texts[1]}]}
    return {
        "pairs": (pairs, False),
        "pairs, one stored": (mixed, False),
        "matrix": ({"images": [*sent, stored[3]], "texts": split.texts[:5]}, False),
        "rank images": ({"images": stored, "texts": split.texts[:3], "top_k": 2}, False),
        "rank texts": ({"images": sent, "texts": split.texts[:6], "top_k": 3, "rank": "texts"}, False),
        "search": ({"gallery": "scenes", "texts": split.texts[:3], "top_k": 3}, False),
        "search sentences": ({"gallery": "scenes", "images": sent[:2], "top_k": 2, "shortlist": 4}, False),
        "explain": (mixed, True),
        "beyond ASCII": ({"images": sent[:1], "texts": ["Hündin \U0001f415 \u2028 \x00"]}, False),
    }


GOOD = [
    "pairs", "pairs, one stored", "matrix", "rank images", "rank texts", "search", "search sentences", "explain",
    "beyond ASCII",
]  # fmt: skip
REFUSED = {
    "empty": (b"", False, 400, ""),
    "no JSON": (b'{"pairs"', False, 400, ""),
    "not an object": (b"[]", False, 400, ""),
    "deep": (b"[" * 50_000, False, 400, ""),
    "no request": (b"{}", False, 400, ""),
    "no pairs": (b'{"pairs": []}', False, 400, "pairs"),
    "a picture": (b'{"pairs": [{"image": "photo.jpg", "text": "a"}]}', False, 400, "pairs[0].image"),
    "a number for a text": (b'{"gallery": "scenes", "texts": ["a", 3]}', False, 400, "texts[1]"),
    "an unknown key": (b'{"gallery": "scenes", "texts": ["a"], "topk": 3}', False, 400, "topk"),
    "a string for a number": (b'{"gallery": "scenes", "texts": ["a"], "top_k": "3"}', False, 400, "top_k"),
    "a lone surrogate": (b'{"gallery": "scenes", "texts": ["\\ud800"]}', False, 400, ""),
    "a path for a gallery": (b'{"gallery": "../scenes", "texts": ["a"]}', False, 400, "gallery"),
    "no such gallery": (b'{"gallery": "nowhere", "texts": ["a"]}', False, 404, "gallery"),
    "no such image": (b'{"images": [{"gallery": "scenes", "id": "?"}], "texts": ["a"]}', False, 404, "images[0].id"),
    "too many texts": (
        json.dumps({"gallery": "scenes", "texts": [str(i) for i in range(300)]}).encode(),
        False,
        413,
        "",
    ),
    "a search explained": (b'{"gallery": "scenes", "texts": ["a"]}', True, 400, "pairs"),
}


def _same(one: object, other: object) -> bool:
    """Equal, numbers with a fraction within 1e-5."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_the_service_scores_as_the_scorer(service: Service, registered_model: RegisteredModel, scenes: Split) -> None:
    scorer, cases = Scorer.load(registered_model.folder), good(scenes)
    assert list(cases) == GOOD
    expected = scorer.predict([(scenes.regions(i), scenes.texts[i]) for i in range(4)])
    _, answer = _direct(service, json.dumps(cases["pairs"][0]).encode(), False)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert len(set(answer["scores"])) > 1
    expected = scorer.predict([(scenes.regions(i), text) for i in range(4) for text in scenes.texts[:5]])
    _, answer = _direct(service, json.dumps(cases["matrix"][0]).encode(), False)
    np.testing.assert_allclose(np.ravel(answer["scores"]), expected, atol=1e-5)


def test_galleries_are_opened_before_the_first_request(
    unpacked: Path, galleries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of gigabytes are checked then, while a request has seconds."""
    monkeypatch.setenv(GALLERIES_VARIABLE, str(galleries))
    service = open_service(unpacked)
    monkeypatch.delattr(Gallery, "open")
    status, _ = _direct(service, b'{"gallery": "scenes", "texts": ["a dog"]}', False)
    assert status == 200


@pytest.mark.parametrize("case", GOOD)
def test_every_adapter_answers_as_the_service(ask: Asking, service: Service, scenes: Split, case: str) -> None:
    request, explain = good(scenes)[case]
    body = json.dumps(request).encode()
    status, answer = ask(body, explain)
    expected_status, expected = _direct(service, body, explain)
    assert status == expected_status == 200, answer
    assert answer["model"]["version"] == "1" and len(answer["model"]["run_id"]) == 32
    assert _same(answer, expected), (answer, expected)


@pytest.mark.parametrize("case", REFUSED)
def test_every_adapter_refuses_as_the_service(ask: Asking, service: Service, case: str) -> None:
    body, explain, status, path = REFUSED[case]
    found, fault = ask(body, explain)
    assert (found, fault["status"]) == (status, status) and fault["message"]
    assert fault == _direct(service, body, explain)[1]
    if case != "a lone surrogate":  # the parser's place for it is its own business
        assert fault["path"] == path


CELLS = [None, 5, 0.5, True, "a good one"]


def _check_cells(statuses: list[int], bodies: list[str], service: Service, body: bytes) -> None:
    assert statuses == [400] * (len(CELLS) - 1) + [200]
    for text in bodies[:-1]:
        fault = json.loads(text)
        assert (fault["status"], fault["path"]) == (400, "") and "expected JSON as text" in fault["message"]
        assert fault["model"]["version"] == "1"
    assert _same(json.loads(bodies[-1]), _direct(service, body, False)[1])


def test_a_cell_that_is_no_text_is_refused_alone(pyfunc: PyFuncModel, service: Service) -> None:
    body = b'{"gallery": "scenes", "texts": ["a dog"], "top_k": 1}'
    answer = pyfunc.predict(pd.DataFrame({"request": [*CELLS[:-1], body.decode()]}))
    _check_cells(answer["status"].tolist(), answer["body"].tolist(), service, body)


@pytest.mark.live
def test_a_cell_that_is_no_text_is_refused_alone_over_http(mlflow_serve: Server, service: Service) -> None:
    body = b'{"gallery": "scenes", "texts": ["a dog"], "top_k": 1}'
    table = {"columns": ["request"], "data": [*([cell] for cell in CELLS[:-1]), [body.decode()]]}
    answer = httpx.post(f"{mlflow_serve.address}/invocations", json={"dataframe_split": table}, timeout=60)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    _check_cells([row["status"] for row in rows], [row["body"] for row in rows], service, body)


@pytest.mark.parametrize(
    "name", ["by_handler", *(pytest.param(name, marks=pytest.mark.live) for name in ("by_torchserve", "by_litserve"))]
)
def test_bytes_that_are_no_text(request: pytest.FixtureRequest, name: str, service: Service) -> None:
    """A table has no room for such bytes, hence not through MLflow."""
    ask = request.getfixturevalue(name)
    for body in (b"\xff\xd8\xff\xe0", b'{"gallery": "scenes", "texts": ["\xff"]}'):
        assert ask(body, False) == _direct(service, body, False) and ask(body, False)[0] == 400

"""All servers implement one contract: a request gets the same status, scores and error from each of them."""

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
from processes import Endpoint, find_endpoint
from registered import RegisteredModel
from test_handler import Context

from hire_model.data.store import Split
from hire_model.gallery.store import Gallery
from hire_model.packaging.opening import open_service
from hire_model.scoring.scorer import Scorer
from hire_model.service.galleries import GALLERIES_VARIABLE
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.handler import HireHandler
from serving.process import Server

Answer = tuple[int, dict[str, Any]]
Ask = Callable[[bytes, bool], Answer]
"""Send a body, with or without explanations, and return the status and JSON of the answer."""


@pytest.fixture(scope="module")
def service(unpacked: Path, galleries: Path) -> Service:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GALLERIES_VARIABLE, str(galleries))
        return open_service(unpacked)


def _answer_directly(service: Service, body: bytes, explain: bool) -> Answer:
    [reply], _ = service.answer([Request(body, explain)])
    return reply.status, json.loads(reply.body)


@pytest.fixture(scope="module")
def by_handler(unpacked: Path, galleries: Path) -> Ask:
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
def by_pyfunc(pyfunc: PyFuncModel) -> Ask:
    def ask(body: bytes, explain: bool) -> Answer:
        answer = pyfunc.predict(pd.DataFrame({"request": [body.decode()]}), params={"explain": explain})
        return int(answer["status"][0]), json.loads(answer["body"][0])

    return ask


@pytest.fixture(scope="module")
def by_mlflow_serve(mlflow_serve: Endpoint) -> Ask:
    def ask(body: bytes, explain: bool) -> Answer:
        table = {"dataframe_split": {"columns": ["request"], "data": [[body.decode()]]}, "params": {"explain": explain}}
        answer = httpx.post(f"{mlflow_serve.address}/invocations", json=table, timeout=60)
        assert answer.status_code == 200, answer.text
        [row] = answer.json()["predictions"]
        return row["status"], json.loads(row["body"])

    return ask


def _make_http_ask(address: str, headers: dict[str, str]) -> Ask:
    def ask(body: bytes, explain: bool) -> Answer:
        path = EXPLANATIONS if explain else PREDICTIONS
        answer = httpx.post(address + path, content=body, headers=headers, timeout=60)
        assert answer.headers["content-type"] == "application/json", answer.text
        return answer.status_code, answer.json()

    return ask


@pytest.fixture(scope="module")
def by_torchserve(torchserve: Server) -> Ask:
    headers = {"Authorization": f"Bearer {torchserve.get_token()}", "Content-Type": "application/json"}
    return _make_http_ask(torchserve.address, headers)


@pytest.fixture(scope="module")
def by_gunicorn(gunicorn: Server) -> Ask:
    endpoint = find_endpoint(gunicorn)
    return _make_http_ask(endpoint.address, endpoint.make_headers())


@pytest.fixture(
    scope="module",
    params=[
        "by_handler", "by_pyfunc",
        *(pytest.param(name, marks=pytest.mark.live) for name in ("by_torchserve", "by_gunicorn", "by_mlflow_serve")),
    ],
)  # fmt: skip
def ask(request: pytest.FixtureRequest) -> Ask:
    """Every way to send a request: the handler, MLflow, and the real servers."""
    return request.getfixturevalue(request.param)


def _make_image(split: Split, index: int) -> dict[str, Any]:
    return json.loads(serialize_image(split.regions(index)))


def make_good_requests(split: Split) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return every kind of valid request: name -> (body, whether it asks for explanations)."""
    sent = [_make_image(split, i) for i in range(3)]
    stored = [{"gallery": "scenes", "id": split.image_id(i)} for i in range(4)]
    ids = [f"scenes/{split.image_id(i)}" for i in range(2)]
    pairs = {"pairs": [{"image": _make_image(split, i), "text": split.texts[i]} for i in range(4)]}
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
        "rerank images": (
            {"query": split.texts[0], "documents": [*ids, stored[2], _make_image(split, 3)], "top_n": 3},
            False,
        ),
        "rerank sentences": ({"query": sent[0], "documents": split.texts[:4], "return_documents": True}, False),
        "beyond ASCII": ({"images": sent[:1], "texts": ["Hündin \U0001f415 \u2028 \x00"]}, False),
    }


GOOD = [
    "pairs", "pairs, one stored", "matrix", "rank images", "rank texts", "search", "search sentences", "explain",
    "rerank images", "rerank sentences", "beyond ASCII",
]  # fmt: skip
REFUSED = {
    "empty": (b"", False, 400, ""),
    "not JSON": (b'{"pairs"', False, 400, ""),
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
    "a gallery of another model": (b'{"gallery": "stale", "texts": ["a"]}', False, 404, "gallery"),
    "no such image": (b'{"images": [{"gallery": "scenes", "id": "?"}], "texts": ["a"]}', False, 404, "images[0].id"),
    "too many texts": (
        json.dumps({"gallery": "scenes", "texts": [str(i) for i in range(300)]}).encode(),
        False,
        413,
        "",
    ),
    "no documents": (b'{"query": "a", "documents": []}', False, 400, "documents"),
    "a document without a gallery": (b'{"query": "a", "documents": ["scenes/1", "1"]}', False, 400, "documents[1]"),
    "no such document": (b'{"query": "a", "documents": ["scenes/?"]}', False, 404, "documents[0].id"),
    "an image among sentences": (
        b'{"query": {"gallery": "scenes", "id": "1"}, "documents": ["a", {"gallery": "scenes", "id": "1"}]}',
        False,
        400,
        "documents[1]",
    ),
    "another model": (b'{"query": "a", "documents": ["scenes/1"], "model": "rerank-v3.5"}', False, 404, "model"),
    "a search explained": (b'{"gallery": "scenes", "texts": ["a"]}', True, 400, "pairs"),
}


def _is_same(one: object, other: object) -> bool:
    """Compare two JSON values. Floats may differ by 1e-5."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_the_service_returns_the_scores_of_the_scorer(
    service: Service, registered_model: RegisteredModel, scenes: Split
) -> None:
    scorer, cases = Scorer.load(registered_model.folder), make_good_requests(scenes)
    assert list(cases) == GOOD
    expected = scorer.predict([(scenes.regions(i), scenes.texts[i]) for i in range(4)])
    _, answer = _answer_directly(service, json.dumps(cases["pairs"][0]).encode(), False)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert len(set(answer["scores"])) > 1
    expected = scorer.predict([(scenes.regions(i), text) for i in range(4) for text in scenes.texts[:5]])
    _, answer = _answer_directly(service, json.dumps(cases["matrix"][0]).encode(), False)
    np.testing.assert_allclose(np.ravel(answer["scores"]), expected, atol=1e-3)  # a gallery has half precision


def test_documents_are_ranked_by_the_scores_of_their_pairs(service: Service, scenes: Split) -> None:
    cases = make_good_requests(scenes)
    for name, images, texts in (("rerank images", range(4), [0] * 4), ("rerank sentences", [0] * 4, range(4))):
        pairs = [(scenes.regions(image), scenes.texts[text]) for image, text in zip(images, texts, strict=True)]
        scores = service.scorer.predict(pairs)
        request, _ = cases[name]
        _, answer = _answer_directly(service, json.dumps(request | {"model": "hire/1"}).encode(), False)
        order = np.argsort(-scores, kind="stable")[: request.get("top_n")]
        assert [result["index"] for result in answer["results"]] == order.tolist() and answer["model"] == "hire/1"
        np.testing.assert_allclose(
            [result["relevance_score"] for result in answer["results"]], scores[order], atol=1e-3
        )
        documents = [request["documents"][row] for row in order]
        expected = [{"text": text} for text in documents] if request.get("return_documents") else [None] * len(order)
        assert [result.get("document") for result in answer["results"]] == expected


def test_galleries_are_opened_before_the_first_request(
    unpacked: Path, galleries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening checks the digests of the files, which may take longer than a request is allowed to."""
    monkeypatch.setenv(GALLERIES_VARIABLE, str(galleries))
    service = open_service(unpacked)
    monkeypatch.delattr(Gallery, "open")
    status, _ = _answer_directly(service, b'{"gallery": "scenes", "texts": ["a dog"]}', False)
    assert status == 200


@pytest.mark.parametrize("case", GOOD)
def test_every_server_answers_as_the_service(ask: Ask, service: Service, scenes: Split, case: str) -> None:
    request, explain = make_good_requests(scenes)[case]
    body = json.dumps(request).encode()
    status, answer = ask(body, explain)
    expected_status, expected = _answer_directly(service, body, explain)
    assert status == expected_status == 200, answer
    model = answer.get("facts") or answer["model"]
    assert model["version"] == "1" and len(model["run_id"]) == 32
    assert _is_same(answer, expected), (answer, expected)


@pytest.mark.parametrize("case", REFUSED)
def test_every_server_refuses_as_the_service(ask: Ask, service: Service, case: str) -> None:
    body, explain, status, path = REFUSED[case]
    actual_status, fault = ask(body, explain)
    assert (actual_status, fault["status"]) == (status, status) and fault["message"]
    assert fault == _answer_directly(service, body, explain)[1]
    if case != "a lone surrogate":  # its path depends on the JSON parser
        assert fault["path"] == path


CELLS = [None, 5, 0.5, True, "a good request"]


def _check_cells(statuses: list[int], bodies: list[str], service: Service, body: bytes) -> None:
    assert statuses == [400] * (len(CELLS) - 1) + [200]
    for text in bodies[:-1]:
        fault = json.loads(text)
        assert (fault["status"], fault["path"]) == (400, "") and "expected JSON as text" in fault["message"]
        assert fault["model"]["version"] == "1"
    assert _is_same(json.loads(bodies[-1]), _answer_directly(service, body, False)[1])


def test_a_table_cell_that_is_not_text_is_refused_without_the_others(pyfunc: PyFuncModel, service: Service) -> None:
    body = b'{"gallery": "scenes", "texts": ["a dog"], "top_k": 1}'
    answer = pyfunc.predict(pd.DataFrame({"request": [*CELLS[:-1], body.decode()]}))
    _check_cells(answer["status"].tolist(), answer["body"].tolist(), service, body)


@pytest.mark.live
def test_a_table_cell_that_is_not_text_is_refused_over_http(mlflow_serve: Endpoint, service: Service) -> None:
    body = b'{"gallery": "scenes", "texts": ["a dog"], "top_k": 1}'
    table = {"columns": ["request"], "data": [*([cell] for cell in CELLS[:-1]), [body.decode()]]}
    answer = httpx.post(f"{mlflow_serve.address}/invocations", json={"dataframe_split": table}, timeout=60)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    _check_cells([row["status"] for row in rows], [row["body"] for row in rows], service, body)


@pytest.mark.parametrize(
    "name", ["by_handler", *(pytest.param(name, marks=pytest.mark.live) for name in ("by_torchserve", "by_gunicorn"))]
)
def test_a_body_that_is_not_utf_8_is_refused(request: pytest.FixtureRequest, name: str, service: Service) -> None:
    """Not through MLflow: a table cell cannot hold such bytes."""
    ask = request.getfixturevalue(name)
    for body in (b"\xff\xd8\xff\xe0", b'{"gallery": "scenes", "texts": ["\xff"]}'):
        assert ask(body, False) == _answer_directly(service, body, False) and ask(body, False)[0] == 400

"""openapi.json is up to date, and its schemas accept the same requests as the contract."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from hire_model.service.contract import RequestFault, parse_body
from hire_model.service.payload import ArrayPayload
from serving import contract

IMAGE = {"features": json.loads(ArrayPayload.from_array(np.ones((2, 3), np.float32)).model_dump_json())}


def test_the_file_is_up_to_date() -> None:
    assert contract.OPENAPI.read_text("utf-8") == contract.format_openapi(), "run: python -m serving.contract"


def test_every_reference_has_a_schema() -> None:
    document = contract.build_openapi()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    used = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]}
    assert used and used <= known


@pytest.mark.parametrize(
    ("request_", "good"),
    [
        ({"pairs": [{"image": IMAGE, "text": "a"}]}, True),
        ({"images": [IMAGE, {"gallery": "g", "id": "1"}], "texts": ["a"], "top_k": 2, "rank": "texts"}, True),
        ({"gallery": "g", "texts": ["a"]}, True),
        ({}, False),
        ({"pairs": []}, False),
        ({"pairs": [{"image": IMAGE, "text": 3}]}, False),
        ({"pairs": [{"image": "picture", "text": "a"}]}, False),
        ({"gallery": "../g", "texts": ["a"]}, False),
        ({"images": [IMAGE], "texts": ["a"], "top_k": 0}, False),
    ],
)
def test_schema_and_contract_accept_the_same_requests(request_: dict[str, object], good: bool) -> None:
    document = contract.build_openapi()
    body = document["paths"][contract.PREDICTIONS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(body | {"components": document["components"]})
    assert validator.is_valid(request_) == good
    try:
        parse_body(json.dumps(request_))
    except RequestFault:
        assert not good
    else:
        assert good


def test_schemathesis_finds_every_path() -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    schema = schemathesis.openapi.from_dict(contract.build_openapi())
    assert {operation.ok().path for operation in schema.get_all_operations()} == set(contract.build_openapi()["paths"])

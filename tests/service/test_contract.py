"""A malformed request is refused with the JSON path of its first fault, and no input raises anything else."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.service.contract import MatrixRequest, PairsRequest, RequestFault, SearchRequest, parse_body
from hire_model.service.payload import ArrayPayload

FEATURES = json.loads(ArrayPayload.from_array(np.ones((2, 3), np.float32)).model_dump_json())
IMAGE = {"features": FEATURES}
STORED = {"gallery": "g", "id": "1"}


def _array(values: list[list[float]]) -> dict[str, object]:
    raw = np.array(values, "<f4")
    return {"dtype": "float32", "shape": list(raw.shape), "data": base64.b64encode(raw.tobytes()).decode()}


FAULTS = [
    ({}, "", "pairs, with images and texts, with gallery, or with query and documents"),
    ([], "", "expected an object"),
    ({"pairs": []}, "pairs", "at least 1"),
    ({"pairs": [{"image": IMAGE}]}, "pairs[0].text", "required"),
    ({"pairs": [{"image": IMAGE, "text": ""}]}, "pairs[0].text", "at least 1 character"),
    ({"pairs": [{"image": IMAGE, "text": 3}]}, "pairs[0].text", "valid string"),
    ({"pairs": [{"image": IMAGE, "text": "a", "x": 1}]}, "pairs[0].x", "not permitted"),
    ({"pairs": [{"image": "/9j/4AAQ", "text": "a"}]}, "pairs[0].image", "send a picture file as"),
    ({"pairs": [{"image": {"url": "http://x"}, "text": "a"}]}, "pairs[0].image", "send a picture file as"),
    ({"pairs": [{"image": {"picture": ""}, "text": "a"}]}, "pairs[0].image.picture", "at least 1 character"),
    ({"pairs": [{"image": {"picture": 3}, "text": "a"}]}, "pairs[0].image.picture", "valid string"),
    ({"pairs": [{"image": {"picture": "aa", "id": "1"}, "text": "a"}]}, "pairs[0].image.id", "not permitted"),
    ({"pairs": [{"image": {"gallery": "g"}, "text": "a"}]}, "pairs[0].image.id", "required"),
    ({"pairs": [{"image": {"gallery": "../g", "id": "1"}, "text": "a"}]}, "pairs[0].image.gallery", "pattern"),
    ({"pairs": [{"image": {"gallery": "g/h", "id": "1"}, "text": "a"}]}, "pairs[0].image.gallery", "pattern"),
    ({"images": [IMAGE]}, "texts", "required"),
    ({"texts": ["a"]}, "images", "required"),
    ({"images": [IMAGE, 3], "texts": ["a"]}, "images[1]", "expected an image"),
    ({"images": [IMAGE], "texts": ["a"], "top_k": "3"}, "top_k", "valid integer"),
    ({"images": [IMAGE], "texts": ["a"], "top_k": True}, "top_k", "valid integer"),
    ({"images": [IMAGE], "texts": ["a"], "top_k": 0}, "top_k", "greater than or equal to 1"),
    ({"images": [IMAGE], "texts": ["a"], "rank": "both"}, "rank", "'images' or 'texts'"),
    ({"gallery": "g"}, "", "either texts or images"),
    ({"gallery": "g", "texts": ["a"], "images": [IMAGE]}, "", "either texts or images"),
    ({"gallery": ".hidden", "texts": ["a"]}, "gallery", "pattern"),
    ({"images": [{"features": FEATURES | {"shape": ["2", 3]}}], "texts": ["a"]}, "images[0].features.shape[0]", "int"),
    ({"images": [{"features": FEATURES | {"shape": [10**30, 3]}}], "texts": ["a"]}, "images[0].features", "needs"),
    ({"images": [{"features": FEATURES | {"data": "!"}}], "texts": ["a"]}, "images[0].features", "base64"),
    ({"images": [{"features": FEATURES | {"dtype": "int8"}}], "texts": ["a"]}, "images[0].features.dtype", "float16"),
    ({"images": [{"features": _array([[1, np.nan]])}], "texts": ["a"]}, "images[0]", "NaN"),
    ({"images": [IMAGE | {"classes": [2**40, 0]}], "texts": ["a"]}, "images[0].classes[0]", "less than"),
    ({"images": [IMAGE | {"relations": [[0, 2**40, 1, 1]]}], "texts": ["a"]}, "images[0].relations[0][1]", "less than"),
    ({"images": [IMAGE | {"relations": [[0, 0, 2, 1]]}], "texts": ["a"]}, "images[0]", "no region 2, expected 0 to 1"),
    ({"images": [IMAGE | {"boxes": _array([[0, 0, 2, 1]] * 2)}], "texts": ["a"]}, "images[0]", "fractions"),
]


@pytest.mark.parametrize(("request_", "path", "message"), FAULTS)
def test_a_fault_carries_its_json_path(request_: object, path: str, message: str) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_body(json.dumps(request_))
    assert (caught.value.status, caught.value.path) == (400, path)
    assert message in caught.value.message


@pytest.mark.parametrize("inner", [{}, {"pairs": [{"image": STORED, "text": "a"}]}])
def test_a_long_key_is_cut_in_the_fault(inner: dict[str, list[dict[str, object]]]) -> None:
    """A key can have 16 MB, but the answer must stay small."""
    request = inner or {"gallery": "g", "texts": ["a"]}
    (inner["pairs"][0] if inner else request)["k" * 1_000_000] = 1  # type: ignore[assignment]
    with pytest.raises(RequestFault, match="not permitted") as caught:
        parse_body(json.dumps(request))
    assert caught.value.path.startswith("pairs[0].kkk" if inner else "kkk") and caught.value.path.endswith("...")
    assert len(caught.value.path) == 200 and len(str(caught.value)) < 1_000
    assert len(RequestFault(404, "", "m" * 1_000_000).message) == 400


@pytest.mark.parametrize(
    "body",
    [b"", b"nope", b'{"pairs"', b"\xff\xd8\xff\xe0", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000,
     b"\x1f\x8b\x08", b'{"gallery": "g", "texts": ["\\ud800"]}', b'{"gallery": "g", "texts": ["\xed\xa0\x80"]}'],
)  # fmt: skip
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestFault, match="not JSON") as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.path) == (400, "")
    hint = "send a picture file as" in caught.value.message
    assert hint == (body[:1] not in (b"", b"{", b"[")), "a body that starts like JSON gets no hint about pictures"


def test_the_keys_decide_between_pairs_matrix_and_search() -> None:
    assert isinstance(
        parse_body(json.dumps({"pairs": [{"image": IMAGE, "text": "a"}, {"image": STORED, "text": "b"}]})), PairsRequest
    )
    assert isinstance(parse_body(json.dumps({"images": [IMAGE, STORED], "texts": ["a"], "top_k": 1})), MatrixRequest)
    assert isinstance(parse_body(json.dumps({"gallery": "g", "images": [STORED]})), SearchRequest)


def test_an_explanation_accepts_only_pairs() -> None:
    body = {"images": [IMAGE], "texts": ["a"]}
    assert parse_body(json.dumps(body))
    with pytest.raises(RequestFault, match="pairs"):
        parse_body(json.dumps(body), explain=True)


_KEYS = st.sampled_from(
    ["pairs", "images", "texts", "gallery", "id", "image", "text", "features", "shape", "data", "x"]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["g", "float16"])
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=30
)


@settings(max_examples=300, deadline=None)
@given(_JSON, st.booleans())
def test_any_json_is_a_request_or_a_fault(value: object, explain: bool) -> None:
    try:
        request = parse_body(json.dumps(value), explain)
    except RequestFault as fault:
        assert fault.status == 400 and fault.message
    else:
        assert isinstance(request, PairsRequest | MatrixRequest | SearchRequest)


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_random_bytes_are_a_fault(body: bytes) -> None:
    with pytest.raises(RequestFault):
        parse_body(body)

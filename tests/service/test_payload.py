"""An image survives the conversion to JSON and back, and each fault names its field."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hire_model.data.store import ImageRegions
from hire_model.errors import DataError
from hire_model.service.payload import ArrayPayload, deserialize_image, serialize_image


@st.composite
def images(draw: st.DrawFn) -> ImageRegions:
    regions, dim = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    finite = st.floats(-1000, 1000, width=16)
    features = draw(npst.arrays(dtype, (regions, dim), elements=finite))
    corners = draw(npst.arrays(np.float32, (regions, 4), elements=st.floats(0, 1, width=32)))
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    boxes[draw(npst.arrays(bool, regions))] = np.nan
    edge = st.tuples(st.integers(0, regions - 1), st.integers(0, 9), st.integers(0, regions - 1))
    edges = draw(st.lists(edge, max_size=5))
    return ImageRegions(
        features,
        boxes,
        draw(npst.arrays(np.int32, regions, elements=st.integers(-1, 50))),
        np.full(regions, np.nan, np.float32),
        np.array(edges, np.int32).reshape(-1, 3),
        draw(npst.arrays(np.float32, len(edges), elements=st.floats(0, 1, width=32))),
    )


@settings(max_examples=60, deadline=None)
@given(images())
def test_an_image_is_equal_after_json_and_back(image: ImageRegions) -> None:
    parsed = deserialize_image(serialize_image(image))
    assert parsed.features.dtype == image.features.dtype
    for name in ("features", "boxes", "classes", "relations", "relation_scores"):
        np.testing.assert_array_equal(getattr(parsed, name), getattr(image, name), err_msg=name)


def _image() -> dict[str, object]:
    features = ArrayPayload.from_array(np.ones((2, 3), np.float32)).model_dump()
    boxes = ArrayPayload.from_array(np.array([[0, 0, 0.5, 0.5], [0.1, 0.1, 1, 1]], np.float32)).model_dump()
    return {"features": features, "boxes": boxes, "classes": [1, -1], "relations": [[0, 2, 1, 0.5]]}


def _array(values: object) -> dict[str, object]:
    return ArrayPayload.from_array(np.array(values, np.float32)).model_dump()


FAULTS = [
    ("features", {"dtype": "float32", "shape": [2, 3], "data": base64.b64encode(b"12").decode()}, "24|2 bytes"),
    ("features", {"dtype": "float32", "shape": [2, 3], "data": "§"}, "not base64"),
    ("features", {"dtype": "float64", "shape": [2, 3], "data": ""}, "float16"),
    ("features", {"dtype": "float32", "shape": [0, 3], "data": ""}, "greater than or equal to 1"),
    ("features", _array([[1, 2, np.nan], [1, 2, 3]]), "NaN"),
    ("boxes", _array([[0, 0, 1, 1]]), r"expected \[2, 4\]"),
    ("boxes", _array([[0, 0, 1, 1], [0, 0, 640, 480]]), r"boxes\[1\].*fractions"),
    ("boxes", _array([[0.5, 0, 0.2, 1], [0, 0, 1, 1]]), r"boxes\[0\].*x1 <= x2"),
    ("classes", [1], "1 values for 2 regions"),
    ("classes", [1, -2], r"classes\[1\]"),
    ("relations", [[0, 1, 2, 0.5]], r"relations\[0\]: no region 2, expected 0 to 1"),
    ("relations", [[0, 1, 1, 1.5]], r"relations\[0\]\[3\]"),
    ("relation", [], "relation: Extra inputs"),
]


@pytest.mark.parametrize(("field", "value", "message"), FAULTS)
def test_a_fault_names_its_field(field: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        deserialize_image(json.dumps(_image() | {field: value}), "row 7: image")
    assert str(caught.value).startswith("row 7: image")


def test_the_image_without_these_faults_is_accepted() -> None:
    assert deserialize_image(json.dumps(_image())).relations.tolist() == [[0, 2, 1]]


def test_an_image_needs_only_features() -> None:
    image = deserialize_image(json.dumps({"features": _image()["features"]}))
    assert np.isnan(image.boxes).all() and (image.classes == -1).all() and not len(image.relations)


def test_an_image_that_is_not_json_is_refused() -> None:
    with pytest.raises(DataError, match="row 0: image: Invalid JSON"):
        deserialize_image("{", "row 0: image")

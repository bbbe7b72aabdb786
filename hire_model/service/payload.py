"""An image as JSON text, for table columns, requests and files.

    {"features": {"dtype": "float16", "shape": [36, 2048], "data": "<base64, little-endian>"},
     "boxes": {"dtype": "float32", "shape": [36, 4], "data": "..."},      fractions of width and height, or null
     "classes": [3, 17, ...],                                            index the model's list, -1 if unknown; or null
     "relations": [[subject, predicate, object, score], ...]}            indices; predicates index the model's list

An image of 36 x 2048 numbers takes 197 kB as base64 of float16, and 0.8 MB as decimal numbers.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import pybase64
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hire_model.data.store import ImageRegions, all_finite
from hire_model.errors import DataError

_LARGEST = 2**31 - 1  # classes and relations are int32
Size = Annotated[int, Field(ge=1, strict=True)]
Index = Annotated[int, Field(ge=0, le=_LARGEST, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArrayPayload(_Strict):
    """An array with two axes, as base64 of its little-endian bytes."""

    dtype: Literal["float16", "float32"]
    shape: tuple[Size, Size]
    data: str

    @classmethod
    def from_array(cls, array: np.ndarray) -> Self:
        """Return the payload of `array` [rows, columns]. Every dtype except float16 becomes float32."""
        dtype: Literal["float16", "float32"] = "float16" if array.dtype == np.float16 else "float32"
        raw = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()
        rows, columns = array.shape
        return cls(dtype=dtype, shape=(rows, columns), data=pybase64.b64encode(raw).decode("ascii"))

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        expected = self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize
        try:
            size = len(self._raw)
        except ValueError as error:  # includes binascii.Error
            raise ValueError(f"data is not base64: {error}") from error
        if size != expected:
            raise ValueError(f"data has {size} bytes, but {self.dtype} of shape {list(self.shape)} needs {expected}")
        return self

    @cached_property
    def _raw(self) -> bytes:
        return pybase64.b64decode(self.data, validate=True)

    def to_array(self) -> np.ndarray:
        """Return the array [rows, columns] in its dtype."""
        return np.frombuffer(self._raw, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape).astype(self.dtype)


class ImagePayload(_Strict):
    """One image: the features of its regions, and their boxes, classes and relations if known."""

    features: ArrayPayload
    boxes: ArrayPayload | None = None
    classes: Annotated[list[Annotated[int, Field(ge=-1, le=_LARGEST, strict=True)]], Field(fail_fast=True)] | None = (
        None
    )
    relations: Annotated[list[tuple[Index, Index, Index, Share]], Field(fail_fast=True)] = []

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        regions = self.features.shape[0]
        if not all_finite(self.features.to_array()):
            raise ValueError("features: NaN or infinite number; expected finite numbers")
        if self.boxes is not None:
            _check_boxes(self.boxes, regions)
        if self.classes is not None and len(self.classes) != regions:
            raise ValueError(f"classes: {len(self.classes)} values for {regions} regions")
        for row, (subject, _, object_, _) in enumerate(self.relations):
            if max(subject, object_) >= regions:
                raise ValueError(f"relations[{row}]: no region {max(subject, object_)}, expected 0 to {regions - 1}")
        return self


def _check_boxes(boxes: ArrayPayload, regions: int) -> None:
    if boxes.shape != (regions, 4):
        raise ValueError(f"boxes: shape {list(boxes.shape)}, expected [{regions}, 4], one row per row of features")
    values = boxes.to_array().astype(np.float32)
    known = ~np.isnan(values).any(axis=1)  # a row with NaN: the region has no box
    x1, y1, x2, y2 = values[known].T
    inside = ((values[known] >= 0) & (values[known] <= 1)).all(axis=1)
    wrong = np.flatnonzero(known)[~(inside & (x1 <= x2) & (y1 <= y2))]
    if len(wrong):
        raise ValueError(
            f"boxes[{wrong[0]}]: {values[wrong[0]].tolist()}, expected x1 <= x2 and y1 <= y2 as fractions in 0-1"
        )


def serialize_image(image: ImageRegions) -> str:
    """Return an image's regions as JSON text. `deserialize_image` returns the same numbers."""
    return make_payload(image).model_dump_json()


def make_payload(image: ImageRegions) -> ImagePayload:
    """Return the payload of an image's regions. Raises pydantic's ValidationError if the regions are not valid."""
    boxed = not np.isnan(image.boxes).all()
    edges = zip(image.relations.tolist(), image.relation_scores.tolist(), strict=True)
    return ImagePayload(
        features=ArrayPayload.from_array(np.asarray(image.features)),
        boxes=ArrayPayload.from_array(image.boxes.astype(np.float32)) if boxed else None,
        classes=image.classes.tolist(),
        relations=[(subject, predicate, object_, score) for (subject, predicate, object_), score in edges],
    )


def deserialize_image(text: str, where: str = "image") -> ImageRegions:
    """Parse the JSON text of an image. Raises DataError with `where`, the field, and what was expected."""
    try:
        payload = ImagePayload.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
        raise DataError(f"{where}{path}: {fault['msg'].removeprefix('Value error, ')}.") from error
    return decode_payload(payload)


def decode_payload(payload: ImagePayload) -> ImageRegions:
    """Return a validated payload as regions for the model."""
    count = payload.features.shape[0]
    edges = np.array([relation[:3] for relation in payload.relations], np.int32).reshape(-1, 3)
    return ImageRegions(
        features=payload.features.to_array(),
        boxes=np.full((count, 4), np.nan, np.float32)
        if payload.boxes is None
        else payload.boxes.to_array().astype("f4"),
        classes=np.full(count, -1, np.int32) if payload.classes is None else np.array(payload.classes, np.int32),
        scores=np.full(count, np.nan, np.float32),
        relations=edges,
        relation_scores=np.array([relation[3] for relation in payload.relations], np.float32),
    )

"""The contract of every server: what may be asked, in JSON, and what is answered. Adapters add only their transport.

A request has one of three shapes, told apart by its keys; `/explanations` takes the first:

    {"pairs": [{"image": I, "text": T}, ...]}                     -> a score per pair
    {"images": [I, ...], "texts": [T, ...]}                       -> the score matrix
        with "top_k" (and "rank": "images" or "texts")            -> the best images per text, or texts per image
    {"gallery": NAME, "texts": [T, ...] or "images": [I, ...]}    -> search in a gallery encoded beforehand

An image I is its regions (see hire_model/service/payload.py), or {"gallery": NAME, "id": ID}. Numbers are never taken
from strings, unknown keys are faults, and a fault is told by its JSON path. One fault is told, and a list is left at
its first (fail_fast): a body of 16 MB can hold eight million, and gathering them takes 8 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from hire_model.service.payload import ImagePayload

NO_PICTURES = (
    "raw pictures are not taken: this server has no region extractor. Send the picture's regions "
    '({"features": ..., "boxes": ...}) or a gallery image ({"gallery": ..., "id": ...})'
)
PROBE = "x-hire-probe"
"""A header of value 1: the request only asks how the server is, and is not for its journal."""
Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Count = Annotated[int, Field(strict=True, ge=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoredImage(_Message):
    """An image of a gallery on the server."""

    gallery: Name
    id: Annotated[str, Field(strict=True, min_length=1, max_length=500)]


def _classify_image(value: Any) -> str | None:
    """Which of the two an image is; None, a fault of its own, for what is neither."""
    keys = value if isinstance(value, Mapping) else value.__dict__ if isinstance(value, BaseModel) else {}
    return "#regions" if "features" in keys else "#stored" if {"gallery", "id"} & set(keys) else None


Image = Annotated[
    Annotated[ImagePayload, Tag("#regions")] | Annotated[StoredImage, Tag("#stored")],
    Discriminator(
        _classify_image,
        custom_error_type="image",
        custom_error_message='expected an image: its regions, or {"gallery": ..., "id": ...}; ' + NO_PICTURES,
    ),
]


class Pair(_Message):
    """An image and a sentence."""

    image: Image
    text: Text


class PairsRequest(_Message):
    """Score, or explain, each pair."""

    pairs: Annotated[list[Pair], Field(min_length=1, fail_fast=True)]


class MatrixRequest(_Message):
    """Score each image against each text; with `top_k`, rank one side for each item of the other."""

    images: Annotated[list[Image], Field(min_length=1, fail_fast=True)]
    texts: Annotated[list[Text], Field(min_length=1, fail_fast=True)]
    top_k: Count | None = None
    rank: Literal["images", "texts"] = Field(
        "images", description="with top_k: 'images' ranks the images for each text, 'texts' the texts for each image"
    )


class SearchRequest(_Message):
    """The best of a gallery: its images for each text, or its sentences for each image."""

    gallery: Name
    texts: Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = None
    images: Annotated[list[Image], Field(min_length=1, fail_fast=True)] | None = None
    top_k: Count = 10
    shortlist: Count | None = Field(
        None, description="how many the global head hands to the pairwise score; the gallery's default without it"
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if (self.texts is None) == (self.images is None):
            raise ValueError("expected either texts or images beside gallery")
        return self


RequestBody = PairsRequest | MatrixRequest | SearchRequest


def _classify_body(value: Any) -> str | None:
    keys = value if isinstance(value, Mapping) else {}
    for key, kind in (("gallery", "#search"), ("pairs", "#pairs"), ("images", "#matrix"), ("texts", "#matrix")):
        if key in keys:
            return kind
    return None


PREDICTION_BODY: TypeAdapter[RequestBody] = TypeAdapter(
    Annotated[
        Annotated[PairsRequest, Tag("#pairs")]
        | Annotated[MatrixRequest, Tag("#matrix")]
        | Annotated[SearchRequest, Tag("#search")],
        Discriminator(
            _classify_body,
            custom_error_type="request",
            custom_error_message="expected an object with pairs, with images and texts, or with gallery",
        ),
    ]
)
EXPLANATION_BODY = TypeAdapter(PairsRequest)
_PATH, _MESSAGE = 200, 400  # characters of a fault's path and message at most
_TAGS = {"#pairs", "#matrix", "#search", "#regions", "#stored"}  # no key of a request, hence no part of a path


class ModelFacts(_Message):
    """Which model answered."""

    name: str
    version: str = Field(description="the registry's version; empty for a model folder that was never registered")
    run_id: str
    weights_sha256: str


class _Answer(_Message):
    model: ModelFacts


class PairsAnswer(_Answer):
    """A score per pair, in order; higher is a better match, within -1.5 ... 1.5."""

    scores: list[float]


class MatrixAnswer(_Answer):
    """scores[i][j] of image i and text j."""

    scores: list[list[float]]


class Hit(_Message):
    """A ranked item: its place in the request's list, and its score."""

    index: int
    score: float


class RankedAnswer(_Answer):
    """For each query (a text, or an image) the best of the other side, best first."""

    results: list[list[Hit]]


class SearchHit(_Message):
    """An image, or a sentence, of a gallery; a sentence's id is the sentence."""

    id: str
    score: float
    place: int | None = Field(description="its place, from 1, in the shortlist; null where every item was scored")


class SearchResult(_Message):
    """What one query found, best first. Only `reranked` items had a pairwise score; the others were not looked at."""

    hits: list[SearchHit]
    reranked: int
    note: str = Field(description="one sentence where a longer shortlist might change the answer; mostly empty")


class SearchAnswer(_Answer):
    """A result per query, in order."""

    gallery: str
    size: int = Field(description="items in the gallery")
    results: list[SearchResult]


class PairExplanation(_Message):
    """Why a pair has its score. `contributions`, one per word, sum to `score`; each row of `weights` sums to 1."""

    words: list[str] = Field(description="the text's words, and last '[marks]': what its start and end mark bring")
    weights: list[list[float]] = Field(description="[words][regions], what each word looked at")
    contributions: list[float]
    boxes: list[list[float] | None] = Field(description="x1 y1 x2 y2 in 0-1 of each region, null without a box")
    score: float


class ExplanationAnswer(_Answer):
    """An explanation per pair, in order."""

    explanations: list[PairExplanation]


class Fault(_Message):
    """Why a request was refused."""

    status: int = Field(description="400 malformed, 404 no such gallery or image, 413 too much, 500 our fault")
    path: str = Field(description="where in the request, such as pairs[3].image.boxes; empty for the whole")
    message: str
    model: ModelFacts | None = None


class RequestFault(Exception):  # noqa: N818  what a request is answered with
    """A request that is refused; becomes a `Fault`. Path and message are cut: an unknown key may have 16 MB."""

    def __init__(self, status: int, path: str, message: str) -> None:
        path, message = _cut(path, _PATH), _cut(message, _MESSAGE)
        super().__init__(f"{path}: {message}")
        self.status, self.path, self.message = status, path, message


def parse_body(body: bytes | bytearray | str, explain: bool = False) -> RequestBody:
    """Parse the JSON text of a request. Raises RequestFault (400) with the JSON path of the first fault."""
    adapter: TypeAdapter[Any] = EXPLANATION_BODY if explain else PREDICTION_BODY
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path, message = format_path(fault["loc"]), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        begins = (body if isinstance(body, str) else bytes(body[:64]).decode("latin-1")).lstrip()[:1]
        message = f"the body is not JSON ({message})" + (f"; {NO_PICTURES}" if begins not in ("", "{", "[") else "")
    raise RequestFault(400, path, message)


def format_path(loc: tuple[int | str, ...]) -> str:
    """Format pydantic's place of a fault: ('#pairs', 'pairs', 3, 'image', '#regions') becomes pairs[3].image."""
    parts = (part for part in loc if part not in _TAGS)
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."

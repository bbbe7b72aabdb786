"""The request and answer formats of every server, in JSON. A server adds only its transport.

A request has one of four shapes, recognised by its keys. `/explanations` accepts the first:

    {"pairs": [{"image": I, "text": T}, ...]}                     -> a score per pair
    {"images": [I, ...], "texts": [T, ...]}                       -> the score matrix
        with "top_k" (and "rank": "images" or "texts")            -> the best images per text, or texts per image
    {"gallery": NAME, "texts": [T, ...] or "images": [I, ...]}    -> search in a gallery encoded beforehand
    {"query": T or I, "documents": [...], "top_n": N}             -> the best documents, in the shape of rerank services

An image I is its regions (see hire_model/service/payload.py), {"picture": BASE64} with the bytes of a JPEG, PNG or WebP
file, or {"gallery": NAME, "id": ID}. A string is not accepted
as a number, and unknown keys are faults. A fault carries its JSON path. Only the first fault is reported, and the check
of a list stops there (fail_fast): a body of 16 MB can contain eight million faults, and collecting them takes 8 GB.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from hire_model.service.payload import ImagePayload

PICTURE_HINT = 'send a picture file as {"picture": "<base64 of a JPEG, PNG or WebP file>"}'
PROBE = "x-hire-probe"
"""Header with value 1 for a health check: the request is neither written to the journal nor traced."""
TRACEPARENT = "traceparent"
"""Header with the trace that a request belongs to (W3C Trace Context)."""
Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Count = Annotated[int, Field(strict=True, ge=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoredImage(_Message):
    """An image of a gallery on the server."""

    gallery: Name
    id: Annotated[str, Field(strict=True, min_length=1, max_length=500)]


class PictureImage(_Message):
    """A picture, whose regions the server extracts as for the training data of the model."""

    picture: Annotated[str, Field(strict=True, min_length=1)] = Field(
        description="base64 of a JPEG, PNG or WebP file", json_schema_extra={"contentEncoding": "base64"}
    )


def _classify_image(value: Any) -> str | None:
    """Return the tag of an image's kind, or None if it is of no kind; pydantic reports None as a fault."""
    keys = value if isinstance(value, dict) else value.__dict__ if isinstance(value, BaseModel) else {}
    for key, kind in (("features", "#regions"), ("picture", "#picture"), ("gallery", "#stored"), ("id", "#stored")):
        if key in keys:
            return kind
    return None


Image = Annotated[
    Annotated[ImagePayload, Tag("#regions")]
    | Annotated[PictureImage, Tag("#picture")]
    | Annotated[StoredImage, Tag("#stored")],
    Discriminator(
        _classify_image,
        custom_error_type="image",
        custom_error_message='expected an image: its regions, a picture, or {"gallery": ..., "id": ...}; '
        + PICTURE_HINT,
    ),
]


class Pair(_Message):
    """An image and a text."""

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
    """Search a gallery: its images for each text, or its captions for each image."""

    gallery: Name
    texts: Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = None
    images: Annotated[list[Image], Field(min_length=1, fail_fast=True)] | None = None
    top_k: Count = 10
    shortlist: Count | None = Field(
        None,
        description="number of items to score pairwise; by default 1000, or top_k if larger",
    )
    hub_correction: bool | None = Field(
        None, description="true: correct the scores for items that match every query; needs a bank in the model"
    )
    where: Annotated[dict[Text, Text | bool | int | float], Field(min_length=1, max_length=16)] | None = Field(
        None, description="only images whose metadata has each of these values, or captions of such images"
    )

    @model_validator(mode="after")
    def _check_query(self) -> Self:
        if (self.texts is None) == (self.images is None):
            raise ValueError("expected gallery with either texts or images")
        return self


def _classify_item(value: Any) -> str:
    return "#text" if isinstance(value, str) else "#image"


Item = Annotated[Annotated[Text, Tag("#text")] | Annotated[Image, Tag("#image")], Discriminator(_classify_item)]


class RerankRequest(_Message):
    """Rank documents for a query. The clients of Cohere, Jina, vLLM and Infinity send this shape to /rerank.

    For a sentence as query, a document is an image, or the string GALLERY/ID of a gallery image. For an image as query,
    a document is a sentence.
    """

    model: Annotated[str, Field(strict=True)] | None = Field(
        None, description="name of the model, or NAME/VERSION; another model gets 404"
    )
    query: Item
    documents: Annotated[list[Item], Field(min_length=1, fail_fast=True)]
    top_n: Count | None = Field(None, description="number of results; by default all documents")
    return_documents: Annotated[bool, Field(strict=True)] = Field(
        False, description="true: each result has its document, as it was sent"
    )
    raw_scores: Annotated[bool, Field(strict=True)] = Field(
        False, description="sent by Infinity's clients; has no effect, as scores are never scaled to 0-1"
    )


RequestBody = PairsRequest | MatrixRequest | SearchRequest | RerankRequest


_KINDS = {
    "gallery": "#search", "pairs": "#pairs", "images": "#matrix", "texts": "#matrix", "query": "#rerank",
    "documents": "#rerank",
}  # fmt: skip


def _classify_body(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else {}
    return next((kind for key, kind in _KINDS.items() if key in keys), None)


PREDICTION_BODY: TypeAdapter[RequestBody] = TypeAdapter(
    Annotated[
        Annotated[PairsRequest, Tag("#pairs")]
        | Annotated[MatrixRequest, Tag("#matrix")]
        | Annotated[SearchRequest, Tag("#search")]
        | Annotated[RerankRequest, Tag("#rerank")],
        Discriminator(
            _classify_body,
            custom_error_type="request",
            custom_error_message="expected an object with pairs, with images and texts, with gallery, or with query "
            "and documents",
        ),
    ]
)
EXPLANATION_BODY = TypeAdapter(PairsRequest)
_PATH, _MESSAGE = 200, 400  # maximum number of characters in the path and the message of a fault
# In pydantic's paths, but not in the request.
_TAGS = {"#pairs", "#matrix", "#search", "#rerank", "#regions", "#picture", "#stored", "#text", "#image"}


class ModelFacts(_Message):
    """The model that answered."""

    name: str
    version: str = Field(description="version in the registry; empty for a model that is not registered")
    run_id: str
    weights_sha256: str


class _Answer(_Message):
    model: ModelFacts


def _is_empty(value: Any) -> bool:
    return not value


UnknownWords = Annotated[
    list[str],
    Field(exclude_if=_is_empty, description="words of the text that are not in the model's vocabulary; absent if none"),
]
UnknownPerText = Annotated[
    list[list[str]],
    Field(
        exclude_if=_is_empty,
        description="words that are not in the model's vocabulary, for each text (of each pair) in order; absent if "
        "there are none",
    ),
]


class PairsAnswer(_Answer):
    """A score per pair, in order. Higher is a better match; scores are within -1.5 to 1.5."""

    scores: list[float]
    unknown: UnknownPerText = []


class MatrixAnswer(_Answer):
    """The score matrix: scores[i][j] of image i and text j."""

    scores: list[list[float]]
    unknown: UnknownPerText = []


class Hit(_Message):
    """A ranked item: its index in the request's list, and its score."""

    index: int
    score: float


class RankedAnswer(_Answer):
    """For each query (a text, or an image) the best items of the other side, best first."""

    results: list[list[Hit]]
    unknown: UnknownPerText = []


class SearchHit(_Message):
    """An image or a caption of a gallery. The id of a caption is its text."""

    id: str
    score: float
    place: int | None = Field(description="place in the shortlist, counted from 1; null if every item was scored")


class SearchResult(_Message):
    """The hits of one query, best first. Only `reranked` items got a pairwise score."""

    hits: list[SearchHit]
    reranked: int
    note: str = Field(
        description="a warning if a longer shortlist might change the answer, or no word of the text is known; "
        "usually empty"
    )
    unknown: UnknownWords = []


class SearchAnswer(_Answer):
    """A result per query, in order."""

    gallery: str
    size: int = Field(description="number of items in the gallery")
    hub_correction: bool = Field(False, description="whether the scores are corrected, as the request asked")
    results: list[SearchResult]


class RerankDocument(_Message):
    """A document that was sent as a string."""

    text: str


def _is_none(value: Any) -> bool:
    return value is None


class RerankResult(_Message):
    """A ranked document: its index in the request's list, and its score."""

    index: int
    relevance_score: float = Field(description="as the scores of the other requests: higher is better, not within 0-1")
    document: Annotated[
        RerankDocument | Image | None,
        Field(exclude_if=_is_none, description="with return_documents: a string as its text, an image as it was sent"),
    ] = None


class RerankUsage(_Message):
    """The size of a request, which Infinity's clients require: the word pieces of all sentences."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(_Message):
    """The best documents, best first."""

    model: str = Field(description="NAME/VERSION of the model")
    facts: ModelFacts
    results: list[RerankResult]
    usage: RerankUsage
    unknown: UnknownPerText = []


class PairExplanation(_Message):
    """The explanation of a pair. `contributions`, one per word, sum to `score`; each row of `weights` sums to 1."""

    words: list[str] = Field(description="words of the text, then '[marks]' for its start and end marks")
    weights: list[list[float]] = Field(description="[words][regions], attention of each word over the regions")
    contributions: list[float]
    boxes: list[list[float] | None] = Field(description="x1 y1 x2 y2 in 0-1 per region; null if it has no box")
    score: float
    unknown: UnknownWords = []


class ExplanationAnswer(_Answer):
    """An explanation per pair, in order."""

    explanations: list[PairExplanation]


class Fault(_Message):
    """Why a request was rejected."""

    status: int = Field(
        description="400 malformed, 404 unknown gallery or image, 413 too large, 500 error in the server"
    )
    path: str = Field(description="place in the request, such as pairs[3].image.boxes; empty for the whole request")
    message: str
    model: ModelFacts | None = None


class RequestFault(Exception):  # noqa: N818  named after the answer that it becomes
    """A request is rejected; the answer is a `Fault`. Path and message are cut, as an unknown key can have 16 MB."""

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
        first = (body if isinstance(body, str) else bytes(body[:64]).decode("latin-1")).lstrip()[:1]
        message = f"the body is not JSON ({message})" + (f"; {PICTURE_HINT}" if first not in ("", "{", "[") else "")
    raise RequestFault(400, path, message)


def format_path(loc: tuple[int | str, ...]) -> str:
    """Format the location of a pydantic error: ('#pairs', 'pairs', 3, 'image', '#regions') becomes pairs[3].image."""
    parts = (part for part in loc if part not in _TAGS)
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."

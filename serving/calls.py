"""What the client sends and what it makes of an answer, without a network: both clients share it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from hire_model.data.store import ImageRegions
from hire_model.errors import HireError
from hire_model.service.contract import (
    ExplanationAnswer,
    Fault,
    MatrixAnswer,
    MatrixRequest,
    ModelFacts,
    PairsAnswer,
    PairsRequest,
    RankedAnswer,
    SearchAnswer,
    SearchRequest,
    StoredImage,
    format_path,
)
from hire_model.service.payload import ImagePayload, make_payload
from serving.contract import EXPLANATIONS, PREDICTIONS

PING = "/ping"
TOKEN_FAULT = "InvalidKeyException"  # with status 400: how TorchServe refuses a token
Image = ImageRegions | StoredImage
"""An image: its regions, or one of a gallery on the server."""
Pairs = Iterable[tuple[Image, str]]
Answer = TypeVar("Answer")
Message = TypeVar("Message", bound=BaseModel)


class ClientError(HireError):
    """A request without an answer of its kind. `status`: the server's, 0 where none came; `path`: what is at fault."""

    def __init__(self, message: str, status: int = 0, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.status, self.path = status, path


class BadRequest(ClientError):  # noqa: N818
    """Malformed, or not fitting the model; found by the server, or before anything was sent (status 0)."""


class NotFound(ClientError):  # noqa: N818
    """No such gallery, gallery image or model version."""


class TooLarge(ClientError):  # noqa: N818
    """More than the server takes in one request: send several."""


class TooManyRequests(ClientError):  # noqa: N818
    """Refused by the proxy's rate limit: ask less often."""


class Unauthorized(ClientError):  # noqa: N818
    """The token is missing, wrong or expired, and reading it anew gave no other."""


class Unavailable(ClientError):  # noqa: N818
    """The server was away, overloaded, or failed, until the deadline."""


class DeadlineExceeded(Unavailable):
    """The server took the request and did not answer in time."""


_REFUSALS: dict[int, type[ClientError]] = {
    400: BadRequest, 401: Unauthorized, 403: Unauthorized, 404: NotFound, 413: TooLarge, 429: TooManyRequests,
}  # fmt: skip


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request: `body` is posted to `path`, or nothing is got from it; `read` makes its answer of status and body."""

    path: str
    body: bytes | None
    read: Callable[[int, bytes], Answer]


def score(pairs: Pairs) -> Call[PairsAnswer]:
    """A score per (image, sentence) pair. All of these raise BadRequest for what no server would take."""
    return Call(PREDICTIONS, _body(PairsRequest, pairs=_pairs(pairs)), partial(_answer, PairsAnswer))


def explain(pairs: Pairs) -> Call[ExplanationAnswer]:
    """Why each pair scores as it does."""
    return Call(EXPLANATIONS, _body(PairsRequest, pairs=_pairs(pairs)), partial(_answer, ExplanationAnswer))


def matrix(images: Iterable[Image], texts: Sequence[str]) -> Call[MatrixAnswer]:
    """The score of each image with each sentence."""
    body = _body(MatrixRequest, images=_images(images), texts=_texts(texts))
    return Call(PREDICTIONS, body, partial(_answer, MatrixAnswer))


def rank(
    images: Iterable[Image], texts: Sequence[str], top_k: int, rank: Literal["images", "texts"]
) -> Call[RankedAnswer]:
    """The best images for each sentence, or (rank='texts') sentences for each image."""
    body = _body(MatrixRequest, images=_images(images), texts=_texts(texts), top_k=top_k, rank=rank)
    return Call(PREDICTIONS, body, partial(_answer, RankedAnswer))


def search(
    gallery: str,
    texts: Sequence[str] | None,
    images: Iterable[Image] | None,
    top_k: int,
    shortlist: int | None,
) -> Call[SearchAnswer]:
    """The best of a gallery for each sentence, or for each image."""
    body = _body(
        SearchRequest,
        gallery=gallery,
        texts=None if texts is None else _texts(texts),
        images=None if images is None else _images(images),
        top_k=top_k,
        shortlist=shortlist,
    )
    return Call(PREDICTIONS, body, partial(_answer, SearchAnswer))


def _texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):  # a sequence, too: of letters
        raise BadRequest(f"expected a list of sentences, as in [{texts!r}], and not one sentence.", 0, "texts")
    return list(texts)


def ping() -> Call[bool]:
    """Whether the server is up; refused where it is not."""
    return Call(PING, None, _pinged)


def facts() -> Call[ModelFacts]:
    """Which model answers. An empty request is refused by every server of the contract, and the refusal says so."""
    return Call(PREDICTIONS, b"{}", _facts)


def refusal(status: int, content: bytes) -> ClientError:
    """The error for an answer other than 200: one of the contract, of the server, of a proxy, or without a body."""
    said = _said(content)
    words = said.get("message") or said.get("detail") or content[:200].decode("utf-8", "replace").strip()
    kind = _REFUSALS.get(status, Unavailable if status >= 500 else ClientError)
    if status == 400 and said.get("type") == TOKEN_FAULT:
        kind = Unauthorized
    return kind(f"{words or 'refused without a word'} (status {status})", status, str(said.get("path") or ""))


def _answer(kind: type[Message], status: int, content: bytes) -> Message:
    if status != 200:
        raise refusal(status, content)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        words = content[:100].decode("utf-8", "replace")
        raise ClientError(f"the answer is no {kind.__name__}: {words!r}. Is this a HIRE server?", status) from error


def _pinged(status: int, content: bytes) -> bool:
    if status != 200:
        raise refusal(status, content)
    return True


def _facts(status: int, content: bytes) -> ModelFacts:
    error = refusal(status, content)
    if type(error) is not BadRequest:
        raise error
    model = _answer(Fault, 200, content).model
    if model is None:
        raise ClientError("the server does not say which model it has.", status)
    return model


def _said(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):  # a page of a proxy, or worse
        return {}
    return said if isinstance(said, dict) else {}


def _body(kind: type[BaseModel], **fields: Any) -> bytes:
    try:
        return kind.model_validate(fields).model_dump_json(exclude_none=True).encode()
    except ValidationError as error:
        raise _malformed(error, "") from error


def _pairs(pairs: Pairs) -> list[dict[str, Any]]:
    return [{"image": _image(image, f"pairs[{i}].image"), "text": text} for i, (image, text) in enumerate(pairs)]


def _images(images: Iterable[Image]) -> list[ImagePayload | StoredImage]:
    return [_image(image, f"images[{i}]") for i, image in enumerate(images)]


def _image(image: Image, path: str) -> ImagePayload | StoredImage:
    if not isinstance(image, ImageRegions):
        return image
    try:
        return make_payload(image)
    except ValidationError as error:
        raise _malformed(error, path) from error


def _malformed(error: ValidationError, path: str) -> BadRequest:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = format_path(fault["loc"])
    where = f"{path}.{place}" if path and place else path or place
    return BadRequest(fault["msg"].removeprefix("Value error, "), 0, where)

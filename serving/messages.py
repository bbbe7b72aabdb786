"""Requests and answers of the client as bytes, and its errors. No network here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pybase64
from pydantic import BaseModel, ValidationError

from hire_model.data.store import ImageRegions
from hire_model.errors import HireError
from hire_model.service.contract import Fault, ModelFacts, PictureImage, StoredImage, format_path
from hire_model.service.payload import ImagePayload, make_payload

PING = "/ping"
TOKEN_FAULT = "InvalidKeyException"  # TorchServe rejects a token with this type and status 400
Image = ImageRegions | StoredImage | Path | bytes
"""An image: its regions, a reference to a gallery image on the server, or a picture: its path or the file's content."""
Pairs = Iterable[tuple[Image, str]]
Message = TypeVar("Message", bound=BaseModel)


class ClientError(HireError):
    """A failed request. `status`: of the answer, 0 without one; `path`: JSON path of the fault."""

    def __init__(self, message: str, status: int = 0, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.status, self.path = status, path


class BadRequest(ClientError):  # noqa: N818
    """The request is malformed or does not fit the model. Raised by the server, or before sending (status 0)."""


class NotFound(ClientError):  # noqa: N818
    """No such gallery, gallery image or model version."""


class TooLarge(ClientError):  # noqa: N818
    """Above a limit of the server: send several smaller requests."""


class TooManyRequests(ClientError):  # noqa: N818
    """Above the proxy's rate limit: send fewer requests per second."""


class Unauthorized(ClientError):  # noqa: N818
    """The token is missing, wrong or expired, and reading it again gave the same one."""


class Unavailable(ClientError):  # noqa: N818
    """The server could not be reached, was overloaded, or failed until the deadline."""


class DeadlineExceeded(Unavailable):
    """The server accepted the request and did not answer in time."""


_ERRORS: dict[int, type[ClientError]] = {
    400: BadRequest, 401: Unauthorized, 403: Unauthorized, 404: NotFound, 413: TooLarge, 429: TooManyRequests,
}  # fmt: skip


def make_reader(kind: type[Message]) -> Callable[[int, bytes], Message]:
    """Return a function of status and body that parses an answer of `kind`, or raises the matching error."""

    def read(status: int, content: bytes) -> Message:
        if status != 200:
            raise to_error(status, content)
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            text = content[:100].decode("utf-8", "replace")
            raise ClientError(
                f"the answer is not a {kind.__name__}: {text!r}. Is this a Hire server?", status
            ) from error

    return read


def read_ping(status: int, content: bytes) -> bool:
    """Return True for status 200. Raises the error of any other answer."""
    if status != 200:
        raise to_error(status, content)
    return True


def read_model_facts(status: int, content: bytes) -> ModelFacts:
    """Return the model named in the refusal of an empty request."""
    error = to_error(status, content)
    if type(error) is not BadRequest:
        raise error
    model = make_reader(Fault)(200, content).model
    if model is None:
        raise ClientError("the server does not name its model.", status)
    return model


def to_error(status: int, content: bytes) -> ClientError:
    """Return the error for an answer other than 200: from the contract, the server, a proxy, or without a body."""
    fields = _parse_object(content)
    message = fields.get("message") or fields.get("detail") or content[:200].decode("utf-8", "replace").strip()
    kind = _ERRORS.get(status, Unavailable if status >= 500 else ClientError)
    if status == 400 and fields.get("type") == TOKEN_FAULT:
        kind = Unauthorized
    return kind(f"{message or 'refused without a message'} (status {status})", status, str(fields.get("path") or ""))


def encode_body(kind: type[BaseModel], **fields: Any) -> bytes:
    """Return the JSON of a request of `kind`. Raises BadRequest if it violates the contract."""
    try:
        return kind.model_validate(fields).model_dump_json(exclude_none=True).encode()
    except ValidationError as error:
        raise _to_bad_request(error, "") from error


def encode_pairs(pairs: Pairs) -> list[dict[str, Any]]:
    """Convert (image, sentence) pairs to their form in a request. Raises BadRequest with the JSON path."""
    return [{"image": encode_item(image, f"pairs[{i}].image"), "text": text} for i, (image, text) in enumerate(pairs)]


def encode_images(images: Iterable[Image]) -> list[ImagePayload | PictureImage | StoredImage]:
    """Convert images to their form in a request. Raises BadRequest with the JSON path."""
    return [encode_item(image, f"images[{i}]") for i, image in enumerate(images)]


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return the sentences as a list. Raises BadRequest for a single string."""
    if isinstance(texts, str):  # a string is a sequence too, of letters
        raise BadRequest(f"expected a list of sentences, as in [{texts!r}], not a single sentence.", 0, "texts")
    return list(texts)


def encode_item(item: Image | str, path: str) -> Any:
    """Convert an image to its form in a request; return other items as they are. Raises BadRequest with `path`."""
    if isinstance(item, Path | bytes):
        return _encode_picture(item, path)
    if not isinstance(item, ImageRegions):
        return item
    try:
        return make_payload(item)
    except ValidationError as error:
        raise _to_bad_request(error, path) from error


def _encode_picture(image: Path | bytes, path: str) -> PictureImage:
    try:
        content = image.expanduser().read_bytes() if isinstance(image, Path) else image
    except OSError as error:
        raise BadRequest(f"{image!s}: cannot be read: {error.strerror}.", 0, path) from error
    if not content:
        raise BadRequest("the picture file is empty.", 0, path)
    return PictureImage(picture=pybase64.b64encode(content).decode("ascii"))


def _to_bad_request(error: ValidationError, path: str) -> BadRequest:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    inner = format_path(fault["loc"])
    full_path = f"{path}.{inner}" if path and inner else path or inner
    return BadRequest(fault["msg"].removeprefix("Value error, "), 0, full_path)


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):  # for example a proxy's HTML page
        return {}
    return parsed if isinstance(parsed, dict) else {}

"""Parse requests: check the body and its size, and decode the images or look them up in a gallery."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
from cachetools import LRUCache
from pydantic import ValidationError

from hire_model.batch import EncodedImages
from hire_model.data.store import ImageRegions
from hire_model.errors import DataError
from hire_model.gallery.search import SHORTLIST
from hire_model.gallery.store import Gallery
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import (
    ModelFacts,
    PairsRequest,
    PictureImage,
    RequestBody,
    RequestFault,
    RerankRequest,
    SearchRequest,
    StoredImage,
    parse_body,
)
from hire_model.service.galleries import Galleries
from hire_model.service.payload import ImagePayload, decode_payload
from hire_model.service.pictures import Pictures
from hire_model.service.timings import Timings

_STORED_BYTES = 16 << 20  # images of each gallery that are kept in memory: about 900 of 36 regions, P = 128
AnyImage = ImagePayload | PictureImage | StoredImage


@dataclass(frozen=True)
class Limits:
    """Maximum sizes of one request, to bound its time and memory. A larger request is answered with 413.

    Args:
        pairs: pairs to score.
        images: images sent in the request; they must be encoded.
        texts: distinct texts; they must be encoded.
        regions, relations: regions and relations of one image.
        characters: characters of one text.
        explained: pairs to explain.
        pictures: picture files sent in the request; their regions must be extracted.
        picture_bytes, picture_pixels: size of one picture file, and width times height. A picture with too many pixels
            is answered with 400, as it is for the import.
        picture_seconds: CPU time to decode and extract all pictures of a request. A picture that is decoded in time is
            extracted in any case.
        keys, items: keys of all objects, and items of all lists, in the body. The memory of parsed JSON depends on
            them, so they are counted before parsing, as punctuation marks.
    """

    pairs: int = 4096
    images: int = 64
    texts: int = 256
    regions: int = 100
    relations: int = 1000
    characters: int = 2000
    explained: int = 16
    pictures: int = 8
    picture_bytes: int = 10_000_000
    picture_pixels: int = 25_000_000
    picture_seconds: float = 8.0
    keys: int = 50_000
    items: int = 500_000


@dataclass(frozen=True)
class Request:
    """A request as a server receives it.

    Args:
        body: the JSON text, not parsed yet.
        explain: whether explanations are requested instead of scores.
        probe: whether the request is a health check, which is neither written to the journal nor traced.
        traceparent: header of the client (W3C Trace Context), "" without one.
    """

    body: bytes | bytearray | str
    explain: bool = False
    probe: bool = False
    traceparent: str = ""


@dataclass(frozen=True)
class RequestImage:
    """An image of a request: its regions if the request contains them, or the encoded image from a gallery."""

    content: ImageRegions | EncodedImages
    boxes: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class ParsedRequest:
    """A valid request. Pair k is image `image_index[k]` with text `text_index[k]` [K], in the order of the answer.

    image_path: JSON path of an image, with {} for its index.
    """

    body: RequestBody
    images: list[RequestImage]
    texts: list[str]
    image_index: np.ndarray
    text_index: np.ndarray
    image_path: str
    probe: bool = False


class RequestParser:
    """Parses requests for one model and its galleries."""

    def __init__(
        self, scorer: Scorer, galleries: Galleries, pictures: Pictures, limits: Limits, facts: ModelFacts
    ) -> None:
        self.scorer, self.galleries, self.pictures, self.limits, self.facts = scorer, galleries, pictures, limits, facts
        self._lock = Lock()
        # By gallery, so that a generation that is no longer used is forgotten; then by id.
        self._stored = WeakKeyDictionary[Gallery, LRUCache[str, RequestImage]]()

    def parse(self, request: Request, timings: Timings) -> ParsedRequest:
        """Parse `request`, and add its kind and the reading of its pictures to `timings`.

        Raises RequestFault: 400 malformed, 404 unknown gallery or image, 413 too large.
        """
        if not isinstance(request.body, bytes | bytearray | str):  # a cell of MLflow's table can be empty or a number
            raise RequestFault(400, "", f"the request is {type(request.body).__name__}, expected JSON as text.")
        self._check_values(request.body)
        body = parse_body(request.body, request.explain)
        timings.kind = type(body).__name__.removesuffix("Request").lower()
        self._check_pairs(body, request.explain)
        images, texts, image_path, text_path = self._find_sides(body)
        if isinstance(body, PairsRequest):
            index = (np.arange(len(texts)),) * 2
        else:
            grid = np.indices((len(images), len(texts)))
            index = grid[0].ravel(), grid[1].ravel()
        _check_limit(sum(isinstance(image, ImagePayload) for image in images), self.limits.images, "images sent", "")
        _check_limit(sum(isinstance(image, PictureImage) for image in images), self.limits.pictures, "pictures", "")
        _check_limit(len(set(texts)), self.limits.texts, "texts", "")
        for position, text in enumerate(texts):
            if len(text) > self.limits.characters:
                _check_limit(len(text), self.limits.characters, "characters", text_path.format(position))
        prepared = self._prepare_images(images, image_path, timings)
        return ParsedRequest(body, prepared, texts, *index, image_path=image_path, probe=request.probe)

    def _check_values(self, body: bytes | bytearray | str) -> None:
        """Count keys and items by their punctuation marks, before the JSON is parsed.

        A body with fewer characters cannot have more marks. Base64 contains none of these marks, and texts contain few.
        64 images with 1,000 relations each have 400,000.
        """
        if len(body) <= min(self.limits.keys, self.limits.items):
            return
        text = np.frombuffer(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body, np.uint8)
        # numpy is four times as fast as bytes.count
        colons, *others = (int(np.count_nonzero(text == mark)) for mark in b":,[{")
        _check_limit(colons, self.limits.keys, "keys", "")
        _check_limit(sum(others), self.limits.items, "items", "")

    def _check_pairs(self, body: RequestBody, explain: bool) -> None:
        """Check the number of pairs before any look-up: a body of permitted size can name billions."""
        if isinstance(body, PairsRequest):
            limit = self.limits.explained if explain else self.limits.pairs
            _check_limit(len(body.pairs), limit, "pairs", "pairs")
        elif isinstance(body, RerankRequest):
            _check_limit(len(body.documents), self.limits.pairs, "documents", "documents")
        else:
            images, texts = len(body.images or ()), len(body.texts or ())
            _check_limit(max(images, 1) * max(texts, 1), self.limits.pairs, "pairs", "")

    def _find_sides(self, body: RequestBody) -> tuple[Sequence[AnyImage], list[str], str, str]:
        """Return the images and the texts of a request, and the JSON paths of both, with {} for the position."""
        if isinstance(body, PairsRequest):
            return (
                [pair.image for pair in body.pairs],
                [pair.text for pair in body.pairs],
                "pairs[{}].image",
                "pairs[{}].text",
            )
        if isinstance(body, RerankRequest):
            paths = ("documents[{}]", "query") if isinstance(body.query, str) else ("query", "documents[{}]")
            return *self._split_rerank(body), *paths
        return body.images or [], body.texts or [], "images[{}]", "texts[{}]"

    def _split_rerank(self, body: RerankRequest) -> tuple[list[AnyImage], list[str]]:
        """Return images and texts of a rerank request; one of them is the query. Raises RequestFault."""
        facts = self.facts
        if body.model not in (None, facts.name, f"{facts.name}/{facts.version}"):
            raise RequestFault(404, "model", f"this server has the model '{facts.name}/{facts.version}'.")
        if isinstance(body.query, str):
            return [_to_image(item, f"documents[{i}]") for i, item in enumerate(body.documents)], [body.query]
        texts = [item for item in body.documents if isinstance(item, str)]
        if len(texts) < len(body.documents):
            first = next(i for i, item in enumerate(body.documents) if not isinstance(item, str))
            raise RequestFault(400, f"documents[{first}]", "expected a sentence, because the query is an image.")
        return [body.query], texts

    def prepare_search(self, body: SearchRequest) -> tuple[Gallery, int]:
        """Return the gallery that `body` searches and the length of the shortlist. Raises RequestFault."""
        gallery = self.galleries.open(body.gallery, "gallery")
        shortlist = max(SHORTLIST, body.top_k) if body.shortlist is None else body.shortlist
        if shortlist < body.top_k:
            raise RequestFault(400, "shortlist", f"{shortlist} cannot give {body.top_k} results (top_k).")
        store = gallery.images if body.images is None else gallery.captions
        if store is None:
            raise RequestFault(400, "images", f"gallery '{body.gallery}' was built without captions.")
        if body.hub_correction and (self.scorer.model.hubs is None or not self.scorer.model.settings.global_head):
            raise RequestFault(400, "hub_correction", "this model has no bank of training items to correct with.")
        if body.where:
            rows = gallery.filter(body.where)
            size = len(rows) if body.images is None else int(np.isin(gallery.caption_images, rows).sum())
        else:
            size = len(store)
        scored = min(shortlist, size) if self.scorer.model.settings.global_head else size
        queries = len(body.texts or body.images or ())
        _check_limit(
            queries * scored, self.limits.pairs, f"pairs to score ({queries} queries, a shortlist of {scored})", ""
        )
        return gallery, shortlist

    def _prepare_images(self, images: Sequence[AnyImage], path: str, timings: Timings) -> list[RequestImage]:
        """Decode the images or look them up. A gallery image that occurs several times is looked up once."""
        stored: dict[tuple[str, str], RequestImage] = {}
        galleries: dict[str, Gallery] = {}
        prepared = []
        end = time.thread_time() + self.limits.picture_seconds
        for position, image in enumerate(images):
            image_path = path.format(position)
            if isinstance(image, StoredImage):
                if image.gallery not in galleries:
                    galleries[image.gallery] = self.galleries.open(image.gallery, f"{image_path}.gallery")
                key = image.gallery, image.id
                if key not in stored:
                    stored[key] = self._look_up_image(galleries[image.gallery], image, image_path)
                prepared.append(stored[key])
            elif isinstance(image, PictureImage):
                with timings.measure("extract"):
                    picture = self.pictures.read_base64(image.picture, f"{image_path}.picture", end)
                prepared.append(self._check_image(picture.regions, image_path))
            else:
                prepared.append(self._decode_image(image, image_path))
        return prepared

    def _look_up_image(self, gallery: Gallery, image: StoredImage, path: str) -> RequestImage:
        with self._lock:
            known = self._stored.get(gallery)
            if known is None:
                known = self._stored[gallery] = LRUCache(_STORED_BYTES, getsizeof=_count_bytes)
            if (found := known.get(image.id)) is not None:
                return found
        row = gallery.find(image.id)
        if row is None:
            raise RequestFault(404, f"{path}.id", f"gallery '{image.gallery}' has no image '{image.id}'.")
        layout = gallery.layout(row)
        found = RequestImage(gallery.read_images([row]), layout.boxes, layout.classes)
        if _count_bytes(found) <= known.maxsize:
            with self._lock:
                known[image.id] = found
        return found

    def _decode_image(self, image: ImagePayload, path: str) -> RequestImage:
        _check_limit(image.features.shape[0], self.limits.regions, "regions", f"{path}.features")
        _check_limit(len(image.relations), self.limits.relations, "relations", f"{path}.relations")
        return self._check_image(decode_payload(image), path)

    def _check_image(self, regions: ImageRegions, path: str) -> RequestImage:
        try:
            self.scorer.check(regions, "", path)
        except DataError as error:
            raise RequestFault(400, path, str(error).removeprefix(f"{path}: ")) from error
        return RequestImage(regions, regions.boxes, regions.classes)


def _to_image(item: str | AnyImage, path: str) -> AnyImage:
    """Return a document of a rerank request as an image; a string names a gallery image."""
    if not isinstance(item, str):
        return item
    gallery, _, name = item.partition("/")
    try:
        return StoredImage(gallery=gallery, id=name)
    except ValidationError as error:
        message = "expected an image, or GALLERY/ID of a gallery image, because the query is a sentence."
        raise RequestFault(400, path, message) from error


def _count_bytes(image: RequestImage) -> int:
    return image.content.nbytes if isinstance(image.content, EncodedImages) else 0


def _check_limit(count: int, limit: int, what: str, path: str) -> None:
    if count > limit:
        raise RequestFault(413, path, f"{count} {what}; this server accepts at most {limit} in one request.")

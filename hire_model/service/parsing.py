"""A request's body, checked and made ready: bounded, its images decoded or found in a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_model.batch import EncodedImages
from hire_model.data.store import ImageRegions
from hire_model.errors import DataError
from hire_model.gallery.format import Gallery
from hire_model.gallery.search import SHORTLIST
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import (
    PairsRequest,
    Request,
    RequestFault,
    SearchRequest,
    StoredImage,
    parse,
)
from hire_model.service.galleries import Galleries
from hire_model.service.payload import ImagePayload, image_regions


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for; more is answered with 413. They bound the time that a request takes.

    pairs: scored; images: sent along, hence encoded; texts: likewise; regions, relations: of one image; characters: of
    one text; explained: pairs explained; keys, items: of all objects and lists in the body, counted by the marks that
    part them before anything is parsed, as it is their number that makes JSON large in memory.
    """

    pairs: int = 4096
    images: int = 64
    texts: int = 256
    regions: int = 100
    relations: int = 1000
    characters: int = 2000
    explained: int = 16
    keys: int = 50_000
    items: int = 500_000


@dataclass(frozen=True)
class Ask:
    """A request as it came: its body, and whether it wants explanations. A probe only asks how the server is."""

    body: bytes | bytearray | str
    explain: bool = False
    probe: bool = False


@dataclass(frozen=True)
class Picture:
    """An image of a request, ready: its regions as they were sent, or encoded as its gallery keeps it."""

    content: ImageRegions | EncodedImages
    boxes: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Taken:
    """A good request. `image_index` and `text_index` [K] are the pairs it is about, in the order of its answer."""

    request: Request
    images: list[Picture]
    texts: list[str]
    image_index: np.ndarray
    text_index: np.ndarray
    probe: bool = False


class Intake:
    """Takes requests for one model and its galleries."""

    def __init__(self, scorer: Scorer, galleries: Galleries, limits: Limits) -> None:
        self.scorer, self.galleries, self.limits = scorer, galleries, limits

    def take(self, ask: Ask) -> Taken:
        """The request of `ask`. Raises RequestFault: 400 malformed, 404 no such gallery or image, 413 too much."""
        if not isinstance(ask.body, bytes | bytearray | str):  # a cell of a table may be empty, or a number
            raise RequestFault(400, "", f"the request is {type(ask.body).__name__}, expected JSON as text.")
        self._bound_marks(ask.body)
        request = parse(ask.body, ask.explain)
        self._bound_counts(request, ask.explain)
        if isinstance(request, PairsRequest):
            images, texts = [pair.image for pair in request.pairs], [pair.text for pair in request.pairs]
            image_path, text_path = "pairs[{}].image", "pairs[{}].text"
            index = np.arange(len(texts)), np.arange(len(texts))
        else:
            images, texts = request.images or [], request.texts or []
            image_path, text_path = "images[{}]", "texts[{}]"
            grid = np.indices((len(images), len(texts)))
            index = grid[0].ravel(), grid[1].ravel()
        _bound(sum(isinstance(image, ImagePayload) for image in images), self.limits.images, "images sent", "")
        _bound(len(set(texts)), self.limits.texts, "texts", "")
        for place, text in enumerate(texts):
            _bound(len(text), self.limits.characters, "characters", text_path.format(place))
        pictures = self._pictures(images, image_path)
        return Taken(request, pictures, texts, *index, probe=ask.probe)

    def _bound_marks(self, body: bytes | bytearray | str) -> None:
        """Base64 holds none of these marks, and sentences few; 64 images with 1,000 relations each have 400,000."""
        text = np.frombuffer(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body, np.uint8)
        # bytes.count takes four times as long
        colons, *others = (int(np.count_nonzero(text == mark)) for mark in b":,[{")
        _bound(colons, self.limits.keys, "keys", "")
        _bound(sum(others), self.limits.items, "items", "")

    def _bound_counts(self, request: Request, explain: bool) -> None:
        """Before anything is looked up, as a body of allowed size can name billions of pairs."""
        if isinstance(request, PairsRequest):
            limit = self.limits.explained if explain else self.limits.pairs
            _bound(len(request.pairs), limit, "pairs", "pairs")
        else:
            images, texts = len(request.images or ()), len(request.texts or ())
            _bound(max(images, 1) * max(texts, 1), self.limits.pairs, "pairs", "")

    def gallery_for(self, request: SearchRequest) -> tuple[Gallery, int]:
        """The gallery that `request` searches, and the length of its shortlist. Raises RequestFault."""
        gallery = self.galleries.open(request.gallery, "gallery")
        shortlist = max(SHORTLIST, request.top_k) if request.shortlist is None else request.shortlist
        if shortlist < request.top_k:
            raise RequestFault(400, "shortlist", f"{shortlist} cannot give the best {request.top_k} (top_k).")
        shelf = gallery.images if request.images is None else gallery.captions
        if shelf is None:
            raise RequestFault(400, "images", f"gallery '{request.gallery}' was built without sentences.")
        scored = min(shortlist, len(shelf)) if self.scorer.model.settings.global_head else len(shelf)
        asked = len(request.texts or request.images or ())
        _bound(asked * scored, self.limits.pairs, f"pairs to score ({asked} queries, a shortlist of {scored})", "")
        return gallery, shortlist

    def _pictures(self, images: Sequence[ImagePayload | StoredImage], path: str) -> list[Picture]:
        """The images, ready; one of a gallery that recurs, as in pairs of one image, is looked up once."""
        stored: dict[StoredImage, Picture] = {}
        galleries: dict[str, Gallery] = {}
        pictures = []
        for place, image in enumerate(images):
            if isinstance(image, StoredImage):
                if image.gallery not in galleries:
                    galleries[image.gallery] = self.galleries.open(image.gallery, f"{path.format(place)}.gallery")
                if image not in stored:
                    stored[image] = _stored(galleries[image.gallery], image, path.format(place))
                pictures.append(stored[image])
            else:
                pictures.append(self._picture(image, path.format(place)))
        return pictures

    def _picture(self, image: ImagePayload, path: str) -> Picture:
        _bound(image.features.shape[0], self.limits.regions, "regions", f"{path}.features")
        _bound(len(image.relations), self.limits.relations, "relations", f"{path}.relations")
        regions = image_regions(image)
        try:
            self.scorer.check(regions, "", path)
        except DataError as error:
            raise RequestFault(400, path, str(error).removeprefix(f"{path}: ")) from error
        return Picture(regions, regions.boxes, regions.classes)


def _stored(gallery: Gallery, image: StoredImage, path: str) -> Picture:
    row = gallery.find(image.id)
    if row is None:
        raise RequestFault(404, f"{path}.id", f"there is no image '{image.id}' in gallery '{image.gallery}'.")
    layout = gallery.layout(row)
    return Picture(gallery.encoded([row]), layout.boxes, layout.classes)


def _bound(count: int, limit: int, what: str, path: str) -> None:
    if count > limit:
        raise RequestFault(413, path, f"{count} {what}; this server takes at most {limit} in one request.")

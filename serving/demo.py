"""The web page of `hire demo`. It uses the same `Service` as the servers and offers no way to change anything.
A picture that the user drops on the page is read and not stored.

Access is limited to the user who started it:

- It listens on 127.0.0.1 only.
- Each address starts with a token that is new at every start. Other users of the machine and other web pages do not
  have it.
- A Host header other than 127.0.0.1 or localhost is refused, against DNS rebinding.
- The page loads nothing from other servers.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hire_model.errors import HireError
from hire_model.gallery.store import Gallery
from hire_model.service.contract import RequestFault
from hire_model.service.parsing import Limits, Request
from hire_model.service.payload import ImagePayload, make_payload
from hire_model.service.service import Service
from hire_model.settings import TrackingSettings
from hire_model.tracking.registry import fetch
from serving.contract import EXPLANATIONS, PREDICTIONS

GALLERY = "gallery"  # name of the gallery in requests; its folder may have another name
HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
FILES = ("style.css", "page.js", "api.js", "draw.js", "words.js")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # a browser shows them and cannot run them
BODY_BYTES = 16 << 20  # as the other servers
SAMPLE = 12  # pictures shown at the start
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class GalleryFacts(BaseModel):
    """Facts of the gallery. `sample`: ids of a few images, evenly spaced. `pictures`: whether the model reads files."""

    name: str
    split: str
    size: int
    captions: bool
    pictures: bool
    model: str
    sample: list[str]


class Relation(BaseModel):
    """One relation of the scene graph. `subject` and `object` are region indices."""

    subject: int
    predicate: str
    object: int
    score: float


class ImageFacts(BaseModel):
    """What the page draws of an image.

    Width and height are pixels, 0 if unknown. A box is x1, y1, x2, y2 in 0-1, or null if the region has none.
    """

    id: str
    width: int
    height: int
    picture: bool
    boxes: list[list[float] | None]
    classes: list[str]
    relations: list[Relation]


class PictureFacts(BaseModel):
    """A picture that the user chose: what the page draws of it, and its regions for further requests."""

    image: ImageFacts
    regions: ImagePayload


def run(model: str, folder: Path, port: int, tracking: TrackingSettings) -> None:
    """Serve the page until interrupted.

    Args:
        model: Address or folder of the model. Empty: the model that encoded the gallery.
        folder: The gallery.
        port: Port on 127.0.0.1; 0 selects a free one.
        tracking: Where registered models are.

    Raises:
        HireError: No such model or gallery, another model encoded the gallery, or the port is in use.
    """
    gallery = Gallery.open(folder)
    address = model or gallery.manifest.address
    # One search may score every picture or caption.
    limits = Limits(pairs=max(Limits.pairs, len(gallery), len(gallery.captions or ())))
    service = Service.load(fetch(address, tracking), name=address, limits=limits)
    service.galleries.add(GALLERY, gallery)
    token = secrets.token_urlsafe(16)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise HireError(f"Port {port} cannot be used: {error.strerror}. Choose another: hire demo --port N") from error
    config = uvicorn.Config(
        build_app(service, gallery, token),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    print(f"{len(gallery):,} pictures of {gallery.manifest.data.name}. Open in a browser (Ctrl+C to stop):", flush=True)
    print(f"  http://{HOST}:{listening.getsockname()[1]}/{token}/", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def build_app(service: Service, gallery: Gallery, token: str) -> FastAPI:
    """Build the application: the page and its API, all below /TOKEN/.

    `gallery` must be one of the galleries of `service`, under the name GALLERY.
    """

    def check_token(sent: str) -> None:
        if not secrets.compare_digest(sent.encode(errors="replace"), token.encode()):
            raise HTTPException(404)

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.middleware("http")(_add_headers)
    router = APIRouter(prefix="/{sent}", dependencies=[Depends(check_token)])
    _add_page_routes(router)
    _add_gallery_routes(router, gallery, service)
    _add_service_routes(router, service)
    app.include_router(router)
    return app


async def _add_headers(request: HttpRequest, respond: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
    response = await respond(request)
    response.headers.update(HEADERS)
    return response


def _add_page_routes(router: APIRouter) -> None:
    @router.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @router.get("/page/{name}")
    def file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(PAGE / name)


def _add_gallery_routes(router: APIRouter, gallery: Gallery, service: Service) -> None:
    def find_row(id: str) -> int:
        row = gallery.find(id)
        if row is None:
            raise HTTPException(404, "The gallery has no such picture.")
        return row

    @router.get("/gallery")
    def facts() -> GalleryFacts:
        rows = np.unique(np.linspace(0, len(gallery) - 1, min(SAMPLE, len(gallery))).astype(int))
        manifest = gallery.manifest
        return GalleryFacts(
            name=manifest.data.name,
            split=manifest.split,
            size=len(gallery),
            captions=gallery.captions is not None,
            pictures=service.pictures.accepted,
            model=service.facts.name,
            sample=gallery.ids[rows].tolist(),
        )

    @router.get("/image")
    def image(id: str) -> ImageFacts:
        return describe_image(gallery, find_row(id))

    @router.get("/picture")
    def picture(id: str) -> FileResponse:
        path = find_picture(gallery, find_row(id))
        if path is None:
            raise HTTPException(404, "This image has no picture.")
        return FileResponse(path, content_disposition_type="inline")


async def _receive(request: HttpRequest) -> bytearray:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            raise HTTPException(413, f"The request is larger than {BODY_BYTES:,} bytes.")
    return body


def _add_service_routes(router: APIRouter, service: Service) -> None:
    async def answer(request: HttpRequest, explain: bool) -> Response:
        body = await _receive(request)
        [reply], _ = await run_in_threadpool(service.answer, [Request(body, explain)])
        return Response(reply.body, reply.status, media_type="application/json")

    @router.post(PREDICTIONS)
    async def predict(request: HttpRequest) -> Response:
        return await answer(request, explain=False)

    @router.post(EXPLANATIONS)
    async def explain(request: HttpRequest) -> Response:
        return await answer(request, explain=True)

    @router.post("/read")
    async def read(request: HttpRequest) -> PictureFacts:
        return await run_in_threadpool(read_picture, service, await _receive(request))


def describe_image(gallery: Gallery, row: int) -> ImageFacts:
    """Return what the page draws of image `row`."""
    layout, data = gallery.layout(row), gallery.manifest.data
    width, height = gallery.size(row)
    edges = zip(layout.relations.tolist(), layout.relation_scores.tolist(), strict=True)
    return ImageFacts(
        id=str(gallery.ids[row]),
        width=width,
        height=height,
        picture=find_picture(gallery, row) is not None,
        boxes=[None if np.isnan(box).any() else box.tolist() for box in layout.boxes],
        classes=[data.classes[number] if number >= 0 else "" for number in layout.classes.tolist()],
        relations=[
            Relation(subject=subject, predicate=data.predicates[number], object=object_, score=score)
            for (subject, number, object_), score in edges
        ],
    )


def read_picture(service: Service, content: bytearray) -> PictureFacts:
    """Extract the regions of a picture file. Raises HTTPException with the reason if it cannot be used."""
    try:
        read = service.pictures.read(content, "", time.thread_time() + service.parser.limits.picture_seconds)
    except RequestFault as fault:
        raise HTTPException(fault.status, fault.message) from fault
    regions, names = read.regions, service.pictures.classes
    facts = ImageFacts(
        id="",
        width=read.width,
        height=read.height,
        picture=True,
        boxes=regions.boxes.tolist(),
        classes=[names[number] if number >= 0 else "" for number in regions.classes.tolist()],
        relations=[],
    )
    return PictureFacts(image=facts, regions=make_payload(regions))


def find_picture(gallery: Gallery, row: int) -> Path | None:
    """Return the picture of image `row`, or None if a browser cannot show it.

    Also None if the path leaves the picture folder: the gallery may come from someone else.
    """
    path = gallery.picture(row)
    if path is None or path.suffix.lower() not in PICTURE_SUFFIXES:
        return None
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(gallery.picture_folder(row)))
    return path if inside else None

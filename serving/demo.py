"""`hire demo`: a page for the browser, over the same `Service` as the servers. Nothing can be changed through it.

Only its user gets in. It listens on 127.0.0.1; each address begins with a token that is new at every start, so that
neither other users of the machine nor other pages in the browser can ask it anything; and a Host header that is not
this machine is refused, so that no foreign name can be made to lead here. Nothing on the page comes from elsewhere.
"""

from __future__ import annotations

import os
import secrets
import socket
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

from hire_model.data.schema import PICTURES
from hire_model.errors import HireError
from hire_model.gallery.store import Gallery
from hire_model.service.parsing import Limits, Request
from hire_model.service.service import Service
from hire_model.settings import TrackingSettings
from hire_model.tracking.registry import fetch
from serving.contract import EXPLANATIONS, PREDICTIONS

GALLERY = "gallery"  # its name in requests, whatever its folder is called
HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
FILES = ("style.css", "page.js", "api.js", "draw.js", "words.js")
SHOWN = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # what a browser shows as a picture, and cannot run
BODY_BYTES = 1 << 20
SAMPLE = 12  # pictures to begin with
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
    """What the page says of the gallery. sample: ids of a few images, spread over it."""

    name: str
    split: str
    size: int
    captions: bool
    model: str
    sample: list[str]


class Relation(BaseModel):
    """One edge; subject and object are regions of the image."""

    subject: int
    predicate: str
    object: int
    score: float


class ImageFacts(BaseModel):
    """What the page draws. Width and height are 0 where unknown; boxes are x1 y1 x2 y2 in 0-1, null without one."""

    id: str
    width: int
    height: int
    picture: bool
    boxes: list[list[float] | None]
    classes: list[str]
    relations: list[Relation]


def run(model: str, folder: Path, port: int, tracking: TrackingSettings) -> None:
    """Serve the page until interrupted. model: its address or folder, that which encoded the gallery where empty.

    Raises HireError: no such model or gallery, or not of each other; a port that is taken.
    """
    gallery = Gallery.open(folder)
    address = model or gallery.manifest.address
    limits = Limits(pairs=max(Limits.pairs, len(gallery), len(gallery.captions or ())))  # a search may score them all
    service = Service.load(fetch(address, tracking), name=address, limits=limits)
    service.galleries.add(GALLERY, gallery)
    token = secrets.token_urlsafe(16)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise HireError(f"Port {port} cannot be used: {error.strerror}. Name another: hire demo --port N") from error
    config = uvicorn.Config(
        application(service, gallery, token),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    print(f"{len(gallery):,} pictures of {gallery.manifest.data.name}. Open in a browser (Ctrl+C ends it):", flush=True)
    print(f"  http://{HOST}:{listening.getsockname()[1]}/{token}/", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def application(service: Service, gallery: Gallery, token: str) -> FastAPI:
    """The page and what it asks for, all below /`token`/; `service` must know `gallery` as GALLERY."""

    def enter(given: str) -> None:
        if not secrets.compare_digest(given.encode(errors="replace"), token.encode()):
            raise HTTPException(404)

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.middleware("http")(_with_headers)
    router = APIRouter(prefix="/{given}", dependencies=[Depends(enter)])
    _add_page(router)
    _add_gallery(router, gallery, service.facts.name)
    _add_service(router, service)
    app.include_router(router)
    return app


async def _with_headers(request: HttpRequest, answer: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(HEADERS)
    return response


def _add_page(router: APIRouter) -> None:
    @router.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @router.get("/page/{name}")
    def file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(PAGE / name)


def _add_gallery(router: APIRouter, gallery: Gallery, model: str) -> None:
    def row_of(id: str) -> int:
        row = gallery.find(id)
        if row is None:
            raise HTTPException(404, "There is no such picture in the gallery.")
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
            model=model,
            sample=gallery.ids[rows].tolist(),
        )

    @router.get("/image")
    def image(id: str) -> ImageFacts:
        return image_facts(gallery, row_of(id))

    @router.get("/picture")
    def picture(id: str) -> FileResponse:
        path = shown_picture(gallery, row_of(id))
        if path is None:
            raise HTTPException(404, "This image has no picture.")
        return FileResponse(path, content_disposition_type="inline")


def _add_service(router: APIRouter, service: Service) -> None:
    async def reply(request: HttpRequest, explain: bool) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES:
                raise HTTPException(413, f"The request is longer than {BODY_BYTES:,} bytes.")
        [answer], _ = await run_in_threadpool(service.answer, [Request(body, explain)])
        return Response(answer.body, answer.status, media_type="application/json")

    @router.post(PREDICTIONS)
    async def predict(request: HttpRequest) -> Response:
        return await reply(request, explain=False)

    @router.post(EXPLANATIONS)
    async def explain(request: HttpRequest) -> Response:
        return await reply(request, explain=True)


def image_facts(gallery: Gallery, row: int) -> ImageFacts:
    """What is drawn of image `row`."""
    layout, data = gallery.layout(row), gallery.manifest.data
    width, height = gallery.size(row)
    edges = zip(layout.relations.tolist(), layout.relation_scores.tolist(), strict=True)
    return ImageFacts(
        id=str(gallery.ids[row]),
        width=width,
        height=height,
        picture=shown_picture(gallery, row) is not None,
        boxes=[None if np.isnan(box).any() else box.tolist() for box in layout.boxes],
        classes=[data.classes[number] if number >= 0 else "" for number in layout.classes.tolist()],
        relations=[
            Relation(subject=subject, predicate=data.predicates[number], object=object_, score=score)
            for (subject, number, object_), score in edges
        ],
    )


def shown_picture(gallery: Gallery, row: int) -> Path | None:
    """The picture of image `row` if a browser can show it. A gallery made by others must not name other files."""
    path = gallery.picture(row)
    if path is None or path.suffix.lower() not in SHOWN:
        return None
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(gallery.folder / PICTURES))
    return path if inside else None

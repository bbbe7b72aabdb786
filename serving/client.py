"""The Python clients `HireClient` and `AsyncHireClient`: typed answers and errors, a deadline, and retries.

    with HireClient(Path("runs/serve")) as client:           # the server of `hire serve` on this machine
        client.search("scenes", ["a dog on a bench"])

Every request may be repeated safely. Failed connections, 5xx answers and hung servers are retried with a random,
growing wait; 4xx answers are not. After a rejected token the client reads the token again, once.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from hire_model.service.contract import (
    ExplanationAnswer,
    MatrixAnswer,
    MatrixRequest,
    ModelFacts,
    PairsAnswer,
    PairsRequest,
    RankedAnswer,
    RerankAnswer,
    RerankRequest,
    SearchAnswer,
    SearchRequest,
    StoredImage,
)
from serving import messages
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.messages import (
    BadRequest,
    ClientError,
    DeadlineExceeded,
    Image,
    NotFound,
    Pairs,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from serving.transport import Token, Transport

__all__ = [
    "AsyncHireClient", "BadRequest", "ClientError", "DeadlineExceeded", "HireClient", "NotFound", "StoredImage",
    "TooLarge", "TooManyRequests", "Unauthorized", "Unavailable",
]  # fmt: skip

Side = Literal["images", "texts"]
DEADLINE_S = 60.0  # the server replaces a hung worker after 15 s; the new one then loads the model
ATTEMPT_S = 16.0  # the server gives up after 15 s
PING_S = 5.0
CONNECTIONS = 8  # the server queues 32 requests per worker and refuses more
P = ParamSpec("P")
R = TypeVar("R")


class AsyncHireClient:
    """Client for asyncio. Each instance belongs to one event loop; arguments as for `HireClient`.

    Images are `ImageRegions`, `StoredImage(gallery=..., id=...)` for an image of a gallery on the server, or pictures
    (JPEG, PNG, WebP): the `Path` of a file, or its content as bytes. Every method takes its own deadline in seconds.

    Raises:
        ClientError: One of BadRequest, NotFound, TooLarge, TooManyRequests, Unauthorized, Unavailable or
            DeadlineExceeded.
    """

    def __init__(
        self,
        server: str | Path,
        token: Token = None,
        *,
        deadline: float = DEADLINE_S,
        attempt: float = ATTEMPT_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """See `HireClient`."""
        self._transport = Transport(server, token, deadline, attempt, connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def score(self, pairs: Pairs, *, deadline: float | None = None) -> PairsAnswer:
        """Return a score for each (image, sentence) pair."""
        body = messages.encode_body(PairsRequest, pairs=messages.encode_pairs(pairs))
        return await self._transport.send(PREDICTIONS, body, messages.make_reader(PairsAnswer), deadline)

    async def matrix(
        self, images: Iterable[Image], texts: Sequence[str], *, deadline: float | None = None
    ) -> MatrixAnswer:
        """Return the score of each image with each sentence: `scores[i][j]`."""
        body = messages.encode_body(
            MatrixRequest, images=messages.encode_images(images), texts=messages.check_texts(texts)
        )
        return await self._transport.send(PREDICTIONS, body, messages.make_reader(MatrixAnswer), deadline)

    async def rank(
        self, images: Iterable[Image], texts: Sequence[str], *,
        top_k: int = 10, rank: Side = "images", deadline: float | None = None,
    ) -> RankedAnswer:  # fmt: skip
        """Return the best images for each sentence, or with rank='texts' the best sentences for each image."""
        body = messages.encode_body(
            MatrixRequest, images=messages.encode_images(images), texts=messages.check_texts(texts), top_k=top_k,
            rank=rank,
        )  # fmt: skip
        return await self._transport.send(PREDICTIONS, body, messages.make_reader(RankedAnswer), deadline)

    async def search(
        self, gallery: str, texts: Sequence[str] | None = None, images: Iterable[Image] | None = None, *,
        top_k: int = 10, shortlist: int | None = None, hub_correction: bool = False,
        where: Mapping[str, str | bool | int | float] | None = None, deadline: float | None = None,
    ) -> SearchAnswer:  # fmt: skip
        """Search a gallery: its best images for each sentence, or its best sentences for each image.

        hub_correction: correct the scores for items that match every query.
        where: only images whose metadata has these values, or captions of such images.
        """
        body = messages.encode_body(
            SearchRequest,
            gallery=gallery,
            texts=None if texts is None else messages.check_texts(texts),
            images=None if images is None else messages.encode_images(images),
            top_k=top_k,
            shortlist=shortlist,
            hub_correction=hub_correction or None,  # older servers refuse a field that they do not know
            where=where or None,
        )
        return await self._transport.send(PREDICTIONS, body, messages.make_reader(SearchAnswer), deadline)

    async def rerank(
        self, query: str | Image, documents: Iterable[str | Image], *,
        top_n: int | None = None, return_documents: bool = False, deadline: float | None = None,
    ) -> RerankAnswer:  # fmt: skip
        """Return the best documents for the query, in the shape of rerank services.

        For a sentence, the documents are images, or strings GALLERY/ID; for an image, they are sentences.
        """
        body = messages.encode_body(
            RerankRequest, query=messages.encode_item(query, "query"), top_n=top_n, return_documents=return_documents,
            documents=[messages.encode_item(item, f"documents[{i}]") for i, item in enumerate(documents)],
        )  # fmt: skip
        return await self._transport.send(PREDICTIONS, body, messages.make_reader(RerankAnswer), deadline)

    async def explain(self, pairs: Pairs, *, deadline: float | None = None) -> ExplanationAnswer:
        """Explain the score of each pair: words, weights per region, contributions."""
        body = messages.encode_body(PairsRequest, pairs=messages.encode_pairs(pairs))
        return await self._transport.send(EXPLANATIONS, body, messages.make_reader(ExplanationAnswer), deadline)

    async def health(self, *, deadline: float = PING_S) -> bool:
        """Return whether the server reports itself healthy within the deadline."""
        try:
            return await self._transport.send(messages.PING, None, messages.read_ping, deadline)
        except Unavailable:
            return False

    async def model(self, *, deadline: float | None = None) -> ModelFacts:
        """Return which model answers: its version, run and weights digest."""
        # Every server of the contract refuses an empty request, and the refusal names the model.
        return await self._transport.send(PREDICTIONS, b"{}", messages.read_model_facts, deadline)


def _blocking(
    method: Callable[Concatenate[AsyncHireClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[HireClient, P], R]:
    """Turn a method of `AsyncHireClient` into the blocking one of `HireClient`."""

    @functools.wraps(method)
    def call(self: HireClient, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._client, *args, **kwargs))

    return call


class HireClient:
    """Blocking client: `AsyncHireClient` on an event loop in its own thread, with the same methods.

    The event loop enforces the deadline even if the server hangs. Instances may be shared between threads, but not
    used after a fork.
    """

    def __init__(
        self,
        server: str | Path,
        token: Token = None,
        *,
        deadline: float = DEADLINE_S,
        attempt: float = ATTEMPT_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """Create a client; it connects with the first request.

        Args:
            server: An address such as http://127.0.0.1:8080, or the folder of `hire serve`. The folder also holds the
                token and is read again after a failure.
            token: A key file (key_file.json), or a function that returns the token.
            deadline: Seconds for a call with all its retries.
            attempt: Seconds after which one attempt counts as hung.
            connections: Most connections at a time; further calls wait.
        """
        self._client = AsyncHireClient(server, token, deadline=deadline, attempt=attempt, connections=connections)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="hire-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    score = _blocking(AsyncHireClient.score)
    matrix = _blocking(AsyncHireClient.matrix)
    rank = _blocking(AsyncHireClient.rank)
    search = _blocking(AsyncHireClient.search)
    rerank = _blocking(AsyncHireClient.rerank)
    explain = _blocking(AsyncHireClient.explain)
    health = _blocking(AsyncHireClient.health)
    model = _blocking(AsyncHireClient.model)

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        if self._loop.is_closed():
            work.close()
            raise ClientError("this client has been closed; create another.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C must end the request too; cancelling a finished one does nothing
            raise

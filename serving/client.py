"""`HireClient`, and its twin for asyncio: typed answers, typed errors, a deadline, and tries until then.

    with HireClient(Path("runs/serve")) as client:           # the server of `hire serve` on this machine
        client.search("scenes", ["a dog behind a fence"])

A connection that fails, an answer of 5xx and a server that hangs are tried again, after a random and growing wait, as
every request may be repeated; what the server refuses (4xx) is not. A refused token is read anew once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Literal, Self

from hire_model.service.contract import (
    ExplanationAnswer,
    MatrixAnswer,
    ModelFacts,
    PairsAnswer,
    RankedAnswer,
    SearchAnswer,
    StoredImage,
)
from serving import calls
from serving.calls import (
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
from serving.wire import Result, Token, Wire

__all__ = [
    "AsyncHireClient", "BadRequest", "ClientError", "DeadlineExceeded", "HireClient", "NotFound", "StoredImage",
    "TooLarge", "TooManyRequests", "Unauthorized", "Unavailable",
]  # fmt: skip

Side = Literal["images", "texts"]
DEADLINE_S = 60.0  # a worker that hangs is replaced after 15 s, and needs some more to load the model
ATTEMPT_S = 16.0  # the server gives up after 15
PING_S = 5.0
CONNECTIONS = 8  # the server keeps 32 requests waiting for each worker, and refuses more


class AsyncHireClient:
    """The client for asyncio: every method as of `HireClient`, to be awaited. For one event loop."""

    def __init__(
        self,
        server: str | Path,
        token: Token = None,
        *,
        deadline: float = DEADLINE_S,
        attempt: float = ATTEMPT_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """See HireClient."""
        self._wire = Wire(server, token, deadline, attempt, connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()

    async def score(self, pairs: Pairs, *, deadline: float | None = None) -> PairsAnswer:
        """See HireClient."""
        return await self._wire.send(calls.score(pairs), deadline)

    async def matrix(
        self, images: Iterable[Image], texts: Sequence[str], *, deadline: float | None = None
    ) -> MatrixAnswer:
        """See HireClient."""
        return await self._wire.send(calls.matrix(images, texts), deadline)

    async def rank(
        self, images: Iterable[Image], texts: Sequence[str], *,
        top_k: int = 10, rank: Side = "images", deadline: float | None = None,
    ) -> RankedAnswer:  # fmt: skip
        """See HireClient."""
        return await self._wire.send(calls.rank(images, texts, top_k, rank), deadline)

    async def search(
        self, gallery: str, texts: Sequence[str] | None = None, images: Iterable[Image] | None = None, *,
        top_k: int = 10, shortlist: int | None = None, deadline: float | None = None,
    ) -> SearchAnswer:  # fmt: skip
        """See HireClient."""
        return await self._wire.send(calls.search(gallery, texts, images, top_k, shortlist), deadline)

    async def explain(self, pairs: Pairs, *, deadline: float | None = None) -> ExplanationAnswer:
        """See HireClient."""
        return await self._wire.send(calls.explain(pairs), deadline)

    async def health(self, *, deadline: float = PING_S) -> bool:
        """See HireClient."""
        try:
            return await self._wire.send(calls.ping(), deadline)
        except Unavailable:
            return False

    async def model(self, *, deadline: float | None = None) -> ModelFacts:
        """See HireClient."""
        return await self._wire.send(calls.facts(), deadline)


class HireClient:
    """The client for everybody else: `AsyncHireClient` on an event loop in a thread of its own.

    Only there does a deadline hold whatever the server does. Safe to use from several threads; not after a fork.
    Images are ImageRegions, or StoredImage(gallery=..., id=...). Every method takes a deadline of its own, in seconds,
    and raises a ClientError: BadRequest, NotFound, TooLarge, TooManyRequests, Unauthorized, Unavailable or
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
        """server: an address, or the folder of `hire serve`, which has the token too and is read anew after a failure.

        token: a key file (key_file.json), or a function that gives the token; deadline: seconds for a call with all its
        tries; attempt: seconds after which one try counts as hung; connections: the most at a time, more calls wait.
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

    def score(self, pairs: Pairs, *, deadline: float | None = None) -> PairsAnswer:
        """A score for each (image, sentence)."""
        return self._run(self._client.score(pairs, deadline=deadline))

    def matrix(self, images: Iterable[Image], texts: Sequence[str], *, deadline: float | None = None) -> MatrixAnswer:
        """The score of each image with each sentence: `scores[i][j]`."""
        return self._run(self._client.matrix(images, texts, deadline=deadline))

    def rank(
        self, images: Iterable[Image], texts: Sequence[str], *,
        top_k: int = 10, rank: Side = "images", deadline: float | None = None,
    ) -> RankedAnswer:  # fmt: skip
        """For each sentence the best images, or with rank='texts' for each image the best sentences."""
        return self._run(self._client.rank(images, texts, top_k=top_k, rank=rank, deadline=deadline))

    def search(
        self, gallery: str, texts: Sequence[str] | None = None, images: Iterable[Image] | None = None, *,
        top_k: int = 10, shortlist: int | None = None, deadline: float | None = None,
    ) -> SearchAnswer:  # fmt: skip
        """The best of a gallery: its images for each sentence, or its sentences for each image."""
        return self._run(
            self._client.search(gallery, texts, images, top_k=top_k, shortlist=shortlist, deadline=deadline)
        )

    def explain(self, pairs: Pairs, *, deadline: float | None = None) -> ExplanationAnswer:
        """Why each pair has its score."""
        return self._run(self._client.explain(pairs, deadline=deadline))

    def health(self, *, deadline: float = PING_S) -> bool:
        """Whether the server says that it is well, within the deadline."""
        return self._run(self._client.health(deadline=deadline))

    def model(self, *, deadline: float | None = None) -> ModelFacts:
        """Which model answers: its version, run and weights."""
        return self._run(self._client.model(deadline=deadline))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise ClientError("this client has been closed; make another.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # ctrl-C ends the request too; of one that has ended nothing is left to cancel
            raise

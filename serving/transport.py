"""Send requests to a server: one connection pool, one token, one retry rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from hire_model.errors import HireError
from serving.messages import ClientError, DeadlineExceeded, Unauthorized, Unavailable

_WAIT = wait_random_exponential(multiplier=0.1, max=3)  # seconds; a restarted worker needs about three
Token = Path | Callable[[], str] | None
Answer = TypeVar("Answer")
Reader = Callable[[int, bytes], Answer]
"""A function of an answer's status and body. Raises ClientError for a failed one."""


@dataclass(frozen=True)
class _Endpoint:
    """Address and token of the server."""

    address: str
    token: str


class Transport:
    """Sends requests to one server. Belongs to one event loop; arguments as for serving.client.HireClient."""

    def __init__(self, server: str | Path, token: Token, deadline: float, attempt: float, connections: int) -> None:
        if isinstance(server, str) and not server.startswith(("http://", "https://")):
            raise ClientError(f"{server!r} is not a server address; expected one such as http://127.0.0.1:8080.")
        if isinstance(server, Path) and not server.is_dir():
            raise ClientError(f"{server}: no such folder; expected the folder of 'hire serve', or an address as text.")
        self._find = _endpoint_finder(server, token)
        self._deadline, self._attempt_s = deadline, attempt
        self._endpoint: _Endpoint | None = None
        self._slots = asyncio.Semaphore(connections)
        # No proxy or password from the environment: the token is for this server only. SSL_CERT_FILE still applies.
        self._http = httpx.AsyncClient(
            timeout=None,
            trust_env=False,
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=30),
        )

    async def send(self, path: str, body: bytes | None, read: Reader[Answer], deadline: float | None = None) -> Answer:
        """POST `body` to `path` (GET without a body) and return what `read` makes of the answer.

        Raises ClientError after `deadline` seconds at the latest.
        """
        failed: list[BaseException | None] = []

        def remember(state: RetryCallState) -> None:
            failed.append(state.outcome.exception() if state.outcome else None)

        seconds = self._deadline if deadline is None else deadline
        retrying = AsyncRetrying(wait=_WAIT, retry=retry_if_exception_type(Unavailable), before_sleep=remember)
        try:
            async with asyncio.timeout(seconds):
                return await retrying(self._attempt, path, body, read)
        except TimeoutError:
            last = failed[-1] if failed else None
            kind = type(last) if isinstance(last, Unavailable) else DeadlineExceeded
            history = f"; {len(failed)} attempts failed, the last one: {last}" if last else ""
            raise kind(f"no answer within {seconds:g} s{history}", getattr(last, "status", 0)) from last

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _attempt(self, path: str, body: bytes | None, read: Reader[Answer]) -> Answer:
        endpoint = self._endpoint or await self._find_endpoint()
        try:
            return await self._request(endpoint, path, body, read)
        except Unauthorized:
            newer = await self._find_endpoint()
            if newer == endpoint:
                raise
            return await self._request(newer, path, body, read)
        except Unavailable:
            self._endpoint = None  # the current server may have changed, with another port
            raise

    async def _find_endpoint(self) -> _Endpoint:
        self._endpoint = endpoint = await asyncio.to_thread(self._find)  # reads files and may request a new token
        return endpoint

    async def _request(self, endpoint: _Endpoint, path: str, body: bytes | None, read: Reader[Answer]) -> Answer:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        method = "GET" if body is None else "POST"
        async with self._slots:
            try:
                async with asyncio.timeout(self._attempt_s):
                    answer = await self._http.request(method, endpoint.address + path, content=body, headers=headers)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{endpoint.address} accepted the request and did not answer") from error
            except httpx.RequestError as error:
                raise Unavailable(f"{endpoint.address}: {type(error).__name__} {error}".strip()) from error
        return read(answer.status_code, answer.content)


def _endpoint_finder(server: str | Path, token: Token) -> Callable[[], _Endpoint]:
    """Return a function that finds the current address and token."""
    if isinstance(server, Path):
        return lambda: _find_local_server(server)
    address = server.rstrip("/")
    if token is None:
        return lambda: _Endpoint(address, "")
    if isinstance(token, Path):
        return lambda: _Endpoint(address, _read_token(token))
    return lambda: _Endpoint(address, token())


def _find_local_server(folder: Path) -> _Endpoint:
    """Find the current server in a folder of `hire serve`. Raises Unavailable, which is retried: it may be changing."""
    from serving.address import find_front
    from serving.server import find_current

    try:
        if front := find_front(folder):
            return _Endpoint(front.address, front.get_token())
        running = find_current(folder)
        if running is None or running.socket:  # a socket is for the front
            raise Unavailable(f"{folder}: no server of this folder is running. Start one: hire serve --folder {folder}")
        return _Endpoint(running.address, running.get_token())
    except (httpx.HTTPError, HireError) as error:
        raise Unavailable(str(error)) from error


def _read_token(file: Path) -> str:
    try:
        return str(json.loads(file.read_text("utf-8"))["inference"]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unauthorized(f"{file}: cannot read the token: {error!r}; expected the server's key_file.json.") from error

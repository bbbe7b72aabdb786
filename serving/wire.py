"""How calls reach the server: one pool of connections, one token, one rule of when to try again."""

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
from serving.calls import Call, ClientError, DeadlineExceeded, Unauthorized, Unavailable

_WAIT = wait_random_exponential(multiplier=0.1, max=3)  # seconds; about as long as a worker takes to come back
Token = Path | Callable[[], str] | None
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Door:
    """Where the server is, and what lets one in."""

    address: str
    token: str


class Wire:
    """Sends calls to one server. Belongs to one event loop.

    server, token, deadline, attempt, connections: as of serving.client.HireClient.
    """

    def __init__(self, server: str | Path, token: Token, deadline: float, attempt: float, connections: int) -> None:
        if isinstance(server, str) and not server.startswith(("http://", "https://")):
            raise ClientError(f"{server!r} is no address of a server; expected one such as http://127.0.0.1:8080.")
        if isinstance(server, Path) and not server.is_dir():
            raise ClientError(f"{server}: no such folder; expected the one of 'hire serve', or an address as text.")
        self._find = _finder(server, token)
        self._deadline, self._attempt_s = deadline, attempt
        self._door: _Door | None = None
        self._slots = asyncio.Semaphore(connections)
        # No proxy and no password of the environment: the token is for this server alone. SSL_CERT_FILE counts, though.
        self._http = httpx.AsyncClient(
            timeout=None,
            trust_env=False,
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=30),
        )

    async def send(self, call: Call[Result], deadline: float | None = None) -> Result:
        """The answer to `call`. Raises ClientError, after `deadline` seconds at the latest."""
        failed: list[BaseException | None] = []

        def remember(state: RetryCallState) -> None:
            failed.append(state.outcome.exception() if state.outcome else None)

        seconds = self._deadline if deadline is None else deadline
        again = AsyncRetrying(wait=_WAIT, retry=retry_if_exception_type(Unavailable), before_sleep=remember)
        try:
            async with asyncio.timeout(seconds):
                return await again(self._attempt, call)
        except TimeoutError:
            last = failed[-1] if failed else None
            kind = type(last) if isinstance(last, Unavailable) else DeadlineExceeded
            said = f"; {len(failed)} tries failed, the last one: {last}" if last else ""
            raise kind(f"no answer within {seconds:g} s{said}", getattr(last, "status", 0)) from last

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _attempt(self, call: Call[Result]) -> Result:
        door = self._door or await self._look()
        try:
            return await self._once(call, door)
        except Unauthorized:
            newer = await self._look()
            if newer == door:
                raise
            return await self._once(call, newer)
        except Unavailable:
            self._door = None  # another version may be served by now, at another port
            raise

    async def _look(self) -> _Door:
        self._door = door = await asyncio.to_thread(self._find)  # reads files, and may ask for a new token
        return door

    async def _once(self, call: Call[Result], door: _Door) -> Result:
        headers = {"Content-Type": "application/json"} if call.body is not None else {}
        if door.token:
            headers["Authorization"] = f"Bearer {door.token}"
        method = "GET" if call.body is None else "POST"
        async with self._slots:
            try:
                async with asyncio.timeout(self._attempt_s):
                    answer = await self._http.request(
                        method, door.address + call.path, content=call.body, headers=headers
                    )
            except TimeoutError as error:
                raise DeadlineExceeded(f"{door.address} took the request and hung") from error
            except httpx.RequestError as error:
                raise Unavailable(f"{door.address}: {type(error).__name__} {error}".strip()) from error
        return call.read(answer.status_code, answer.content)


def _finder(server: str | Path, token: Token) -> Callable[[], _Door]:
    """What tells where the server is and which token is good now."""
    if isinstance(server, Path):
        return lambda: _in_force(server)
    address = server.rstrip("/")
    if token is None:
        return lambda: _Door(address, "")
    if isinstance(token, Path):
        return lambda: _Door(address, _key(token))
    return lambda: _Door(address, token())


def _in_force(folder: Path) -> _Door:
    """The server in force in a folder of `hire serve`. It may be changing, hence the error that is tried again."""
    from serving.server import current

    try:
        running = current(folder)
        if running is None:
            raise Unavailable(f"{folder}: no server is running there. Start one: hire serve --folder {folder}")
        return _Door(running.address, running.token())
    except (httpx.HTTPError, HireError) as error:
        raise Unavailable(str(error)) from error


def _key(file: Path) -> str:
    try:
        return str(json.loads(file.read_text("utf-8"))["inference"]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unauthorized(f"{file}: no token can be read: {error!r}; expected the server's key_file.json.") from error

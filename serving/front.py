"""The front of `hire serve`: one address that stays the same while servers are started, replaced and restarted.

It is a process of its own, between the clients of this machine and the server, whose port or socket changes with each
version:

    python -I serving/front.py FOLDER PORT

It reads FOLDER/current to find the server, for each request. It forwards only complete JSON bodies to the paths of the
contract, so TorchServe's old HTTP code sees neither other methods and paths, nor chunks, pipelining or slow clients.
Errors have the form of the contract. It imports nothing of Hire: it is small, and starts in a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
import resource
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import h11
import psutil

HEADER_S, IDLE_S, READ_S, BODY_S, ANSWER_S, SEND_S = 5.0, 30.0, 10.0, 60.0, 20.0, 20.0
MAX_HEADER, MAX_BODY = 16 << 10, 16 << 20  # bytes
MAX_WAITING = 1024  # connections that have not sent their headers; more than that: the oldest one is closed
MAX_OPEN = 128  # requests being read or answered
TRIES = 3  # how often a request is sent to the server whose connection is lost
KEYS, RECORD, FRONT = "key_file.json", "server.json", "front.json"
_POST = re.compile(r"/(predictions/hire(/[0-9]{1,9})?|explanations/hire|(?P<rerank>(v[12]/)?rerank))")
_JSON = re.compile(rb'application/json *(; *charset="?utf-8"? *)?', re.IGNORECASE)
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # the header traceparent (W3C)
_FIELD = re.compile(rb"\r\n([a-z-]+): *([^\r]*)")
_WORDS = {
    400: "not a valid HTTP request.",
    401: "no valid token: send Authorization: Bearer TOKEN with the token in key_file.json.",
    404: "no such path. Available: /ping, /predictions/hire[/VERSION], /explanations/hire and /rerank.",
    405: "use POST for this path and GET for /ping.",
    408: "the request did not arrive in time.",
    413: "the body is larger than 16 MiB, or /ping has one.",
    415: "only uncompressed application/json is accepted.",
    431: "path and headers are larger than 16 KiB.",
    501: "this Transfer-Encoding is not supported; send a Content-Length or chunks.",
    503: "no server is running, or it is too busy: retry after Retry-After seconds.",
    504: "the server did not answer in time.",
    505: "only HTTP/1.0 and HTTP/1.1 are supported.",
}
_RETRY = {503: b"2", 504: b"2"}


class Refused(Exception):  # noqa: N818  an answer, not a failure of the front
    """The request is answered with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status if status in _WORDS else 400


@dataclass
class Upstream:
    """The current server: its folder, its port or socket, its token, and idle connections to it."""

    folder: str
    changed: int
    port: int
    socket: str | None
    token: str
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    replaced: bool = False

    def close_idle(self) -> None:
        """Close the idle connections, so that a replaced server can end."""
        while self.idle:
            self.idle.pop()[1].close()


@dataclass
class Answer:
    """An answer of the server."""

    status: int
    kind: bytes
    body: bytes


class Front:
    """Answers the requests of all connections. `folder`: the folder of `hire serve`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream: Upstream | None = None
        self.waiting: dict[asyncio.StreamWriter, None] = {}  # connections without complete headers, the oldest first
        self.open = 0
        self.token = self.read_token()

    def find_upstream(self) -> Upstream:
        """Return the current server. Raise Refused if there is none."""
        try:
            name = os.readlink(self.folder / "current")
            keys = self.folder / name / KEYS
            changed = keys.stat().st_mtime_ns
            if self.upstream is None or (self.upstream.folder, self.upstream.changed) != (name, changed):
                record = json.loads((self.folder / name / RECORD).read_text("utf-8"))
                token = str(json.loads(keys.read_text("utf-8"))["inference"]["key"])
                if self.upstream is not None:
                    self.upstream.replaced = True
                    self.upstream.close_idle()
                self.upstream = Upstream(name, changed, record["inference_port"], record.get("socket"), token)
        except (OSError, ValueError, KeyError) as error:
            raise Refused(503) from error
        return self.upstream

    def read_token(self) -> str:
        """Return the front's own token, which does not change with the version."""
        try:
            return str(json.loads((self.folder / KEYS).read_text("utf-8"))["inference"]["key"])
        except (OSError, ValueError, KeyError):
            return ""

    async def watch(self) -> None:
        """Close idle connections to a server that was replaced, also if no request arrives. Read a new token."""
        while True:
            self.token = self.read_token()
            with contextlib.suppress(Refused):
                self.find_upstream()
            await asyncio.sleep(0.5)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        seconds = HEADER_S
        try:
            while await self._serve_one(connection, reader, writer, seconds):
                seconds = IDLE_S
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the client has gone, or does not read its answer
        finally:
            self.waiting.pop(writer, None)
            writer.close()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
    ) -> bool:
        """Answer one request. Return whether the connection can be used for another one."""
        try:
            request = await self._read_request(connection, reader, writer, seconds)
            if request is None:
                return False
            self._check(request)
            if self.open >= MAX_OPEN:
                raise Refused(503)
            self.open += 1
            try:
                body = await _read_body(connection, reader, writer)
                answer = await self._forward(request, body)
            finally:
                self.open -= 1
        except Refused as refused:
            answer = _make_fault(refused.status)
        except h11.RemoteProtocolError as error:
            answer = _make_fault(Refused(error.error_status_hint).status)
        await _send(connection, writer, answer)
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
            return True
        await _end(reader, writer)
        return False

    async def _read_request(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
    ) -> h11.Request | None:
        """Read the headers. Return None if the client has closed the connection or sends nothing."""
        self.waiting[writer] = None
        if len(self.waiting) > MAX_WAITING:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.abort()
        started = bool(connection.trailing_data[0])
        try:
            async with asyncio.timeout(HEADER_S if started else seconds) as limit:
                while (event := connection.next_event()) is h11.NEED_DATA:
                    data = await reader.read(1 << 16)
                    connection.receive_data(data)
                    if data and not started:
                        started = True
                        limit.reschedule(asyncio.get_running_loop().time() + HEADER_S)
        except TimeoutError:
            if not started:
                return None
            raise Refused(408) from None
        finally:
            self.waiting.pop(writer, None)
        return event if isinstance(event, h11.Request) else None

    def _check(self, request: h11.Request) -> None:
        """Raise Refused unless the server may see this request."""
        if request.http_version not in (b"1.0", b"1.1"):
            raise Refused(505)
        if sum(len(name) + len(value) for name, value in request.headers) + len(request.target) > MAX_HEADER:
            raise Refused(431)  # h11 limits only headers that arrive in parts
        path = request.target.decode("latin1").partition("?")[0]
        headers = [(bytes(name), bytes(value)) for name, value in request.headers]
        if path == "/ping":  # no token needed, so no body is read
            if request.method != b"GET":
                raise Refused(405)
            if b"transfer-encoding" in dict(headers) or dict(headers).get(b"content-length", b"0") != b"0":
                raise Refused(413)
            return
        if request.method not in (b"POST", b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE"):
            raise Refused(405)
        if not _POST.fullmatch(path):
            raise Refused(404)
        if request.method != b"POST":
            raise Refused(405)
        tokens = [value for name, value in headers if name == b"authorization"]
        known = [token for token in (self.token, self.find_upstream().token) if token]
        good = [hmac.compare_digest(value, f"Bearer {token}".encode()) for value in tokens for token in known]
        if len(tokens) != 1 or not any(good):
            raise Refused(401)
        kinds = [value for name, value in headers if name == b"content-type"]
        if len(kinds) != 1 or not _JSON.fullmatch(kinds[0].strip()) or b"content-encoding" in dict(headers):
            raise Refused(415)
        if int(dict(headers).get(b"content-length", b"0")) > MAX_BODY:
            raise Refused(413)

    async def _forward(self, request: h11.Request, body: bytes) -> Answer:
        """Send the request to the current server. Repeat it after a lost connection, because it changes nothing."""
        path = request.target.decode("latin1").partition("?")[0]
        if (match := _POST.fullmatch(path)) and match["rerank"]:
            path = "/predictions/hire"  # the server recognises the shape of the request
        traces = [bytes(value) for name, value in request.headers if name == b"traceparent"]
        trace = traces[0].decode() if len(traces) == 1 and _TRACE.fullmatch(traces[0]) else ""
        try:
            async with asyncio.timeout(ANSWER_S):
                for _ in range(TRIES):
                    upstream = self.find_upstream()
                    try:
                        return await _ask(upstream, request.method.decode(), path, body, trace)
                    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, LookupError, ValueError):
                        upstream.close_idle()
                        await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise Refused(504) from error
        raise Refused(503)


async def _ask(upstream: Upstream, method: str, path: str, body: bytes, trace: str) -> Answer:
    """Send one request on an idle or a new connection, and return the answer.

    The server's answers have a Content-Length. Raises OSError, IncompleteReadError or LookupError if the connection is
    lost or the answer is another one.
    """
    reader, writer = upstream.idle.pop() if upstream.idle else await _connect(upstream)
    try:
        lines = [
            f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{upstream.port}", f"Authorization: Bearer {upstream.token}",
            "Content-Type: application/json", f"Content-Length: {len(body)}", "", "",
        ]  # fmt: skip
        if upstream.socket:
            lines.insert(1, f"X-Request-Start: t={time.time():.3f}")  # to measure the time in the queue
        if trace:
            lines.insert(1, f"traceparent: {trace}")
        writer.write("\r\n".join(lines).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        fields = dict(_FIELD.findall(head.lower()))
        content = await reader.readexactly(int(fields[b"content-length"]))
    except BaseException:
        writer.close()
        raise
    if fields.get(b"connection") == b"close" or upstream.replaced:
        writer.close()
    else:
        upstream.idle.append((reader, writer))
    return Answer(status, fields.get(b"content-type", b"application/json"), content)


async def _connect(upstream: Upstream) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if upstream.socket:
        return await asyncio.open_unix_connection(upstream.socket)
    return await asyncio.open_connection("127.0.0.1", upstream.port)


async def _read_body(connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read the whole body. Raise Refused if it is too large or too slow."""
    body = bytearray()  # one block, which the system gets back (see start_front)
    try:
        async with asyncio.timeout(BODY_S):
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if connection.they_are_waiting_for_100_continue:
                        go = h11.InformationalResponse(status_code=100, headers=[])
                        writer.write(connection.send(go) or b"")
                    async with asyncio.timeout(READ_S):
                        connection.receive_data(await reader.read(1 << 18))
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MAX_BODY:
                        raise Refused(413)
                else:
                    raise ConnectionResetError("the client closed the connection")
    except TimeoutError:
        raise Refused(408) from None
    return bytes(body)


def _make_fault(status: int) -> Answer:
    fault = {"status": status, "path": "", "message": _WORDS[status], "model": None}
    return Answer(status, b"application/json", json.dumps(fault).encode() + b"\n")


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    headers = [(b"Content-Type", answer.kind), (b"Content-Length", str(len(answer.body)).encode())]
    if answer.status in _RETRY:
        headers.append((b"Retry-After", _RETRY[answer.status]))
    if connection.their_state is not h11.DONE:  # the rest of the request is not read
        headers.append((b"Connection", b"close"))
    events = (h11.Response(status_code=answer.status, headers=headers), h11.Data(data=answer.body), h11.EndOfMessage())
    writer.write(b"".join(connection.send(event) or b"" for event in events))
    async with asyncio.timeout(SEND_S):
        await writer.drain()


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End a connection so that the client can read the answer, even if it is still sending."""
    with contextlib.suppress(OSError, TimeoutError, RuntimeError):
        writer.write_eof()
        async with asyncio.timeout(2):
            while await reader.read(1 << 16):
                pass


async def main(folder: Path, port: int) -> None:
    """Listen on 127.0.0.1:PORT until the process is ended, and record the process in FOLDER/front.json."""
    front = Front(folder)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listening = socket.create_server(("127.0.0.1", port))
    server = await asyncio.start_server(front.serve, sock=listening, backlog=64, limit=1 << 20)
    listening.listen(4096)  # the queue; asyncio accepts 64 at a time and reads in between
    record = {"pid": os.getpid(), "started": psutil.Process().create_time(), "port": port}
    partial = folder / f".{FRONT}.{os.getpid()}"
    partial.write_text(json.dumps(record) + "\n", "utf-8")
    os.replace(partial, folder / FRONT)
    async with server:
        await asyncio.gather(server.serve_forever(), front.watch())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

"""Requests with known answers, hostile requests, and the clients that send both. Part of soak.py."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hire_model.data.store import ImageRegions
from hire_model.service.payload import serialize_image
from serving.contract import PREDICTIONS, RERANK
from serving.front import MAX_BODY

GALLERY = "soak"
TOLERANCE = 1e-5
RETRIED = {0, 500, 503, 504, 507}  # 0: the connection was lost, or no answer came within ATTEMPT_S
ATTEMPT_S, DEADLINE_S, PAUSE_S = 25.0, 90.0, 0.5
TOP, DOCUMENTS, UPLOADED = 5, 8, 32
CATCH_UP_S = 1.0  # a client that is later than this skips requests instead of sending them faster


class Timeline:
    """Which values are valid at what time. During a change, the old and the new value are."""

    def __init__(self, value: str) -> None:
        self.periods: list[tuple[str, float, float]] = [(value, -np.inf, np.inf)]

    @property
    def newest(self) -> str:
        """The value after the last change."""
        return self.periods[-1][0]

    def begin(self, value: str) -> None:
        """From now on, `value` is valid too."""
        self.periods.append((value, time.monotonic(), np.inf))

    def end(self) -> None:
        """From now on, only the newest value is valid."""
        now = time.monotonic()
        old = [(value, start, min(end, now)) for value, start, end in self.periods[:-1]]
        self.periods = [*old, self.periods[-1]]

    def find_valid(self, start: float, end: float) -> set[str]:
        """Return the values that were valid at some time from `start` to `end`."""
        return {value for value, first, last in self.periods if first <= end and last >= start}


@dataclass(frozen=True)
class Known:
    """What one version must answer.

    weights: their SHA-256.
    scores: [images, texts] of gallery images; the first `base` images are always in the gallery.
    uploaded: [UPLOADED, texts] of the first images.
    """

    weights: str
    scores: np.ndarray
    uploaded: np.ndarray
    base: int


@dataclass(frozen=True)
class Question:
    """A request. Its pairs are (rows[k], columns[k]); a search has one column, and `rows` is not used."""

    kind: str
    path: str
    body: bytes
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def make_questions(
    images: Sequence[ImageRegions], ids: Sequence[str], texts: Sequence[str], base: int, count: int, seed: int = 0
) -> list[Question]:
    """Return requests: pairs of gallery images (55 %), of uploaded images (20 %), searches (15 %), rerank (10 %)."""
    rng, questions = random.Random(seed), list[Question]()
    uploads = [json.loads(serialize_image(image)) for image in images[:UPLOADED]]
    for kind in rng.choices(("stored", "uploaded", "search", "rerank"), (55, 20, 15, 10), k=count):
        pairs = {"stored": rng.randint(1, 4), "rerank": DOCUMENTS}.get(kind, 1)
        rows = rng.sample(range(min(len(uploads), base) if kind == "uploaded" else base), pairs)
        columns = [rng.randrange(len(texts)) for _ in rows]
        body: dict[str, Any]
        if kind == "search":
            body = {"gallery": GALLERY, "texts": [texts[columns[0]]], "top_k": TOP}
        elif kind == "rerank":
            columns = columns[:1] * len(rows)
            documents = [f"{GALLERY}/{ids[row]}" for row in rows]
            body = {"query": texts[columns[0]], "documents": documents, "top_n": TOP}
        else:
            stored: list[Any] = [{"gallery": GALLERY, "id": ids[row]} for row in rows]
            shown = stored if kind == "stored" else [uploads[row] for row in rows]
            pairs_sent = zip(shown, columns, strict=True)
            body = {"pairs": [{"image": image, "text": texts[column]} for image, column in pairs_sent]}
        path = RERANK if kind == "rerank" else PREDICTIONS
        questions.append(Question(kind, path, json.dumps(body).encode(), tuple(rows), tuple(columns)))
    return questions


class Checker:
    """Checks answers against the known scores of the versions and contents of the gallery that were valid.

    Args:
        known: by version.
        ids: of the images, in the order of `Known.scores`.
        version: which version may answer.
        galleries: for each version, 'base' or 'all' images of its gallery.
    """

    def __init__(
        self, known: dict[str, Known], ids: Sequence[str], version: Timeline, galleries: dict[str, Timeline]
    ) -> None:
        self.known, self.version, self.galleries = known, version, galleries
        self.row = {name: row for row, name in enumerate(ids)}

    def find_fault(self, question: Question, body: bytes, sent: float, answered: float) -> str:
        """Return what is wrong with an answer of status 200; empty if it is right."""
        answer = json.loads(body)
        facts = answer["facts"] if question.kind == "rerank" else answer["model"]
        valid = self.version.find_valid(sent, answered)
        if facts["version"] not in valid:
            return f"version {facts['version']} answered, expected {' or '.join(sorted(valid))}"
        known = self.known[facts["version"]]
        if facts["weights_sha256"] != known.weights:
            return f"version {facts['version']} answered with the weights of another model"
        if question.kind == "search":
            contents = self.galleries[facts["version"]].find_valid(sent, answered)
            return self._check_search(question, answer, known, contents)
        scores = known.uploaded if question.kind == "uploaded" else known.scores
        expected = scores[list(question.rows), list(question.columns)]
        if question.kind == "rerank":
            results = answer["results"]
            order = np.array([result["index"] for result in results])
            if len(set(order.tolist())) != min(TOP, len(expected)):
                return f"rerank: wrong documents {order.tolist()}"
            found = np.array([result["relevance_score"] for result in results])
            best = np.sort(expected)[::-1][: len(found)]
            return _compare(found, expected[order]) or _compare(found, best)
        return _compare(np.array(answer["scores"]), expected)

    def _check_search(self, question: Question, answer: dict[str, Any], known: Known, contents: set[str]) -> str:
        hits = answer["results"][0]["hits"]
        sizes = {"base": known.base, "all": len(known.scores)}
        expected = known.scores[:, question.columns[0]]
        rows = [self.row.get(hit["id"], -1) for hit in hits]
        if answer["size"] not in [sizes[content] for content in contents]:
            return f"search: {answer['size']} images in the gallery, expected {' or '.join(sorted(contents))}"
        if min(rows) < 0 or len(set(rows)) != TOP:
            return f"search: wrong images {[hit['id'] for hit in hits]}"
        found = np.array([hit["score"] for hit in hits])
        best = np.sort(expected[: answer["size"]])[::-1][:TOP]
        return _compare(found, expected[rows]) or _compare(found, best)


def _compare(found: np.ndarray, expected: np.ndarray) -> str:
    if found.shape != expected.shape:
        return f"{found.shape[0]} scores, expected {expected.shape[0]}"
    difference = float(np.abs(found - expected).max())
    return "" if difference <= TOLERANCE else f"a score differs by {difference:.1e}"


@dataclass(frozen=True)
class Hostile:
    """A hostile request. statuses: those that it may get; 0 stands for a closed connection without an answer."""

    label: str
    data: bytes
    statuses: frozenset[int]
    leave: bool = False  # close the connection without waiting for an answer


def make_hostile(port: int, token: str, good: bytes) -> list[Hostile]:
    """Return one request of each kind. `good`: the body of a valid request."""

    def build(body: bytes, sent: str = token, path: str = PREDICTIONS, length: str = "", more: str = "") -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {sent}\r\n{more}"
        head += f"Content-Type: application/json\r\n{length or f'Content-Length: {len(body)}'}\r\n\r\n"
        return head.encode() + body

    half_a_picture = json.dumps({"pairs": [{"image": {"picture": "/9j/4AAQSkZJRgABAQAAAQ"}, "text": "a"}]}).encode()
    unknown = json.dumps({"pairs": [{"image": {"gallery": GALLERY, "id": "no such image"}, "text": "a"}]}).encode()
    chunk, chunked = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20)), "Transfer-Encoding: chunked"
    pairs = json.dumps({"images": [{"gallery": GALLERY, "id": "x"}] * 5000, "texts": ["a"] * 256}).encode()
    return [
        Hostile("JSON cut off", build(good[:-9]), frozenset({400})),
        Hostile("random bytes", build(random.Random(0).randbytes(3000)), frozenset({400})),
        Hostile("2,000 deep", build(b'{"pairs":[' * 2000 + b"]}" * 2000), frozenset({400})),
        Hostile("not a number", build(good.replace(b'"text": "', b'"text": NaN, "x": "', 1)), frozenset({400})),
        Hostile("half a picture", build(half_a_picture), frozenset({400})),
        Hostile("unknown image", build(unknown), frozenset({404})),
        Hostile("too many pairs", build(pairs), frozenset({400, 404, 413})),
        Hostile("wrong token", build(good, token[:-1] + "~"), frozenset({401})),
        Hostile("no token", build(good, ""), frozenset({401})),
        Hostile("another version", build(good, path=f"{PREDICTIONS}/99"), frozenset({404})),
        Hostile("another path", build(good, path="/models"), frozenset({404})),
        Hostile("a body over the limit", build(b"{", length=f"Content-Length: {MAX_BODY + 1}"), frozenset({413})),
        Hostile("chunks over the limit", build(chunk * 17 + b"0\r\n\r\n", length=chunked), frozenset({0, 413})),
        Hostile("an encoding", build(good, more="Content-Encoding: gzip\r\n"), frozenset({415})),
        Hostile("half a header", build(good)[:40], frozenset({408})),
        Hostile("half a body, then closed", build(good)[:-9], frozenset({0}), leave=True),
        Hostile("a request, then closed", build(good), frozenset({0}), leave=True),
        Hostile("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00", frozenset({400, 408})),
    ]


class Connection:
    """A connection that is opened again after it was lost."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.head = port, f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer; status 0 if there was none."""
        head = f"POST {path} HTTP/1.1\r\n{self.head}Content-Type: application/json\r\nContent-Length: {len(body)}"
        try:
            async with asyncio.timeout(ATTEMPT_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
                reader, writer = self._streams
                writer.write(f"{head}\r\n\r\n".encode() + body)
                return await read_answer(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Close it; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer; return its status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(head[9:12]), await reader.readexactly(int(length[1]) if length else 0)


@dataclass
class Tally:
    """What the clients got. latencies: (time of the answer, ms from the first try to the right answer)."""

    sent: int = 0
    hostile: int = 0
    retries: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # of every try
    hostile_statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)


class Load:
    """Clients of one address.

    Args:
        port, token: of the front.
        questions: requests to choose from.
        hostile: hostile requests to choose from.
        find_fault: checks an answer.
    """

    def __init__(
        self,
        port: int,
        token: str,
        questions: list[Question],
        hostile: list[Hostile],
        find_fault: Callable[[Question, bytes, float, float], str],
    ) -> None:
        self.port, self.token, self.questions, self.hostile = port, token, questions, hostile
        self.find_fault = find_fault
        self.tally, self.rng = Tally(), random.Random(1)

    async def run(
        self,
        clients: int,
        seconds: float,
        rate: float = 0.0,
        hostile: float = 0.0,
        continues: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send requests with `clients` connections.

        Args:
            clients: how many requests are open at most, besides hostile ones.
            seconds: how long at least.
            rate: requests per second in total; 0 for as many as possible.
            hostile: share of hostile requests.
            continues: the clients also go on while this returns True.
        """
        end, pending = time.monotonic() + seconds, set[asyncio.Task[None]]()

        async def work(number: int) -> None:
            connection, interval = Connection(self.port, self.token), clients / rate if rate else 0.0
            planned = time.monotonic() + interval * number / clients
            while (now := time.monotonic()) < end or continues():
                if interval:
                    await asyncio.sleep(max(0.0, planned - now))
                    planned = max(planned + interval, time.monotonic() - CATCH_UP_S)
                if self.rng.random() < hostile:
                    task = asyncio.create_task(self._send_hostile(self.rng.choice(self.hostile)))
                    pending.add(task)
                    task.add_done_callback(pending.discard)
                else:
                    await self._ask(connection, self.rng.choice(self.questions))
            connection.close()

        await asyncio.gather(*(work(number) for number in range(clients)))
        await asyncio.gather(*pending)

    async def _ask(self, connection: Connection, question: Question) -> None:
        """Send a question until its answer is final."""
        tally, first = self.tally, time.monotonic()
        tally.sent += 1
        while True:
            sent = time.monotonic()
            status, body = await connection.send(question.path, question.body)
            now = time.monotonic()
            tally.statuses[str(status or "no answer")] += 1
            if status == 200:
                if fault := self.find_fault(question, body, sent, now):
                    tally.wrong.append(f"{question.kind}: {fault}")
                tally.latencies.append((now, 1000 * (now - first)))
                return
            if status not in RETRIED:
                tally.wrong.append(f"{question.kind}: {status} {body[:200]!r}")
                return
            if now - first > DEADLINE_S:
                tally.lost.append(f"{question.kind}: {status} {body[:200]!r}")
                return
            tally.retries += 1
            await asyncio.sleep(PAUSE_S)

    async def _send_hostile(self, hostile: Hostile) -> None:
        self.tally.hostile += 1
        status = 0
        try:
            async with asyncio.timeout(ATTEMPT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(hostile.data)
                    if hostile.leave:
                        await writer.drain()
                    else:
                        status, _ = await read_answer(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            status = 0
        self.tally.hostile_statuses[str(status or "no answer")] += 1
        if status not in hostile.statuses | (RETRIED - {0}):
            self.tally.wrong.append(f"hostile, {hostile.label}: {status}")

"""Measure requests per second and latency of TorchServe with Hire's handler, an empty handler, and `Scorer` alone.

    python benchmarks/serving_load.py DATASET --version champion [--split test] [--seconds 3] [--batch 1] [--json FILE]

64 pairs of the split are used; a smaller split is repeated with other texts. The version must be packaged (`hire
package`). Requests have 1, 16 or 64 pairs with images of one kind:

    ids    ids of images in a gallery
    known  features that the server has encoded before
    new    features that no other request has

"nothing" is the upper bound: the same requests to a handler that returns "{}". One worker with one thread and this
client share the machine, so everything is measured in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.gallery.building import build
from hire_model.packaging.verify import extract
from hire_model.scoring.scorer import Scorer
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from hire_model.settings import resolve
from hire_model.tracking.versions import Archive, find_archive
from serving import process, server, torchserve
from serving.contract import PREDICTIONS
from serving.process import Server

COUNTS, CONCURRENCY = (1, 16, 64), (1, 8, 32)
NOTHING = """
class Nothing:
    def initialize(self, context): pass
    def handle(self, data, context): return ["{}"] * len(data)
"""
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
Body = Callable[[], bytes]


@dataclass(frozen=True)
class Row:
    """A line of the table; times in milliseconds."""

    what: str
    pairs: int
    clients: int
    requests: int
    per_second: float
    p50: float
    p95: float
    p99: float
    failed: int


def make_body(kind: str, pairs: list[tuple[ImageRegions, str]], ids: list[str]) -> Body:
    """Return a function that returns the body of the next request."""
    if kind == "ids":
        items: list[dict[str, Any]] = [
            {"image": {"gallery": "load", "id": ids[i % len(ids)]}, "text": text} for i, (_, text) in enumerate(pairs)
        ]
    else:
        items = [{"image": json.loads(serialize_image(image)), "text": text} for image, text in pairs]
    body = json.dumps({"pairs": items}, separators=(",", ":")).encode()
    if kind != "new":
        return lambda: body
    mark, rng = b'"data":"', random.Random(0)
    starts = [position + len(mark) for position in _find_all(body, b'"features":')]

    def change_features() -> bytes:
        new = bytearray(body)
        for start in starts:
            data = new.index(mark, start - len(mark)) + len(mark)
            for low in (0, 3, 8, 11):  # only low bytes of four numbers, so that they stay finite
                new[data + low] = rng.choice(_LETTERS)
        return bytes(new)

    return change_features


def _find_all(body: bytes, mark: bytes) -> Iterator[int]:
    position = body.find(mark)
    while position >= 0:
        yield position
        position = body.find(mark, position + 1)


async def send_load(port: int, token: str, body: Body, clients: int, seconds: float) -> tuple[list[float], int]:
    """Return the latencies in ms of requests with status 200, and the number of other requests."""
    times, failed, end = list[float](), 0, time.perf_counter() + seconds
    head = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
    head += "Content-Type: application/json\r\n"

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        while time.perf_counter() < end:
            content = body()
            start = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            reply_head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", reply_head, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
            if reply_head.startswith(b"HTTP/1.1 200"):
                times.append((time.perf_counter() - start) * 1000)
            else:
                failed += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, failed


def measure(what: str, pairs: int, running: Server, body: Body, clients: int, seconds: float) -> Row:
    """Measure one row of the table, after a second of warm-up."""
    token = running.get_token()
    asyncio.run(send_load(running.inference_port, token, body, 1, 1.0))
    start = time.perf_counter()
    times, failed = asyncio.run(send_load(running.inference_port, token, body, clients, seconds))
    lasted = time.perf_counter() - start
    p50, p95, p99 = np.percentile(times or [np.nan], [50, 95, 99])
    row = Row(what, pairs, clients, len(times), len(times) / lasted, float(p50), float(p95), float(p99), failed)
    print(f"{row.what:14} {row.pairs:3} {row.clients:3} {row.per_second:8.1f}/s "
          f"{row.p50:8.2f} {row.p95:8.2f} {row.p99:8.2f} ms  failed {row.failed}", flush=True)  # fmt: skip
    return row


def measure_service(service: Service, body: Body, seconds: float) -> dict[str, float]:
    """Measure the median milliseconds of `Service.answer` in this process, in total and by stage."""
    times: dict[str, list[float]] = {"all": []}
    end = time.perf_counter() + seconds
    service.answer([Request(body())])
    while time.perf_counter() < end:
        request, start = Request(body()), time.perf_counter()
        [reply], spent = service.answer([request])
        assert reply.status == 200, reply.body
        times["all"].append((time.perf_counter() - start) * 1000)
        for stage, ms in spent.ms.items():
            times.setdefault(stage, []).append(ms)
    return {stage: float(np.median(values)) for stage, values in times.items()}


def measure_scorer(scorer: Scorer, pairs: list[tuple[ImageRegions, str]], seconds: float) -> float:
    """Measure the median milliseconds of `Scorer.predict`, which has no cache."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        start = time.perf_counter()
        scorer.predict(pairs)
        times.append((time.perf_counter() - start) * 1000)
    return float(np.median(times[1:]))


@contextmanager
def start_server(
    archive: Path, sha256: str, folder: Path, galleries: Path, batch: int, golden: bool
) -> Iterator[Server]:
    """Start a server of `archive`, configured like `hire serve` except for the batch size.

    golden: wait until the server answers the golden requests; otherwise until it answers any request.
    """
    config = shutil.copytree(torchserve.CONFIG, folder / "config")
    text = (config / torchserve.PROPERTIES).read_text("utf-8")
    changed = text.replace('"batchSize": 1, "maxBatchDelay": 1', f'"batchSize": {batch}, "maxBatchDelay": 2')
    (config / torchserve.PROPERTIES).write_text(text if batch == 1 else changed)
    (folder / "server").mkdir()
    unverified = patch.object(process, "verify", lambda *_: None)  # the manifest does not list the empty handler
    with patch.object(torchserve, "CONFIG", config), unverified:
        running = torchserve.start(archive, sha256, "1", folder / "server", galleries=galleries)
    try:
        if golden:
            server.wait_until_ready(running)
        else:
            _wait(running)
        yield running
    finally:
        running.stop()


def _wait(running: Server) -> None:
    end = time.monotonic() + server.START_S
    while time.monotonic() < end:
        try:
            if server.send_request(running, {}).status_code == 200:
                return
        except Exception:
            time.sleep(0.5)
    raise SystemExit(running.read_log_tail())


def write_empty_archive(archive: Path, out: Path) -> Path:
    """Write a copy of the archive with a handler that does nothing."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, NOTHING if name == "handler.py" else old.read(name))
    return out


def draw_pairs(split: Split) -> list[tuple[ImageRegions, str]]:
    """Return 64 pairs; a repeated image has a different text."""
    count = len(split.images)
    return [
        (split.regions(i % count), f"{split.texts[i % len(split.texts)]}{' again' * (i // count)}") for i in range(64)
    ]


def run(split: Split, archive: Archive, seconds: float, batch: int, out: Path | None) -> None:
    """Measure, print the results, and write them to `out`."""
    torch.set_num_threads(1)  # like the server's worker
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        galleries = folder / "galleries"
        extract(archive.path, folder / "unpacked")
        scorer = Scorer.load(folder / "unpacked" / "model")
        build(scorer.model, split, galleries / "load", captions=False)
        pairs, ids = draw_pairs(split), [split.image_id(i) for i in range(min(64, len(split.images)))]
        service = Service.load(folder / "unpacked" / "model", galleries=galleries)
        bodies = {
            (kind, count): make_body(kind, pairs[:count], ids) for kind in ("ids", "known", "new") for count in COUNTS
        }
        by_service = {f"{kind} {n}": measure_service(service, body, seconds) for (kind, n), body in bodies.items()}
        by_scorer = {count: measure_scorer(scorer, pairs[:count], seconds) for count in COUNTS}
        print(f"Scorer.predict, ms: {by_scorer}\nService.answer, ms: {json.dumps(by_service, indent=1)}", flush=True)
        rows = []
        (folder / "ours").mkdir()
        with start_server(archive.path, archive.sha256, folder / "ours", galleries, batch, True) as running:
            for (kind, count), body in bodies.items():
                rows += [measure(kind, count, running, body, clients, seconds) for clients in CONCURRENCY]
        (folder / "nothing").mkdir()
        empty = write_empty_archive(archive.path, folder / "nothing" / "hire.mar")
        with start_server(empty, "", folder / "nothing", galleries, batch, False) as running:
            for (kind, count), body in bodies.items():
                if kind != "new":
                    what = f"nothing, {kind}"
                    rows += [measure(what, count, running, body, clients, seconds) for clients in CONCURRENCY]
    if out is not None:
        found = {"rows": [asdict(row) for row in rows], "service": by_service, "predict": by_scorer}
        out.write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    split = Dataset.open(args.dataset).split(args.split)
    archive = find_archive(args.version, resolve(None).settings.tracking)
    run(split, archive, args.seconds, args.batch, args.json)


if __name__ == "__main__":
    main()

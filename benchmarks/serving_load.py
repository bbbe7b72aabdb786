"""Requests per second and latency of TorchServe with our handler, beside a handler that does nothing and `Scorer`.

    python benchmarks/serving_load.py DATASET --version champion [--split test] [--seconds 3] [--batch 1] [--json FILE]

DATASET gives 64 images and sentences (repeated, with other numbers, where it has fewer); the version must be packaged
(`hire package`). Requests ask for 1, 16 or 64 pairs: "ids" of gallery images; "known" images sent along that the server
has encoded before; "new" ones, of which no two are the same. "nothing" is the ceiling: the same bodies, to a handler
that returns "{}". One worker with one thread, and this client, share the machine, so everything is measured in one run.
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
from serving import instance, server
from serving.contract import PREDICTIONS
from serving.instance import Instance

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


def bodies(kind: str, pairs: list[tuple[ImageRegions, str]], ids: list[str]) -> Body:
    """What makes the next request's body."""
    if kind == "ids":
        asked: list[dict[str, Any]] = [
            {"image": {"gallery": "load", "id": ids[i % len(ids)]}, "text": text} for i, (_, text) in enumerate(pairs)
        ]
    else:
        asked = [{"image": json.loads(serialize_image(image)), "text": text} for image, text in pairs]
    body = json.dumps({"pairs": asked}, separators=(",", ":")).encode()
    if kind != "new":
        return lambda: body
    mark, chance = b'"data":"', random.Random(0)
    starts = [place + len(mark) for place in _places(body, b'"features":')]

    def changed() -> bytes:
        new = bytearray(body)
        for start in starts:
            place = new.index(mark, start - len(mark)) + len(mark)
            for low in (0, 3, 8, 11):  # within the low bytes of four numbers, so that they stay finite
                new[place + low] = chance.choice(_LETTERS)
        return bytes(new)

    return changed


def _places(body: bytes, mark: bytes) -> Iterator[int]:
    place = body.find(mark)
    while place >= 0:
        yield place
        place = body.find(mark, place + 1)


async def load(port: int, token: str, body: Body, clients: int, seconds: float) -> tuple[list[float], int]:
    """Latencies in ms of the requests that were answered 200, and how many were not."""
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
            said = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", said, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
            if said.startswith(b"HTTP/1.1 200"):
                times.append((time.perf_counter() - start) * 1000)
            else:
                failed += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, failed


def measure(what: str, pairs: int, running: Instance, body: Body, clients: int, seconds: float) -> Row:
    """One cell, after a second of warming up."""
    token = running.token()
    asyncio.run(load(running.inference_port, token, body, 1, 1.0))
    start = time.perf_counter()
    times, failed = asyncio.run(load(running.inference_port, token, body, clients, seconds))
    lasted = time.perf_counter() - start
    p50, p95, p99 = np.percentile(times or [np.nan], [50, 95, 99])
    row = Row(what, pairs, clients, len(times), len(times) / lasted, float(p50), float(p95), float(p99), failed)
    print(f"{row.what:14} {row.pairs:3} {row.clients:3} {row.per_second:8.1f}/s "
          f"{row.p50:8.2f} {row.p95:8.2f} {row.p99:8.2f} ms  failed {row.failed}", flush=True)  # fmt: skip
    return row


def inside(service: Service, body: Body, seconds: float) -> dict[str, float]:
    """Milliseconds (median) that `Service.answer` takes in process, in all and by stage."""
    spent_in: dict[str, list[float]] = {"all": []}
    end = time.perf_counter() + seconds
    service.answer([Request(body())])
    while time.perf_counter() < end:
        ask, start = Request(body()), time.perf_counter()
        [reply], spent = service.answer([ask])
        assert reply.status == 200, reply.body
        spent_in["all"].append((time.perf_counter() - start) * 1000)
        for stage, ms in spent.ms.items():
            spent_in.setdefault(stage, []).append(ms)
    return {stage: float(np.median(values)) for stage, values in spent_in.items()}


def predict(scorer: Scorer, pairs: list[tuple[ImageRegions, str]], seconds: float) -> float:
    """Milliseconds (median) of `Scorer.predict`, which keeps nothing."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        start = time.perf_counter()
        scorer.predict(pairs)
        times.append((time.perf_counter() - start) * 1000)
    return float(np.median(times[1:]))


@contextmanager
def serving(archive: Path, sha256: str, folder: Path, galleries: Path, batch: int, golden: bool) -> Iterator[Instance]:
    """A server of `archive`, configured as `hire serve` does but for the batch size."""
    config = shutil.copytree(instance.CONFIG, folder / "config")
    text = (config / instance.PROPERTIES).read_text("utf-8")
    changed = text.replace('"batchSize": 1, "maxBatchDelay": 1', f'"batchSize": {batch}, "maxBatchDelay": 2')
    (config / instance.PROPERTIES).write_text(text if batch == 1 else changed)
    [port] = instance.free_ports(1)
    (folder / "server").mkdir()
    unverified = patch.object(instance, "verify", lambda *_: None)  # the handler that does nothing is in no manifest
    with patch.object(instance, "CONFIG", config), unverified:
        running = instance.start(archive, sha256, "1", folder / "server", port=port, galleries=galleries)
    try:
        if golden:
            server.wait(running)
        else:
            _wait(running)
        yield running
    finally:
        running.stop()


def _wait(running: Instance) -> None:
    end = time.monotonic() + server.START_S
    while time.monotonic() < end:
        try:
            if server.ask(running, {}).status_code == 200:
                return
        except Exception:
            time.sleep(0.5)
    raise SystemExit(running.last_words())


def nothing_archive(archive: Path, out: Path) -> Path:
    """The same archive with a handler that does nothing."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, NOTHING if name == "handler.py" else old.read(name))
    return out


def pairs_of(split: Split) -> list[tuple[ImageRegions, str]]:
    """64 pairs; an image that comes again has another sentence."""
    count = len(split.images)
    return [
        (split.regions(i % count), f"{split.texts[i % len(split.texts)]}{' again' * (i // count)}") for i in range(64)
    ]


def run(split: Split, archive: Archive, seconds: float, batch: int, out: Path | None) -> None:
    """Measure, print, and write `out`."""
    torch.set_num_threads(1)  # in process, too
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        extract(archive.path, place / "unpacked")
        scorer = Scorer.load(place / "unpacked" / "model")
        build(scorer.model, split, place / "galleries" / "load", captions=False)
        pairs, ids = pairs_of(split), [split.image_id(i) for i in range(min(64, len(split.images)))]
        service = Service.load(place / "unpacked" / "model", galleries=place / "galleries")
        kinds = {
            (kind, count): bodies(kind, pairs[:count], ids) for kind in ("ids", "known", "new") for count in COUNTS
        }
        own = {f"{kind} {count}": inside(service, body, seconds) for (kind, count), body in kinds.items()}
        plain = {count: predict(scorer, pairs[:count], seconds) for count in COUNTS}
        print(f"Scorer.predict, ms: {plain}\nService.answer, ms: {json.dumps(own, indent=1)}", flush=True)
        rows = []
        (place / "ours").mkdir()
        with serving(archive.path, archive.sha256, place / "ours", place / "galleries", batch, True) as ours:
            for (kind, count), body in kinds.items():
                rows += [measure(kind, count, ours, body, clients, seconds) for clients in CONCURRENCY]
        (place / "nothing").mkdir()
        empty = nothing_archive(archive.path, place / "nothing" / "hire.mar")
        with serving(empty, "", place / "nothing", place / "galleries", batch, False) as nothing:
            for (kind, count), body in kinds.items():
                if kind != "new":
                    what = f"nothing, {kind}"
                    rows += [measure(what, count, nothing, body, clients, seconds) for clients in CONCURRENCY]
    if out is not None:
        out.write_text(json.dumps({"rows": [asdict(row) for row in rows], "service": own, "predict": plain}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    split, archive = (
        Dataset.open(args.dataset).split(args.split),
        find_archive(args.version, resolve(None).settings.tracking),
    )
    run(split, archive, args.seconds, args.batch, args.json)


if __name__ == "__main__":
    main()

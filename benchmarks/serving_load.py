"""Measure requests per second, latency and CPU time of a server, and of the same server with an empty handler.

    python benchmarks/serving_load.py DATASET --version champion [--split test] [--server gunicorn] [--seconds 3]
        [--rounds 3] [--kinds ids] [--counts 1 16] [--workers 2] [--threads 2] [--batch 8] [--json FILE]

64 pairs of the split are used; a smaller split is repeated with other texts. The version must be packaged (`hire
package`). Requests have 1, 16 or 64 pairs with images of one kind:

    ids    ids of images in a gallery
    known  features that the server has encoded before
    new    features that no other request has

"nothing" is the upper bound: the same requests to a handler that returns "{}", without a model. Both servers run at the
same time and take turns, so that a busy machine slows down both; the figures are medians of the rounds. CPU time is
that of the server with its workers, per request. The client shares the machine with them and sends to the server
itself, not to its front. --threads needs --server gunicorn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
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
from serving import gunicorn_server, probe, process, server, torchserve
from serving.contract import PREDICTIONS
from serving.process import Deployment, Kind, Server

COUNTS, CONCURRENCY = (1, 16, 64), (1, 8, 32)
NOTHING = """
class Nothing:
    def initialize(self, context): pass
    def handle(self, data, context): return ["{}"] * len(data)
"""
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
Body = Callable[[], bytes]


@dataclass(frozen=True)
class Options:
    """What to measure, and how the servers are started."""

    server: Kind
    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    seconds: float
    rounds: int
    workers: int
    threads: int
    batch: int


@dataclass(frozen=True)
class Row:
    """A line of the table; times in milliseconds. `cpu`: CPU time of the server per request."""

    what: str
    pairs: int
    clients: int
    requests: int
    per_second: float
    cpu: float
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


async def send_load(
    target: int | Path, token: str, body: Body, clients: int, seconds: float
) -> tuple[list[float], int]:
    """Return the latencies in ms of requests with status 200, and the number of other requests.

    target: a port of this machine, or a socket. A server with a socket closes the connection after each answer.
    """
    times, failed, end = list[float](), 0, time.perf_counter() + seconds
    head = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
    head += "Content-Type: application/json\r\n"

    async def client() -> None:
        nonlocal failed
        if isinstance(target, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", target, limit=1 << 24)
        while time.perf_counter() < end:
            content = body()
            start = time.perf_counter()
            if not isinstance(target, int):
                reader, writer = await asyncio.open_unix_connection(str(target), limit=1 << 24)
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            reply_head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", reply_head, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
            if reply_head.startswith(b"HTTP/1.1 200"):
                times.append((time.perf_counter() - start) * 1000)
            else:
                failed += 1
            if not isinstance(target, int):
                writer.close()
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, failed


def list_family(running: Server) -> list[psutil.Process]:
    """Return the server's process and its workers."""
    process = running.find_process()
    return [process, *process.children(recursive=True)] if process else []


def measure_cpu(running: Server) -> float:
    """Return the seconds of CPU time that the server has used."""
    return sum(sum(process.cpu_times()[:2]) for process in list_family(running))


def measure(
    servers: dict[str, Server], kind: str, pairs: int, body: Body, clients: int, seconds: float, rounds: int
) -> list[Row]:
    """Measure one row of each server. They take turns; each turn follows a short warm-up."""
    found: dict[str, list[Row]] = {what: [] for what in servers}
    for what, running in [*servers.items()] * rounds:
        target, token = running.socket or running.inference_port, running.get_token()
        asyncio.run(send_load(target, token, body, 1, 0.3))
        cpu, start = measure_cpu(running), time.perf_counter()
        times, failed = asyncio.run(send_load(target, token, body, clients, seconds))
        lasted, count = time.perf_counter() - start, max(1, len(times))
        percentiles = (float(each) for each in np.percentile(times or [np.nan], [50, 95, 99]))
        spent = 1000 * (measure_cpu(running) - cpu) / count
        found[what].append(Row(what, pairs, clients, len(times), len(times) / lasted, spent, *percentiles, failed))
    rows = [_take_median(each, f"{what}{kind}") for what, each in found.items()]
    for row in rows:
        print(f"{row.what:14} {row.pairs:3} {row.clients:3} {row.per_second:8.1f}/s  CPU {row.cpu:6.3f} ms  "
              f"{row.p50:8.2f} {row.p95:8.2f} {row.p99:8.2f} ms  failed {row.failed}", flush=True)  # fmt: skip
    if len(rows) == 2:
        shares = [ours.per_second / empty.per_second for ours, empty in zip(*found.values(), strict=True)]
        print(f"{'':14} share of the empty handler's rate: {np.median(shares):.0%}", flush=True)
    return rows


def _take_median(rows: list[Row], what: str) -> Row:
    """Return the row with the medians of all rounds, and the sum of requests."""
    medians = {name: float(np.median([getattr(row, name) for row in rows])) for name in Row.__annotations__
               if name not in ("what", "pairs", "clients", "requests", "failed")}  # fmt: skip
    requests, failed = (sum(getattr(row, name) for row in rows) for name in ("requests", "failed"))
    return replace(rows[0], what=what, requests=requests, failed=failed, **medians)


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
def start_server(options: Options, archive: Path, sha256: str, folder: Path, galleries: Path) -> Iterator[Server]:
    """Start a server of `archive`, configured like `hire serve` except for the options.

    sha256: empty for a handler that does nothing. Then wait until the server answers any request.
    """
    config = shutil.copytree(torchserve.CONFIG, folder / "config")
    text = (config / torchserve.PROPERTIES).read_text("utf-8")
    changed = text.replace('"batchSize": 1, "maxBatchDelay": 1', f'"batchSize": {options.batch}, "maxBatchDelay": 2')
    (config / torchserve.PROPERTIES).write_text(text if options.batch == 1 else changed)
    (folder / "server").mkdir()
    unverified = patch.object(process, "verify", lambda *_: None)  # the manifest does not list the empty handler
    mode = str(options.threads) if sha256 else "nothing"
    command = [sys.executable, str(Path(__file__).with_name("other_wsgi.py")), mode]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    with (
        patch.object(torchserve, "CONFIG", config), patch.object(gunicorn_server, "COMMAND", command),
        patch.dict(process._SINGLE_THREAD, threads), unverified,
    ):  # fmt: skip
        deployment = Deployment(archive, sha256, "1", options.workers, galleries)
        running = server.STARTS[options.server](deployment, folder / "server")
    try:
        if sha256:
            probe.wait_until_ready(running)
        else:
            _wait(running)
        yield running
    finally:
        running.stop()


def _wait(running: Server) -> None:
    end = time.monotonic() + probe.START_S
    while time.monotonic() < end:
        try:
            if probe.send_request(running, {}).status_code == 200:
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


def run(split: Split, archive: Archive, options: Options, out: Path | None) -> None:
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
            (kind, count): make_body(kind, pairs[:count], ids) for kind in options.kinds for count in options.counts
        }
        by_service = {
            f"{kind} {n}": measure_service(service, body, options.seconds) for (kind, n), body in bodies.items()
        }
        by_scorer = {count: measure_scorer(scorer, pairs[:count], options.seconds) for count in options.counts}
        print(f"Scorer.predict, ms: {by_scorer}\nService.answer, ms: {json.dumps(by_service, indent=1)}", flush=True)
        rows = []
        (folder / "ours").mkdir()
        (folder / "nothing").mkdir()
        empty = archive.path  # gunicorn does not use its handler
        if options.server == "torchserve":
            empty = write_empty_archive(archive.path, folder / "nothing" / "hire.mar")
        with (
            start_server(options, archive.path, archive.sha256, folder / "ours", galleries) as ours,
            start_server(options, empty, "", folder / "nothing", galleries) as nothing,
        ):
            for (kind, count), body in bodies.items():
                for clients in CONCURRENCY:
                    servers = {"": ours} | ({} if kind == "new" else {"nothing, ": nothing})
                    rows += measure(servers, kind, count, body, clients, options.seconds, options.rounds)
    if out is not None:
        found = {
            "options": asdict(options), "rows": [asdict(row) for row in rows], "service": by_service,
            "predict": by_scorer,
        }  # fmt: skip
        out.write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--server", choices=("torchserve", "gunicorn"), default="torchserve")
    parser.add_argument("--kinds", nargs="+", default=("ids", "known", "new"))
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("workers", "threads", "batch"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    split = Dataset.open(args.dataset).split(args.split)
    archive = find_archive(args.version, resolve(None).settings.tracking)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    run(split, archive, options, args.json)


if __name__ == "__main__":
    main()

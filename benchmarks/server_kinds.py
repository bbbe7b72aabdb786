"""Compare the servers of `hire serve` behind its front: TorchServe and gunicorn, with two workers each.

    python benchmarks/server_kinds.py DATASET --version champion [--split test] [--seconds 3] [--rounds 3]

Requests have one pair with a gallery id, 16 of them, or one uploaded image. The servers take turns, so that a busy
machine slows down both. CPU time is that of the server without the front. The clients do not retry. At the end, workers
are killed and the server is replaced while eight clients send requests.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from serving_load import Body, draw_pairs, list_family, make_body, measure_cpu, send_load

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.packaging.verify import extract
from hire_model.scoring.scorer import Scorer
from hire_model.settings import resolve
from hire_model.tracking.versions import Archive, find_archive
from serving import server
from serving.address import find_front
from serving.process import Kind, find_free_ports

KINDS: tuple[Kind, ...] = ("torchserve", "gunicorn")
CLIENTS, KILLS = 8, 5


def disturb(folder: Path, body: Body, action: Callable[[], object]) -> str:
    """Run `action` while clients send requests for at least four seconds. Return what they got."""
    front, ended = find_front(folder), threading.Event()
    assert front is not None

    def act() -> None:
        time.sleep(1)
        action()
        time.sleep(2)
        ended.set()

    thread = threading.Thread(target=act)
    thread.start()
    times, failed = list[float](), 0
    while not ended.is_set():
        more, wrong = asyncio.run(send_load(front.port, front.get_token(), body, CLIENTS, 1.0))
        times, failed = times + more, failed + wrong
    thread.join()
    return f"{len(times)} answers, {failed} failed, slowest {max(times):.0f} ms"


def kill_workers(folder: Path) -> None:
    """Kill one worker after the other, a second apart."""
    for _ in range(KILLS):
        running = server.find_current(folder)
        assert running is not None
        workers = list_family(running)[1:]
        if workers:
            max(workers, key=lambda worker: worker.memory_info().rss).kill()
        time.sleep(1)


def run(split: Split, archive: Archive, seconds: float, rounds: int) -> None:
    """Measure and print."""
    found: dict[tuple[str, int, Kind], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        extract(archive.path, root / "unpacked")
        build(Scorer.load(root / "unpacked" / "model").model, split, root / "galleries" / "load", captions=False)
        pairs, ids = draw_pairs(split), [split.image_id(i) for i in range(min(64, len(split.images)))]
        bodies = {
            "ids, 1 pair": make_body("ids", pairs[:1], ids),
            "ids, 16 pairs": make_body("ids", pairs[:16], ids),
            "uploaded, 1 pair": make_body("known", pairs[:1], ids),
        }
        ports = dict(zip(KINDS, find_free_ports(len(KINDS)), strict=True))
        options = {"workers": 2, "galleries": root / "galleries"}
        try:
            current = {
                kind: server.serve(archive, root / kind, kind=kind, port=ports[kind], **options)  # type: ignore[arg-type]
                for kind in KINDS
            }
            for kind, running in current.items():
                memory = sum(process.memory_full_info().pss for process in list_family(running)) / 1e6
                print(f"{kind}: {memory:.0f} MB with two workers", flush=True)
            for what, body in bodies.items():
                for clients in (1, 8, 32):
                    for kind in KINDS * rounds:
                        front = find_front(root / kind)
                        assert front is not None
                        asyncio.run(send_load(front.port, front.get_token(), body, clients, 0.5))
                        before = measure_cpu(current[kind])
                        times, _ = asyncio.run(send_load(front.port, front.get_token(), body, clients, seconds))
                        cpu = 1000 * (measure_cpu(current[kind]) - before) / len(times)
                        row = len(times) / seconds, float(np.percentile(times, 99)), cpu
                        found.setdefault((what, clients, kind), []).append(row)
                    for kind in KINDS:
                        rate, p99, cpu = np.median(found[what, clients, kind], axis=0)
                        print(f"{what:17} {clients:3} clients {kind:10} {rate:6.0f}/s  p99 {p99:6.1f} ms  "
                              f"CPU {cpu:5.2f} ms per request", flush=True)  # fmt: skip
            for kind in KINDS:
                folder, body = root / kind, bodies["ids, 1 pair"]
                print(f"{kind}, {KILLS} kills: {disturb(folder, body, partial(kill_workers, folder))}", flush=True)
                server.serve(archive, folder)
                replaced = disturb(folder, body, partial(server.serve, archive, folder))
                print(f"{kind}, replaced: {replaced}", flush=True)
        finally:
            for kind in KINDS:
                server.stop(root / kind)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    archive = find_archive(args.version, resolve(None).settings.tracking)
    run(Dataset.open(args.dataset).split(args.split), archive, args.seconds, args.rounds)

"""Run `hire serve` for half an hour at 80 % of its capacity while workers are killed and version and gallery change.

    python benchmarks/soak.py [DATASET --versions 3 4] [--server gunicorn] [--minutes 30] [--out runs/soak]

Give DATASET and two versions of the registry. Without them, relational scenes are generated and two models are
trained. Two workers, a gallery and a journal; everything uses 127.0.0.1. In 30 minutes: a worker is killed (kill -9)
each minute, the version changes every five (`hire serve --version N`), the gallery every two and a half (`hire
gallery add`, `remove` and `build --overwrite` in turn). Shorter runs have shorter intervals. 1 % of the requests are
hostile.

Clients know the score of every pair under each version and check every answer. They send a request again after a lost
connection, 500, 503, 504 and 507. A request is lost if it has no answer after 90 s. An answer is wrong if a score
differs by more than 1e-5, if it is from a version or a content of the gallery that was not valid while the request
was open, or if it has another status.

Memory is the proportional set size of the server, its workers and the front, without files in memory, every five
seconds while one server with all its workers runs. In the last quarter of the run, its 90th percentile (a worker that
is still loading is small) may be above that of every earlier quarter by 10 % and 10 MB.

Exits with 1 if a request is lost, an answer is wrong, a command fails or memory grows. Writes soak.json, soak.md and
soak.png.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from soak_load import GALLERY, TOLERANCE, UPLOADED, Checker, Known, Load, Tally, Timeline, make_hostile, make_questions
from soak_report import Sample, report

from hire_model.data.store import Dataset
from hire_model.data.synthetic import generate
from hire_model.gallery.building import build
from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.monitoring.journal import read_lines
from hire_model.scoring.matrix import score_matrix
from hire_model.scoring.scorer import Scorer
from hire_model.settings import resolve
from hire_model.tracking import registry
from serving import server
from serving.address import find_front
from serving.process import RECORD, Kind, Server, find_free_ports

ROOT = Path(__file__).resolve().parent.parent
SHARE, HOSTILE = 0.8, 0.01
CLIENTS, WORKERS = 16, 2
KILL_S, VERSION_S, GALLERY_S = 60.0, 300.0, 150.0  # in a run of 30 minutes
LEAST_S = {KILL_S: 15.0, VERSION_S: 75.0, GALLERY_S: 35.0}
FIRST = 0.7  # of an interval, until its first event
WARM_S, CAPACITY_S, SAMPLE_S = 5.0, 15.0, 5.0
TEXTS, QUESTIONS = 256, 4000


class Soak:
    """One run. Its folder has the galleries of each version, the journal and the folder of `hire serve`."""

    def __init__(self, folder: Path, dataset: Path, splits: tuple[str, str], versions: list[str], kind: Kind) -> None:
        self.folder, self.dataset, self.splits, self.versions, self.kind = folder, dataset, splits, versions, kind
        self.serve_folder, self.rng = folder / "serve", random.Random(0)
        self.version = Timeline(versions[0])
        self.galleries = {version: Timeline("base") for version in versions}
        self.kills, self.changes, self.gallery_changes = list[float](), list[float](), list[float]()
        self.killed, self.seen = set[int](), dict[int, set[int]]()  # seen: workers by server
        self.samples, self.failed = list[Sample](), list[str]()
        self.start, self.lasted = time.monotonic(), 0.0

    def prepare(self) -> Load:
        """Compute the known scores, build the galleries, start the server, and return its clients."""
        parts = [Dataset.open(self.dataset).split(name) for name in self.splits]
        images = [part.regions(row) for part in parts for row in range(len(part.images))]
        ids = [part.image_id(row) for part in parts for row in range(len(part.images))]
        self.added = ids[len(parts[0].images) :]
        texts = list(dict.fromkeys(parts[0].texts))[:TEXTS]
        known = {}
        for version in self.versions:
            asyncio.run(self._run_hire(self._build_gallery(version)))
            folder = registry.fetch(self._name_model(version), resolve(None).settings.tracking)
            scorer = Scorer.load(folder)
            build(scorer.model, parts[1], self.folder / f"added-{version}")
            # A gallery stores encoded images in half precision, so their scores differ from those of uploaded images.
            galleries = [Gallery.open(path) for path in (self._name_gallery(version), self.folder / f"added-{version}")]
            with torch.inference_mode():
                queries = scorer.encode_texts(texts)
                encoded = [gallery.read_images(range(len(gallery))) for gallery in galleries]
                scores = [score_matrix(scorer.model, stored, queries, 1 << 28) for stored in encoded]
            assert [name for gallery in galleries for name in gallery.ids] == ids
            uploaded = scorer.predict([(image, text) for image in images[:UPLOADED] for text in texts])
            weights = artifact.read_config(folder)["sha256"][artifact.WEIGHTS]
            known[version] = Known(weights, np.concatenate(scores), uploaded.reshape(-1, len(texts)), len(galleries[0]))
        first, second = (known[version].scores for version in self.versions)
        if np.abs(first - second).max() <= TOLERANCE:
            raise SystemExit(f"Versions {' and '.join(self.versions)} give the same scores. Name versions that differ.")
        [port] = find_free_ports(1)
        options = ["--server", self.kind, "--port", str(port), "--workers", str(WORKERS), "--journal"]
        asyncio.run(self._run_hire([*self._serve(self.versions[0]), *options, str(self.folder / "journal")]))
        front = find_front(self.serve_folder)
        assert front is not None
        questions = make_questions(images, ids, texts, len(parts[0].images), QUESTIONS)
        good = next(question.body for question in questions if question.kind == "stored")
        token = front.get_token()
        checker = Checker(known, ids, self.version, self.galleries)
        return Load(port, token, questions, make_hostile(port, token, good), checker.find_fault)

    async def run(self, load: Load, minutes: float, capacity: float) -> None:
        """Send requests, kill, change and measure for `minutes`."""
        self.start, seconds = time.monotonic(), 60 * minutes
        events: dict[float, Callable[[], Awaitable[None]]] = {
            KILL_S: self._kill_worker, VERSION_S: self._change_version, GALLERY_S: self._change_gallery,
        }  # fmt: skip
        intervals = {nominal: max(least, nominal * minutes / 30) for nominal, least in LEAST_S.items()}
        lock = asyncio.Lock()  # one command at a time, as one person would run them; kills happen at any time
        watch, tasks = asyncio.create_task(self._watch(load.tally)), list[asyncio.Task[None]]()
        for nominal, act in events.items():
            used = lock if nominal != KILL_S else asyncio.Lock()
            tasks.append(asyncio.create_task(self._repeat(act, intervals[nominal], seconds, used)))
        try:
            await load.run(CLIENTS, seconds, SHARE * capacity, HOSTILE, lambda: not all(task.done() for task in tasks))
            await asyncio.gather(*tasks)
            self.lasted = time.monotonic() - self.start
        finally:
            for task in [watch, *tasks]:
                task.cancel()

    async def _repeat(
        self, act: Callable[[], Awaitable[None]], every: float, seconds: float, lock: asyncio.Lock
    ) -> None:
        """Call `act` every so many seconds, but not in the last half interval, so that its effect is seen."""
        planned, last = self.start + every * FIRST, self.start + seconds - every / 2
        while planned < last:
            await asyncio.sleep(max(0.0, planned - time.monotonic()))
            async with lock:
                if time.monotonic() < last:  # it may have waited for another command
                    await act()
            planned = max(planned + every, time.monotonic())

    async def _kill_worker(self) -> None:
        current = await asyncio.to_thread(server.find_current, self.serve_folder)
        workers = await asyncio.to_thread(current.list_workers) if current else []
        if workers:
            worker = self.rng.choice(workers)
            self.killed.add(worker.pid)
            worker.kill()
            self.kills.append(time.monotonic() - self.start)

    async def _change_version(self) -> None:
        old = self.version.newest
        new = self.versions[1 - self.versions.index(old)]
        self.version.begin(new)
        if await self._run_hire(self._serve(new)):
            self.version.end()
            self.changes.append(time.monotonic() - self.start)

    async def _change_gallery(self) -> None:
        """Add the second split to the gallery of the current version. The next time, remove it or build it again."""
        version = self.version.newest
        gallery, state = str(self._name_gallery(version)), self.galleries[version]
        if state.newest == "base":
            command, content = ["gallery", "add", gallery, str(self.dataset), "--split", self.splits[1]], "all"
        elif len(self.gallery_changes) % 4 == 1:
            command, content = ["gallery", "remove", gallery, *self.added], "base"
        else:
            command, content = [*self._build_gallery(version), "--overwrite"], "base"
        state.begin(content)
        if await self._run_hire(command):
            state.end()
            self.gallery_changes.append(time.monotonic() - self.start)

    def _name_model(self, version: str) -> str:
        return f"models:/{resolve(None).settings.tracking.model_name}/{version}"

    def _name_gallery(self, version: str) -> Path:
        return self.folder / f"galleries-{version}" / GALLERY

    def _build_gallery(self, version: str) -> list[str]:
        options = ["--split", self.splits[0], "--model", self._name_model(version)]
        return ["gallery", "build", str(self.dataset), *options, "--out", str(self._name_gallery(version))]

    def _serve(self, version: str) -> list[str]:
        galleries = str(self._name_gallery(version).parent)
        return ["serve", "--version", version, "--folder", str(self.serve_folder), "--galleries", galleries]

    async def _run_hire(self, command: list[str]) -> bool:
        """Run a command of `hire`. Record its message if it fails, and return False."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hire_model", *command, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            self.failed.append(f"hire {' '.join(command[:2])}: {output.decode(errors='replace')[-1000:]}")
            print(self.failed[-1], flush=True)
        return process.returncode == 0

    async def _watch(self, tally: Tally) -> None:
        """Measure memory and print progress until cancelled."""
        while True:
            sample = await asyncio.to_thread(self._measure)
            if sample is not None:
                self.samples.append(sample)
                if len(self.samples) % 6 == 1:
                    self._print_progress(sample, tally)
            await asyncio.sleep(SAMPLE_S)

    def _print_progress(self, sample: Sample, tally: Tally) -> None:
        p99 = np.percentile([ms for _, ms in tally.latencies[-2000:]] or [0], 99)
        done = f"{len(self.kills)} kills, {len(self.changes)} versions, {len(self.gallery_changes)} galleries"
        got = f"{tally.sent:,} sent, {len(tally.lost)} lost, {len(tally.wrong)} wrong, {tally.retries} retries"
        print(f"{sample.seconds:5.0f} s  {got}, p99 {p99:.0f} ms, {sample.total:.0f} MB, {done}", flush=True)

    def _measure(self) -> Sample | None:
        """Return the memory of all servers and the front; None if a process ended meanwhile."""
        try:
            front = find_front(self.serve_folder)
            process = front.find_process() if front else None
            running = [each for each in self._list_servers() if each.find_process()]
            if process is None or not running:
                return None
            workers = {each.pid: each.list_workers() for each in running}
            for pid, found in workers.items():
                self.seen.setdefault(pid, set()).update(worker.pid for worker in found)
            steady = len(running) == 1 and all(len(found) == WORKERS for found in workers.values())
            own = sum(_measure_mb(psutil.Process(each.pid)) for each in running)
            forks = sum(_measure_mb(worker) for found in workers.values() for worker in found)
            seconds = time.monotonic() - self.start
            return Sample(seconds, _measure_mb(process), own, forks, process.num_fds(), steady)
        except psutil.Error:
            return None

    def count_unplanned_ends(self) -> int:
        """Return how many workers ended without being killed while their server ran, as far as samples show it."""
        return sum(max(0, len(pids - self.killed) - WORKERS) for pids in self.seen.values())

    def _list_servers(self) -> list[Server]:
        found = []
        for record in self.serve_folder.glob(f"v*-*/{RECORD}"):
            try:
                found.append(Server.model_validate_json(record.read_text("utf-8")))
            except FileNotFoundError:
                continue  # an old folder was just deleted
        return found


def _measure_mb(process: psutil.Process) -> float:
    """Return Pss_Anon: forks share it. Files in memory are shared with programs that do not belong to the server."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    return sum(float(line.split()[1]) / 1000 for line in lines if line.startswith("Pss_Anon:"))


def train_two(folder: Path) -> Path:
    """Generate relational scenes and train two versions on them, in a store of their own. Return the data set."""
    dataset = folder / "scenes"
    os.environ["HIRE_TRACKING__URI"] = f"sqlite:///{folder}/mlflow.db"
    generate(dataset, train=300, dev=24, test=120, seed=0)
    settings = ["train.epochs=1", "evaluate.bootstrap=0", "evaluate.examples=0", "train.threads=2"]
    for seed in (0, 1):
        changes = [*settings, f"train.seed={seed}", f"train.out={folder}/run{seed}"]
        command = ["train", "--data", str(dataset), *(part for change in changes for part in ("--set", change))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "hire_model", *command], env=environment, cwd=folder, check=True)
    os.chdir(folder)  # `hire serve` writes its archives into this folder
    return dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--versions", nargs=2, default=["1", "2"])
    parser.add_argument("--splits", nargs=2, default=["test", "dev"], help="of the gallery, and what is added to it")
    parser.add_argument("--server", choices=["torchserve", "gunicorn"], default="torchserve")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        dataset = args.dataset.resolve() if args.dataset else train_two(folder)
        soak = Soak(folder, dataset, tuple(args.splits), args.versions, args.server)
        try:
            load = soak.prepare()
            asyncio.run(load.run(CLIENTS, WARM_S))
            load.tally = Tally()
            asyncio.run(load.run(CLIENTS, CAPACITY_S))
            capacity = len(load.tally.latencies) / CAPACITY_S
            faults = load.tally.lost + load.tally.wrong
            print(f"{args.server}: {capacity:.0f} requests/s; now {args.minutes:g} minutes at 80 %", flush=True)
            load.tally = Tally()
            asyncio.run(soak.run(load, args.minutes, capacity))
        finally:
            server.stop(folder / "serve")
        facts = {"server": args.server, "minutes": soak.lasted / 60, "capacity": capacity, "rate": SHARE * capacity}
        facts |= {"kills": soak.kills, "versions": soak.changes, "galleries": soak.gallery_changes}
        facts |= {"unplanned": soak.count_unplanned_ends(), "journal": sum(1 for _ in read_lines(folder / "journal"))}
        problems = [*faults, *soak.failed]
        raise SystemExit(1 if report(out, facts, load.tally, soak.samples, soak.start, problems) else 0)


if __name__ == "__main__":
    main()

"""Follow the product from the first data set to a rollback by running every command that is printed after "Next:"."""

from __future__ import annotations

import base64
import csv
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.live

SMALL = {
    "HIRE_TRAIN__EPOCHS": "1",
    "HIRE_TRAIN__THREADS": "1",
    "HIRE_TRAIN__BATCH": "8",
    "HIRE_MODEL__PRESET": "tiny",
    "HIRE_EVALUATE__BOOTSTRAP": "20",
    "HIRE_EVALUATE__EXAMPLES": "1",
    "HIRE_GATE__MIN_SHUFFLE": "0",  # one epoch on a few pictures is too short to learn word order
    "HIRE_GATE__MAX_ECE": "1",
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "true",
    "COLUMNS": "60",  # a narrow terminal must not break a command
}
SERVERS = ("hire demo", "mlflow ui")  # they run until they are stopped
PORT = {"hire demo": "--port", "hire serve": "--port", "mlflow ui": "--port"}
WAIT_S = 300


class Walk:
    """Runs commands as a user in one folder, and remembers them. `add` has more words for some commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done, self.add = folder, [], {}  # type: ignore[var-annotated]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "HIRE_", "PREFECT"))}
        self.env = kept | SMALL | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self.port = find_free_port()

    def run(self, *words: str) -> str:
        """Run a command to its end and return its output. Fail if its exit status is not 0."""
        name = " ".join(words[:2])
        more = [*self.add.get(name, []), *([PORT[name], str(self.port)] if name in PORT else [])]
        command = [sys.executable, "-m", "hire_model", *words[1:]] if words[0] == "hire" else list(words)
        if name in SERVERS:
            return self.visit([*command, *self.add.get(name, []), PORT[name], str(find_free_port())])
        done = subprocess.run(
            [*command, *more],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def visit(self, command: Sequence[str]) -> str:
        """Start a server, open its page, stop it as Ctrl+C does, and return the page."""
        log = self.folder / "server.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=file, stderr=file, start_new_session=True
            )
        address, end = f"http://127.0.0.1:{command[-1]}/", time.monotonic() + WAIT_S
        try:
            while True:
                assert process.poll() is None and time.monotonic() < end, f"{command}\n{log.read_text()}"
                printed = re.search(rf"http://127\.0\.0\.1:{command[-1]}/\S*", log.read_text())
                try:
                    answer = httpx.get(printed[0] if printed else address, timeout=5, trust_env=False)
                except httpx.TransportError:
                    time.sleep(0.2)
                    continue
                if answer.status_code == 200:
                    return answer.text
                time.sleep(0.2)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def follow(self, output: str, skip: Sequence[str] = ()) -> None:
        """Run the commands that `output` prints, each once; after each one, first those that it prints."""
        waiting = read_next(output)
        while waiting:
            words = waiting.pop(0)
            if words in self.done or " ".join(words[:2]) in skip:
                continue
            self.done.append(words)
            waiting = read_next(self.run(*words)) + waiting

    def ran(self) -> list[str]:
        """Return the first words of each command that was followed."""
        return [" ".join(words[: 3 if words[1] in ("data", "gallery") else 2]) for words in self.done]


def read_next(output: str) -> list[list[str]]:
    """Return the commands below each line "Next:", and the one after "Try it: "."""
    commands, listing = [], False
    for line in output.splitlines():
        listing = line == "Next:" or (listing and line.startswith("  "))
        if listing and line != "Next:":
            commands.append(shlex.split(line))
        if line.startswith("Try it: "):
            commands.append(shlex.split(line.removeprefix("Try it: ")))
    return commands


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    yield walk
    if (tmp_path / "runs" / "serve").exists():
        walk.run("hire", "serve", "--stop")


@pytest.mark.timeout(1800)  # about 30 processes that import torch or MLflow; a busy machine needs ten times as long
def test_every_printed_next_step_from_data_to_rollback_succeeds(walk: Walk) -> None:
    walk.add = {"hire serve": ["--journal", "journal", "--journal-share", "1"], "mlflow ui": ["--workers", "1"]}
    sizes = ["--train", "64", "--dev", "16", "--test", "16"]
    walk.follow(walk.run("hire", "data", "synth", "--out", "datasets/my scenes", *sizes))
    assert walk.ran() == [
        "hire data validate", "hire data show", "hire train", "hire evaluate", "hire gate", "hire promote",
        "hire package", "hire serve", "curl -s", "hire gallery build", "hire search", "hire demo", "mlflow ui",
    ]  # fmt: skip
    [curl] = [words for words in walk.done if words[0] == "curl"]
    answer = walk.run(*curl)
    assert "scores" in answer and answer.endswith("\n"), "the answer of the server, no error, and a line of its own"
    walk.run("hire", "train", "--data", "datasets/my scenes", "--set", "train.seed=1 train.out=runs/second")
    walk.run("hire", "promote", "--version", "2", "--force", "a walk through the commands")
    walk.done.clear()
    walk.follow(walk.run("hire", "rollback"))
    assert walk.ran()[0] == "hire serve" and "hire package" not in walk.ran(), "version 1 has its archive"
    walk.run("hire", "monitor", "--journal", "journal", "--report", "drift.html")
    assert (walk.folder / "drift.html").is_file()


def write_scan(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("dev", 8), ("test", 8)):
        np.save(folder / f"{split}_ims.npy", random.normal(size=(count, 4, 8)).astype(np.float32))
        (folder / f"{split}_caps.txt").write_text(
            "".join(f"a {split} dog on sofa {k}\n" for k in range(count)), "utf-8"
        )
    return ["scan", str(folder)]


def write_captions(folder: Path) -> list[str]:
    """Write a table of captions for the images 0 to 31, and return the option that names it."""
    splits = ["train"] * 16 + ["dev"] * 8 + ["test"] * 8
    lines = [f"{i}\t{split}\ta dog on a sofa {i}" for i, split in enumerate(splits)]
    (folder / "captions.tsv").write_text("\n".join(["image\tsplit\tcaption", *lines]) + "\n", "utf-8")
    return ["--captions", str(folder / "captions.tsv")]


def write_butd(folder: Path) -> list[str]:
    random, rows = np.random.default_rng(0), []
    boxes = base64.b64encode(np.tile([0, 0, 50, 50], (4, 1)).astype(np.float32).tobytes()).decode()
    for i in range(32):
        features = base64.b64encode(random.normal(size=(4, 8)).astype(np.float32).tobytes()).decode()
        rows.append(f"{i}\t100\t100\t4\t{boxes}\t{features}\n")
    (folder / "features.tsv").write_text("".join(rows), "ascii")
    return ["butd-tsv", str(folder / "features.tsv"), *write_captions(folder)]


def write_npz(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    for i in range(32):
        features, boxes = random.normal(size=(4, 8)), np.tile([0, 0, 50, 50], (4, 1))
        (folder / "features").mkdir(exist_ok=True)
        np.savez(folder / "features" / f"{i}.npz", x=features, bbox=boxes, image_w=100, image_h=100)
    return ["npz", str(folder / "features"), *write_captions(folder)]


def write_pictures(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i in range(20):
            pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((64, 48)).save(folder / "pictures" / f"{i}.jpg")
            rows.writerow([f"{i}.jpg", f"a dog on a sofa {i}"])
    shares = ["--shares", "60,20,20", "--workers", "1"]
    return ["images", str(folder / "pictures"), "--captions", str(folder / "captions.csv"), *shares]


@pytest.mark.parametrize("write", [write_scan, write_butd, write_npz, write_pictures])
def test_every_command_that_an_import_prints_succeeds(write: object, walk: Walk, tmp_path: Path) -> None:
    assert callable(write)
    walk.env["HIRE_TRACKING__ENABLED"] = "false"
    (tmp_path / "in").mkdir()
    output = walk.run("hire", "data", "import", *write(tmp_path / "in"), "--out", "datasets/mine")
    walk.follow(output)
    assert walk.ran() == ["hire data validate", "hire data show", "hire train", "hire evaluate"]

"""The commands that are killed, as a script: kill_scenarios.py NAME FOLDER. See killing.py and test_kills.py.

HIRE_KILL_STORE, HIRE_KILL_DATA and HIRE_KILL_RUN name the store (a file), the data set and the run of a registered
model.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forked processes must not inherit a thread pool

import mlflow
import numpy as np
import psutil
import torch
from killing import Scenario, main

import hire_model  # noqa: F401
from hire_model.batch import Tokens
from hire_model.data.store import Dataset
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import HireError
from hire_model.gallery.building import build
from hire_model.gallery.changing import add, remove
from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.packaging.archive import package
from hire_model.packaging.verify import verify
from hire_model.scoring import kept_scores, matrix
from hire_model.settings import Settings, resolve
from hire_model.tracking import versions
from hire_model.tracking.promotion import promote
from hire_model.tracking.registry import fetch
from hire_model.workflows.evaluate import evaluate
from hire_model.workflows.gate import gate
from hire_model.workflows.train import train
from serving import HANDLER, server
from serving.address import ServeState, read_state
from serving.process import RECORD, Server

STORE, DATA, RUN = (Path(os.environ[f"HIRE_KILL_{name}"]) for name in ("STORE", "DATA", "RUN"))


def make_settings(folder: Path, **changes: str) -> Settings:
    return _resolve(folder, **changes).settings


def _resolve(folder: Path, **changes: str):
    fixed = {
        "model.preset": "tiny", "data.path": str(DATA), "data.test": "test", "train.epochs": "1", "train.batch": "8",
        "train.threads": "1", "train.out": str(folder / "run"), "evaluate.bootstrap": "0", "evaluate.examples": "0",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }  # fmt: skip
    return resolve("synthetic", fixed | {key.replace("__", "."): value for key, value in changes.items()}, environ={})


def copy_store(folder: Path) -> None:
    """Copy MLflow's store with its registered version 1; its artifacts stay where they are."""
    shutil.copy(STORE, folder / "mlflow.db")
    os.chdir(folder)


# Data sets and galleries: the old one or the new one is complete.


def write_data(folder: Path, caption: str) -> None:
    with DatasetWriter(folder / "data", name="d", feature_dim=2, feature_extractor="x", overwrite=True) as writer:
        writer.add(ImageRecord("i", "train", torch.ones(1, 2).numpy(), [caption]))


def read_caption(folder: Path) -> str:
    data = Dataset.open(folder / "data")
    data.regions(0)
    return str(data.caption_texts[0])


def check_data(*captions: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        assert read_caption(folder) in captions

    return check


@cache
def load_model() -> artifact.Hire:
    return artifact.load(RUN / "model")


def build_gallery(folder: Path, split: str) -> None:
    build(load_model(), Dataset.open(DATA).split(split), folder / "gallery", overwrite=True, shard=4)


def check_gallery(*splits: str) -> Callable[[Path], None]:
    """Check that the gallery is complete and has one of `splits`; "none": there may be none."""

    def check(folder: Path) -> None:
        try:
            assert Gallery.open(folder / "gallery").manifest.split in splits
        except HireError:
            assert "none" in splits and not (folder / "gallery").exists()

    return check


def change_gallery(folder: Path, action: str) -> None:
    """Add the test images to a gallery of the dev images, or remove the first dev image again."""
    if action == "add":
        add(load_model(), Dataset.open(DATA).split("test"), folder / "gallery", replace=True, shard=4)
    else:
        remove(folder / "gallery", [FIRST], missing_ok=True)


def check_images(*allowed: set[str]) -> Callable[[Path], None]:
    """Check that the gallery opens and has exactly the images of one of `allowed`."""

    def check(folder: Path) -> None:
        gallery = Gallery.open(folder / "gallery")
        gallery.read_images(range(len(gallery)))
        assert set(gallery.ids) in allowed and len(set(gallery.ids)) == len(gallery)

    return check


@cache
def list_ids(split: str) -> set[str]:
    data = Dataset.open(DATA)
    return set(data.image_ids[data.split(split).images])


# The registry.


def pass_gate(folder: Path) -> None:
    copy_store(folder)
    settings = make_settings(folder).tracking
    versions.set_tags(settings, versions.find(settings, "1"), {"gate.decision": "passed", "gate.champion": "none"})


def promote_first(folder: Path) -> None:
    promote(make_settings(folder).tracking, "1")


def check_champion(folder: Path) -> None:
    champion = versions.find_champion(make_settings(folder).tracking)
    assert champion is None or (champion.number == "1" and champion.tags["gate.decision"] == "passed")


def promote_again(folder: Path) -> None:
    with sqlite3.connect(folder / "mlflow.db", timeout=60) as database:  # the killed promotion's ticket has expired
        database.execute("update model_versions set creation_time = creation_time - 1000000 where name like '%-promo%'")
    promote_first(folder)


def check_promoted(folder: Path) -> None:
    champion = versions.find_champion(make_settings(folder).tracking)
    assert champion is not None and champion.number == "1"


def run_gate(folder: Path) -> None:
    os.chdir(folder)
    gate(make_settings(folder), "1")


def check_undecided(folder: Path) -> None:
    """A decision of a killed gate does not count, unless the gate had recorded all that belongs to it."""
    settings = make_settings(folder).tracking
    tags = versions.find(settings, "1").tags
    if tags.get(versions.DECISION) in (versions.PASSED, "failed"):
        assert tags[versions.GATED_SHA256] == tags[versions.ARTIFACT_SHA256] and versions.COMPARED_WITH in tags
    else:
        try:
            promote(settings, "1")
        except HireError:
            return
        raise AssertionError("a version without a decision was promoted")


def check_decided(folder: Path) -> None:
    tags = versions.find(make_settings(folder).tracking, "1").tags
    assert tags[versions.DECISION] in (versions.PASSED, "failed")
    assert tags[versions.GATED_SHA256] == tags[versions.ARTIFACT_SHA256]


def make_archive(folder: Path) -> None:
    package("1", make_settings(folder), HANDLER, folder / "archives")


def check_archive(folder: Path) -> None:
    """An archive that the registry names is complete; one that it does not name is complete too, or absent."""
    path = folder / "archives" / "1" / "hire.mar"
    if path.exists():
        verify(path)
    recorded = versions.find(make_settings(folder).tracking, "1").tags
    if "archive.path" in recorded and "archive.sha256" in recorded:
        found = versions.find_archive("1", make_settings(folder).tracking)
        verify(found.path, found.sha256)


def check_packaged(folder: Path) -> None:
    found = versions.find_archive("1", make_settings(folder).tracking)
    verify(found.path, found.sha256)


def copy_run(folder: Path) -> None:
    """Copy a finished training, whose model is not registered under the name 'killed'."""
    copy_store(folder)
    shutil.copytree(RUN, folder / "run")


def finish_training(folder: Path) -> None:
    os.chdir(folder)
    train(_resolve(folder, tracking__model_name="killed"), resume=True)


def check_registration(folder: Path) -> None:
    """The alias names only a version with all its digests, and with the files that it was registered with."""
    settings = make_settings(folder, tracking__model_name="killed").tracking
    for version in versions.list_versions(settings):
        if versions.CHALLENGER in version.aliases:
            assert {versions.ARTIFACT_SHA256, versions.GOLDEN_SCORES} <= set(version.tags)
            fetch(version.uri, settings)


def check_registered(folder: Path) -> None:
    settings = make_settings(folder, tracking__model_name="killed").tracking
    complete = [each for each in versions.list_versions(settings) if versions.ARTIFACT_SHA256 in each.tags]
    assert [versions.CHALLENGER in each.aliases for each in complete] == [True], "registered exactly once"
    check_registration(folder)


# An evaluation: its blocks of scores are kept until it ends.


def run_evaluation(folder: Path) -> None:
    """Evaluate with blocks of 8 captions; write a line to `scored` for each one that is scored."""
    score = matrix._ImageScorer.score

    def count(scorer: matrix._ImageScorer, shard: tuple[int, Tokens]) -> np.ndarray:
        with (folder / "scored").open("a") as file:
            file.write(f"{shard[0]}\n")
        return score(scorer, shard)

    kept_scores.MIN_PAIRS, matrix._ENCODE_BLOCK, matrix._ImageScorer.score = 1, 8, count
    os.environ["HIRE_CACHE"] = str(folder)
    evaluate([str(RUN / "model")], make_settings(folder), "test", folder / "figures.json")


def check_blocks(folder: Path) -> None:
    """Each block that was finished before the last one is there, unless the evaluation has ended."""
    blocks = sorted(folder.glob("scores/*/[0-9]*.npz"))
    assert all(np.load(path)["scores"].shape == (8, 8) for path in blocks)
    scored = (folder / "scored").read_text().split()
    assert (folder / "figures.json").exists() or len(blocks) >= len(scored) - 1


def check_evaluated(folder: Path) -> None:
    assert 5 <= len((folder / "scored").read_text().split()) <= 5 + 1, "at most the block of the kill is scored twice"
    assert not list((folder / "scores").iterdir())
    expected = json.loads((RUN / "figures.json").read_text())
    assert json.loads((folder / "figures.json").read_text())["rsum"] == expected["rsum"]


# The server: processes are replaced by this one, so that only the files matter.


def make_server(folder: Path, number: str) -> Server:
    process = psutil.Process(os.getppid())
    path = folder / f"v{number}-abcdefgh"
    path.mkdir(exist_ok=True)
    made = Server(
        folder=path, scratch=folder, pid=process.pid, started=process.create_time(), version=number, sha256="",
        inference_port=int(number), management_port=2, metrics_port=3, workers=2,
    )  # fmt: skip
    (path / RECORD).write_text(made.model_dump_json())
    return made


def serve_version(number: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        made = make_server(folder, number)
        server.write_state(folder, ServeState(version=number, port=8080, workers=2, galleries=folder))
        server._make_current(folder, made)

    return act


def check_served(folder: Path) -> None:
    current, state = server.find_current(folder), read_state(folder)
    assert current is not None and current.version in ("1", "2")
    assert state is not None and state.version in ("1", "2") and (state.workers, state.galleries) == (2, folder)


def check_second_served(folder: Path) -> None:
    current, state = server.find_current(folder), read_state(folder)
    assert current is not None and state is not None and (current.version, state.version) == ("2", "2")
    assert (folder / "upstream.conf").read_text() == "server 127.0.0.1:2;\n"
    assert json.loads((folder / "current" / RECORD).read_text())["version"] == "2"


DEV, TEST = list_ids("dev"), list_ids("test")
FIRST = min(DEV)
SCENARIOS = {
    "data": Scenario(
        lambda f: write_data(f, "old"), lambda f: write_data(f, "new"), check_data("old", "new"), check_data("new")
    ),
    "gallery": Scenario(
        lambda f: None, lambda f: build_gallery(f, "dev"), check_gallery("dev", "none"), check_gallery("dev")
    ),
    "gallery-overwrite": Scenario(
        lambda f: build_gallery(f, "dev"), lambda f: build_gallery(f, "test"), check_gallery("dev", "test"),
        check_gallery("test"),
    ),
    "gallery-add": Scenario(
        lambda f: build_gallery(f, "dev"), lambda f: change_gallery(f, "add"),
        check_images(DEV, DEV | TEST), check_images(DEV | TEST),
    ),
    "gallery-remove": Scenario(
        lambda f: build_gallery(f, "dev"), lambda f: change_gallery(f, "remove"),
        check_images(DEV, DEV - {FIRST}), check_images(DEV - {FIRST}),
    ),
    "train": Scenario(copy_run, finish_training, check_registration, check_registered, stride=25),
    "gate": Scenario(copy_store, run_gate, check_undecided, check_decided, stride=10),
    "promote": Scenario(pass_gate, promote_first, check_champion, check_promoted, promote_again, stride=4),
    "package": Scenario(copy_store, make_archive, check_archive, check_packaged, stride=4),
    "evaluate": Scenario(lambda f: None, run_evaluation, check_blocks, check_evaluated),
    "serve": Scenario(serve_version("1"), serve_version("2"), check_served, check_second_served),
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    assert mlflow
    main(SCENARIOS)

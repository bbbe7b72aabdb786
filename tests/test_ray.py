"""Pictures, galleries and scores of a Ray cluster equal those of one process, also if a worker is killed."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gallery_examples
import numpy as np
import pytest
import torch
from mean_extractor import MeanExtractor, count
from picture_examples import write_pictures
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.importers.base import Target
from hire_model.errors import HireError
from hire_model.gallery.building import build
from hire_model.model.captions import build_caption_bank
from hire_model.scoring import kept_scores
from hire_model.scoring.kept_scores import KeptScores
from hire_model.scoring.matrix import compute_similarity
from hire_model.workers import THIS_PROCESS, Workers, _take

pytestmark = pytest.mark.slow
HINT = "Ray is not installed: pip install 'hire-model[ray]'"


@pytest.fixture(autouse=True)
def keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Workers]:
    """Start a cluster with two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the workers import modules of the tests
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")  # read when ray is imported
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray = pytest.importorskip("ray", reason=HINT)
        from ray.cluster_utils import Cluster

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        node = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False}
        started = Cluster(initialize_head=True, head_node_args=node)
        try:
            yield Workers(ray=started.address)
        finally:
            ray.shutdown()
            started.shutdown()


class Killer:
    """Log each call, and kill the process of the first call from this number on."""

    def __init__(self, folder: Path, at: int) -> None:
        self.log, self.marker, self.at = folder / "log", folder / "killed", at

    def __call__(self, *arguments: Any) -> None:
        with self.log.open("a") as file:
            file.write("called\n")
        if count(self.log) >= self.at:
            with suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)


class KilledExtractor(MeanExtractor):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "extracted")
        self.killer = Killer(folder, at=20)

    def extract(self, image: Any) -> Any:
        self.killer()
        return super().extract(image)


def test_pictures_are_extracted_though_a_worker_is_killed(cluster: Workers, tmp_path: Path) -> None:
    captions = write_pictures(tmp_path, 36)
    one, two = (
        ImageImport(tmp_path / "pictures", captions, workers=workers, seed=1) for workers in (THIS_PROCESS, cluster)
    )
    expected, _ = import_images(one, Target(tmp_path / "one"), lambda: MeanExtractor(tmp_path / "extracted"))
    (tmp_path / "extracted").unlink()
    manifest, _ = import_images(two, Target(tmp_path / "two"), lambda: KilledExtractor(tmp_path))
    assert manifest.digest == expected.digest
    assert 36 < count(tmp_path / "log") <= 36 + 16, "only the shard of the killed worker is extracted again"
    assert len(list((tmp_path / "two.regions").glob("*/*.npz"))) == 3


def test_a_gallery_is_built_though_a_worker_is_killed(cluster: Workers, tmp_path: Path, tiny_dataset: Path) -> None:
    torch.set_num_threads(1)  # as in the workers
    split = gallery_examples.open_split(tiny_dataset)
    expected = build(gallery_examples.make_model(split), split, tmp_path / "one", captions=True, shard=8)
    model = gallery_examples.make_model(split)
    model.regions.register_forward_pre_hook(Killer(tmp_path, at=3))
    result = build(model, split, tmp_path / "two", captions=True, shard=8, workers=cluster)
    assert result.encoded == expected.encoded == 240
    assert result.manifest.segments == expected.manifest.segments, "all files have the same SHA-256"
    assert count(tmp_path / "log") == 5 + 1, "five shards of images, one of them twice"


def test_pairs_are_scored_though_a_worker_is_killed_and_kept_until_the_end(
    cluster: Workers, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_scores, "MIN_PAIRS", 1)
    split = gallery_examples.open_split(tiny_dataset)
    model = gallery_examples.make_model(split)
    bank = build_caption_bank(model, split.texts)
    expected = compute_similarity(model, split, bank)
    model.text.register_forward_pre_hook(Killer(tmp_path, at=2))
    with KeptScores(tmp_path / "cache") as kept:
        for _ in range(2):
            scores = compute_similarity(model, split, bank, workers=cluster, kept=kept)
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert count(tmp_path / "log") == 2 + 1, "two blocks, one of them twice, and none in the second call"


def fail(state: object, shard: int) -> None:
    raise HireError(f"shard {shard} is damaged")


def test_an_error_in_a_worker_ends_the_work(cluster: Workers) -> None:
    with pytest.raises(HireError, match=r"^shard 7 is damaged$"):
        list(cluster.run(dict, fail, [7]))


def test_the_error_for_a_lost_worker_says_how_to_continue() -> None:
    ray = pytest.importorskip("ray", reason=HINT)

    def get(reference: object) -> None:
        raise ray.exceptions.WorkerCrashedError

    with pytest.raises(HireError, match=r"given up after 4 tries.*Run the same command again"):
        _take(SimpleNamespace(get=get, exceptions=ray.exceptions), None)


def test_without_a_cluster_or_ray_an_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(HireError, match=r"--ray localhost:1: no cluster answers: .*refused.*ray start --head"):
        list(Workers(ray="localhost:1").run(dict, fail, [1]))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HireError, match=r"Ray is not installed.*hire-model\[ray\]"):
        list(Workers(ray="auto").run(dict, fail, [1]))


def test_the_help_names_the_option() -> None:
    for command in (["evaluate"], ["gallery", "build"], ["data", "import", "images"]):
        assert "--ray" in CliRunner().invoke(app, [*command, "--help"]).output

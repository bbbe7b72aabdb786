"""A model trained on imported pictures is packaged and served, and its server takes good and hostile pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from picture_examples import FLOAT16, import_pictures
from picture_files import DAMAGED, damage_pictures, encode, png_claiming, scene
from registered import train_and_register

from hire_model.data.store import Dataset
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.packaging.archive import package
from hire_model.scoring.scorer import Scorer
from hire_model.tracking.versions import find_archive
from serving import HANDLER, server
from serving.client import BadRequest, HireClient, TooLarge
from serving.process import Server, find_free_ports

pytestmark = pytest.mark.live
GROWTH_MB = 600.0  # of the worker: decoding a picture takes up to 470 MB
TEXT = "a large red box"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return import_pictures(tmp_path_factory.mktemp("served-pictures"), 12)


@pytest.fixture(scope="module")
def model(data: Dataset, served: Server) -> Path:
    return data.folder.parent / "registered" / "run" / "model"


@pytest.fixture(scope="module")
def served(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = data.folder.parent
    for name in ("registered", "galleries", "serve"):
        (folder / name).mkdir()
    trained = train_and_register(data.folder, folder / "registered", {"data.test": "test"})
    package("1", trained.settings, HANDLER, folder / "archives")
    build(artifact.load(trained.folder), data.split(""), folder / "galleries" / "photos", captions=True)
    archive, [port] = find_archive("1", trained.settings.tracking), find_free_ports(1)
    try:
        yield server.serve(archive, folder / "serve", port=port, galleries=folder / "galleries")
    finally:
        server.stop(folder / "serve")


@pytest.fixture(scope="module")
def client(data: Dataset, served: Server) -> Iterator[HireClient]:
    with HireClient(data.folder.parent / "serve") as client:
        yield client


def test_a_picture_file_gets_the_score_of_its_imported_regions(client: HireClient, data: Dataset, model: Path) -> None:
    paths = [data.picture(row) for row in range(4)]
    expected = Scorer.load(model).predict([(data.regions(row), TEXT) for row in range(4)])
    scores = client.score([(path, TEXT) for path in paths if path]).scores
    np.testing.assert_allclose(scores, expected, atol=FLOAT16)
    first = paths[0]
    assert first is not None
    assert client.score([(first.read_bytes(), TEXT)]).scores == pytest.approx(expected[:1].tolist(), abs=FLOAT16)
    assert client.explain([(first, TEXT)]).explanations[0].score == pytest.approx(float(expected[0]), abs=FLOAT16)


def test_a_gallery_is_searched_with_a_sentence_and_with_a_picture(client: HireClient, data: Dataset) -> None:
    path = data.picture(2)
    assert path is not None
    assert len(client.search("photos", [TEXT], top_k=3).results[0].hits) == 3
    assert len(client.search("photos", images=[path], top_k=3).results[0].hits) == 3


def test_hostile_pictures_do_no_harm(client: HireClient, served: Server) -> None:
    process = served.find_process()
    assert process is not None
    workers, before, answers = list_workers(process), measure_memory(process), []
    hostile = [make() for make, _ in DAMAGED.values()] + [png_claiming(5000, 5000), png_claiming(5001, 5000)]
    hostile += [encode(scene(width=5000, height=5000), kind) for kind in ("JPEG", "PNG", "WEBP")]
    hostile += damage_pictures(280)
    for content in hostile:
        try:
            answers += client.score([(content, TEXT)]).scores
        except (BadRequest, TooLarge) as error:
            assert "image" in error.path and len(str(error)) < 600 and "/tmp" not in str(error)
            answers.append(float("nan"))
    refused = int(np.isnan(answers).sum())
    growth = measure_memory(process) - before
    print(f"\n{len(hostile)} pictures, {refused} refused; the worker grew by {growth:.0f} MB")
    assert len(hostile) > 300 and 100 < refused < len(hostile) - 10
    assert list_workers(process) == workers, "the worker was restarted"
    assert growth < GROWTH_MB and server.is_healthy(served)


def list_workers(process: psutil.Process) -> set[int]:
    return {child.pid for child in process.children(recursive=True)}


def measure_memory(process: psutil.Process) -> float:
    """Return the highest resident megabytes so far of the workers."""
    peaks = (Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0] for pid in list_workers(process))
    return sum(map(int, peaks)) / 1e3

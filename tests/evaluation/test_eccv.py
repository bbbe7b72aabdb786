"""ECCV Caption and CxC: ids of a COCO split, and metrics equal to those of full rankings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hire_model.data.store import Dataset, Split
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError, HireError
from hire_model.evaluation import eccv

IMAGES = 12


@pytest.fixture
def metrics() -> Any:
    """The package's metrics, on twelve images with two captions each instead of COCO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("eccv_caption", reason="pip install 'hire-model[eccv]'")
    found = package.Metrics()
    images, captions = [700_000 + i for i in range(IMAGES)], [900_000 + c for c in range(2 * IMAGES)]
    own = {"i2t": {}, "t2i": {c: [images[k // 2]] for k, c in enumerate(captions)}}
    own["i2t"] = {image: captions[2 * k : 2 * k + 2] for k, image in enumerate(images)}
    found.coco_gts, found.coco_ids = own, np.array(captions)
    found.cxc_gts = own | {"t2i": {c: [*i, images[0]] for c, i in own["t2i"].items()}}
    found.eccv_gts = {
        "i2t": {image: captions[2 * k : 2 * k + 6] for k, image in enumerate(images[:5])},
        "t2i": {caption: images[k // 2 : k // 2 + 3] for k, caption in enumerate(captions[:8])},
    }
    return found


def make_split(folder: Path, count: int = IMAGES, name: str = "COCO_val2014_000000{:06d}.jpg") -> Split:
    with DatasetWriter(folder, name="t", feature_dim=2, feature_extractor="none") as out:
        for i in range(count):
            out.add(ImageRecord(name.format(700_000 + i), "test", np.ones((1, 2), np.float32), ["a", "b"]))
    return Dataset.open(folder).split("test")


def test_the_best_items_give_the_metrics_of_the_full_rankings(metrics: Any, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(IMAGES, 2 * IMAGES)).astype(np.float32)
    images, captions = eccv.find_coco_ids(metrics, make_split(tmp_path / "d"))
    result = eccv.measure_eccv(metrics, matrix, images, captions)
    full = {
        "i2t": {i: [captions[k] for k in np.argsort(-matrix[row])] for row, i in enumerate(images)},
        "t2i": {c: [images[k] for k in np.argsort(-matrix[:, row])] for row, c in enumerate(captions)},
    }
    expected = metrics.eccv_metrics(full, "all") | {f"cxc_r{k}": metrics.cxc_recalls(full, "all", K=k) for k in eccv.KS}
    for side in ("i2t", "t2i"):
        values = {name: 100 * figures[side] for name, figures in expected.items()}
        assert getattr(result, side) == pytest.approx(values)
        assert len(values) == 6


def test_a_perfect_matrix_has_full_recall_at_1(metrics: Any, tmp_path: Path) -> None:
    matrix = np.repeat(np.eye(IMAGES, dtype=np.float32), 2, axis=1)
    result = eccv.measure_eccv(metrics, matrix, *eccv.find_coco_ids(metrics, make_split(tmp_path / "d")))
    assert result.i2t["eccv_r1"] == result.t2i["cxc_r1"] == 100


def test_another_split_or_another_image_is_refused(metrics: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 5 images and 10 captions.*expect COCO's 12 test images with 2 captions"):
        eccv.find_coco_ids(metrics, make_split(tmp_path / "small", 5))
    with pytest.raises(DataError, match=r"image 0 is 'COCO_val2014_100000700000\.jpg', expected COCO's image 700000"):
        eccv.find_coco_ids(metrics, make_split(tmp_path / "other", name="COCO_val2014_100000{:06d}.jpg"))


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eccv.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(HireError, match=r"pip install 'hire-model\[eccv\]'"):
        eccv.load_metrics()

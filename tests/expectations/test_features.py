"""Measuring the features in blocks equals a plain computation, with bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from expectations import features
from expectations.features import measure_features
from hire_model.data.store import Dataset
from hire_model.data.writer import DatasetWriter, ImageRecord

pytestmark = pytest.mark.slow


def count_regions(data: Dataset) -> np.ndarray:
    """Return the number of regions of each image, over all splits."""
    return np.concatenate([data.split(name).region_counts for name in data.manifest.splits]).astype(np.int64)


@pytest.mark.parametrize("block", [1, 3000, 8 << 20])
def test_measures_do_not_depend_on_the_blocks(tiny_dataset: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK_BYTES", block)
    data = Dataset.open(tiny_dataset)
    counts = count_regions(data)
    measures = measure_features(data, counts)
    array = data.features[:].astype(np.float64)
    np.testing.assert_allclose(measures.norms, np.linalg.norm(array, axis=1), rtol=1e-5)
    assert not measures.bad.any() and measures.signatures.shape == (40, 160)
    whole = measure_features(data, np.array([len(array)])).signatures[0] * len(array)
    np.testing.assert_allclose(whole, (measures.signatures * counts[:, None]).sum(axis=0), rtol=1e-3, atol=1e-2)


def test_a_signature_depends_on_positions_and_not_on_the_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    objects, corners = rng.normal(size=(4, 8)), rng.uniform(0, 0.5, (4, 2))
    boxes = np.concatenate([corners, corners + 0.3], axis=1).astype(np.float32)
    order = [2, 0, 3, 1]
    images = {"a": (objects, boxes), "b": (objects[order], boxes[order]), "c": (objects, boxes[order])}
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=8, feature_extractor="x", dtype="float32") as writer:
        for name, (features, image_boxes) in images.items():
            writer.add(ImageRecord(name, "train", features, ["a dog"], boxes=image_boxes))
    a, b, c = measure_features(Dataset.open(tmp_path / "d"), np.array([4, 4, 4])).signatures
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.linalg.norm(a - c) > 0.05 * np.linalg.norm(a)


MEASURE = """
import sys
from pathlib import Path
from expectations.check import validate

peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
validate(Path(sys.argv[1]))
before = peak()
assert validate(Path(sys.argv[2])).ok
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory peak from /proc")
def test_validation_needs_less_memory_than_the_features(tiny_dataset: Path, tmp_path: Path) -> None:
    """Validate 211 MiB of features in a separate process."""
    rng = np.random.default_rng(0)
    block = rng.normal(size=(36, 2048)).astype(np.float32)
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=2048, feature_extractor="x") as writer:
        for k in range(1500):
            writer.add(ImageRecord(f"i{k}", "train", np.roll(block, k, axis=1), [f"a dog with {k} bones"]))
    command = [sys.executable, "-c", MEASURE, str(tiny_dataset), str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 160, f"{done.stdout} MiB"

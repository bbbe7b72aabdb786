"""The pass over the features, against a plain version; memory stays bounded."""

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


def counts_of(data: Dataset) -> np.ndarray:
    return np.concatenate([data.split(name).region_counts for name in data.manifest.splits]).astype(np.int64)


@pytest.mark.parametrize("block", [1, 3000, 8 << 20])
def test_measures_do_not_depend_on_the_blocks(tiny_dataset: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK_BYTES", block)
    data = Dataset.open(tiny_dataset)
    found = measure_features(data, counts_of(data))
    array = data.features[:].astype(np.float64)
    np.testing.assert_allclose(found.norms, np.linalg.norm(array, axis=1), rtol=1e-5)
    assert not found.bad.any() and found.signatures.shape == (40, 160)
    whole = measure_features(data, np.array([len(array)]))
    np.testing.assert_allclose(
        whole.signatures[0] * len(array),
        (found.signatures * counts_of(data)[:, None]).sum(axis=0),
        rtol=1e-3,
        atol=1e-2,
    )


def test_signatures_tell_places_and_not_orders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    things, corners = rng.normal(size=(4, 8)), rng.uniform(0, 0.5, (4, 2))
    boxes = np.concatenate([corners, corners + 0.3], axis=1).astype(np.float32)
    order = [2, 0, 3, 1]
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=8, feature_extractor="x", dtype="float32") as writer:
        for name, rows, places in (
            ("a", things, boxes),
            ("b", things[order], boxes[order]),
            ("c", things, boxes[order]),
        ):
            writer.add(ImageRecord(name, "train", rows, ["a dog"], boxes=places))
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


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
def test_memory_stays_bounded(tiny_dataset: Path, tmp_path: Path) -> None:
    """Validating 400 MB of features takes less memory than to hold them: it is run in its own process."""
    rng = np.random.default_rng(0)
    block = rng.normal(size=(36, 2048)).astype(np.float32)
    with DatasetWriter(tmp_path / "d", name="t", feature_dim=2048, feature_extractor="x") as writer:
        for k in range(2700):
            writer.add(ImageRecord(f"i{k}", "train", np.roll(block, k, axis=1), [f"a dog with {k} bones"]))
    words = [sys.executable, "-c", MEASURE, str(tiny_dataset), str(tmp_path / "d")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300, f"{done.stdout} MiB"

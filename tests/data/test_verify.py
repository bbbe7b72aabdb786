"""`verify` finds each kind of damage, and nothing in a complete data set. Its memory does not grow with the data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hire_model.data.blocks import hash_blocks
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, hash_file
from hire_model.data.verify import verify
from hire_model.data.writer import DatasetWriter, ImageRecord

BOXES = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    out = tmp_path / "data"
    with DatasetWriter(
        out, name="t", feature_dim=4, feature_extractor="x", classes=["dog"], predicates=["on"], dtype="float32"
    ) as writer:
        for k in range(4):
            writer.add(
                ImageRecord(
                    f"i{k}",
                    "dev" if k == 3 else "train",
                    rng.normal(size=(2, 4)),
                    [f"caption {k} a", f"caption {k} b"],
                    boxes=BOXES,
                    classes=np.array([0, -1]),
                    scores=np.array([0.5, np.nan], np.float32),
                    relations=[(0, 0, 1, 0.5)],
                )
            )
    return out


def update_digests(folder: Path) -> None:
    """Write the new digests of the files into the manifest, so that only their content is wrong."""
    path = folder / MANIFEST
    facts = json.loads(path.read_text("utf-8"))
    facts["files"] = {name: hash_file(folder / name).model_dump() for name in facts["files"]}
    facts["blocks"] = {FEATURES: hash_blocks(folder / FEATURES)[1].model_dump()}
    path.write_text(json.dumps(facts), "utf-8")


def set_cell(table: str, column: str, row: int, value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        columns = pq.read_table(path).to_pydict()
        columns[column][row] = value
        pq.write_table(pa.table(columns, schema=TABLES[table]), path)
        update_digests(folder)

    return apply


def flip_bit(folder: Path) -> None:
    path = folder / FEATURES
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_column(folder: Path) -> None:
    path = folder / "captions.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["caption_id"]), path)
    update_digests(folder)


def change_dtype(folder: Path) -> None:
    np.save(folder / FEATURES, np.load(folder / FEATURES).astype(np.float64))
    update_digests(folder)


def damage_parquet(folder: Path) -> None:
    (folder / "regions.parquet").write_bytes(b"PAR1")
    update_digests(folder)


def change_image_count(folder: Path) -> None:
    facts = json.loads((folder / MANIFEST).read_text("utf-8"))
    facts["splits"]["dev"]["images"] = 2
    (folder / MANIFEST).write_text(json.dumps(facts), "utf-8")


DAMAGE: list[tuple[Callable[[Path], Any], str, str]] = [
    (lambda folder: (folder / MANIFEST).unlink(), "manifest.json", "no data set here"),
    (lambda folder: (folder / FEATURES).unlink(), FEATURES, "missing"),
    (lambda folder: (folder / "images.parquet").write_bytes(b""), "images.parquet", "0 bytes. Expected"),
    (flip_bit, FEATURES, "SHA-256 differs"),
    (drop_column, "captions.parquet", "columns are ['image', 'text']"),
    (damage_parquet, "regions.parquet", "not a Parquet file"),
    (change_dtype, FEATURES, "float64 (8, 4). Expected float32 (8, 4)"),
    (change_image_count, "manifest.json", "split 'dev': the tables hold SplitCounts(images=1"),
    (set_cell("images", "image_id", 2, "i0"), "images.parquet", "white space around it: 2 of 4 rows, first row 0"),
    (set_cell("images", "image_id", 2, "i2 "), "images.parquet", "white space around it: 1 of 4 rows, first row 2"),
    (set_cell("images", "split", 2, "dev"), "manifest.json", "split 'dev': the tables hold SplitCounts(images=2"),
    (set_cell("images", "n_regions", 1, 0), "images.parquet", "an image without regions: 1 of 4 rows, first row 1"),
    (set_cell("images", "first_region", 2, 5), "images.parquet", "first_region out of order: 1 of 4 rows, first row 2"),
    (set_cell("images", "n_relations", 3, 2), "relations.parquet", "4 rows. Expected 5, as in the images table"),
    (
        set_cell("captions", "image", 3, 4),
        "captions.parquet",
        "a caption whose image does not exist: 1 of 8 rows, first row 3",
    ),
    (set_cell("captions", "text", 5, None), "captions.parquet", "no value for text: 1 of 8 rows, first row 5: None"),
    (set_cell("regions", "class_id", 6, None), "regions.parquet", "no value for class_id: 1 of 8 rows, first row 6"),
]


def test_a_complete_data_set_has_no_findings(data: Path) -> None:
    assert verify(data) == []


@pytest.mark.parametrize(("damage", "file", "message"), DAMAGE, ids=[f"{f}-{m[:40]}" for _, f, m in DAMAGE])
def test_each_kind_of_damage_is_found(data: Path, damage: Callable[[Path], Any], file: str, message: str) -> None:
    damage(data)
    findings = verify(data)
    assert any(f.file == file and message in f.message for f in findings), findings


MEASURE = """
import sys
from pathlib import Path
from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.verify import verify

source, out = Path(sys.argv[1]), Path(sys.argv[2])
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
write_dataset(open_scan(source), Target(out))
assert verify(out) == []
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the test reads the peak memory from /proc")
def test_importing_and_verifying_need_less_memory_than_the_features(tmp_path: Path) -> None:
    """The features have 190 MiB. A subprocess measures the peak memory of importing and verifying them."""
    folder = tmp_path / "in"
    folder.mkdir()
    ims = np.lib.format.open_memmap(folder / "dev_ims.npy", mode="w+", dtype=np.float16, shape=(1350, 36, 2048))
    ims[:] = np.random.default_rng(0).normal(size=(1, 36, 2048)).astype(np.float16)
    ims[:, 0, 0] = np.arange(1350)
    ims.flush()
    (folder / "dev_caps.txt").write_text("".join(f"caption {k}\n" for k in range(1350)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 150, f"{done.stdout} MiB"

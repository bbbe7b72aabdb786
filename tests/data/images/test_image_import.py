"""A folder of pictures becomes a data set; interruptions and damaged pictures do no harm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from mean_extractor import count, maker
from picture_files import DAMAGED, HEIGHT, READABLE, WIDTH, damage_pictures, encode, rotated, scene

from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.importers.base import Notes, Target
from hire_model.data.schema import Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.errors import DataError
from hire_model.workers import Workers


@dataclass
class Folder:
    """A folder of pictures with a captions file, and the log of the extractor."""

    path: Path
    lines: list[str] = field(default_factory=lambda: ["image,caption"])

    def add(self, name: str, data: bytes | None, caption: str = "a dog") -> None:
        if data is not None:
            (self.path / "pictures" / name).write_bytes(data)
        self.lines += [f"{name},{caption}", f"{name},{caption} again"]

    def add_scenes(self, first: int, last: int) -> None:
        for seed in range(first, last):
            self.add(f"{seed}.jpg", encode(scene(seed)), f"scene {seed}")

    def run(
        self, out: str = "out", overwrite: bool = False, strict: bool = False, workers: int = 1, **extractor: object
    ) -> tuple[Manifest, Notes]:
        (self.path / "captions.csv").write_text("\n".join(self.lines), "utf-8")
        job = ImageImport(self.path / "pictures", self.path / "captions.csv", strict=strict, workers=Workers(workers))
        make = maker(self.log, **extractor)  # type: ignore[arg-type]
        return import_images(job, Target(self.path / out, overwrite=overwrite), make)

    @property
    def log(self) -> Path:
        return self.path / "log"

    def images(self, out: str = "out") -> dict[str, str]:
        """Return the split of each image of the data set."""
        data = Dataset.open(self.path / out)
        splits = [data.split(name) for name in data.manifest.splits]
        return {split.image_id(i): split.name for split in splits for i in range(len(split.region_counts))}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "pictures").mkdir()
    return Folder(tmp_path)


def test_good_and_odd_pictures_are_imported_and_damaged_ones_are_listed_with_the_reason(folder: Folder) -> None:
    for number, (kind, make) in enumerate(READABLE.items()):
        folder.add(f"good {number}.jpg", make(), kind)  # the suffix is wrong for most
    for number, (make, _) in enumerate(DAMAGED.values()):
        folder.add(f"bad {number}.jpg", make())
    folder.add("missing.jpg", None)
    _, notes = folder.run()
    assert set(folder.images()) == {f"good {number}.jpg" for number in range(len(READABLE))}
    assert verify(folder.path / "out") == []
    skipped = (folder.path / "out.regions" / "skipped.tsv").read_text().splitlines()
    assert len(skipped) == len(DAMAGED) + 1
    assert "skipped 'bad 0.jpg': the file is empty" in notes.sentences()
    assert any("'missing.jpg': no such file" in line for line in notes.sentences())


def test_300_hostile_pictures_are_imported_or_listed_with_a_reason(folder: Folder) -> None:
    hostile = [make() for make, _ in DAMAGED.values()]
    hostile += damage_pictures(300 - len(hostile))
    for number, data in enumerate(hostile):
        folder.add(f"{number}.jpg", data, f"picture {number}")
    folder.run()
    skipped = [line.split("\t") for line in (folder.path / "out.regions" / "skipped.tsv").read_text().splitlines()]
    assert all(len(line) == 2 and line[1] for line in skipped) and len(skipped) > 100
    assert set(folder.images()) | {name for name, _ in skipped} == {f"{number}.jpg" for number in range(300)}
    assert verify(folder.path / "out") == []


def test_strict_refuses_a_damaged_picture_and_writes_nothing(folder: Folder) -> None:
    folder.add_scenes(0, 4)
    folder.add("bad.jpg", encode(scene(width=400, height=300))[:-3000])
    with pytest.raises(DataError, match=r"1 of 5 pictures cannot be used(.|\n)*'bad.jpg': damaged"):
        folder.run(strict=True)
    assert not (folder.path / "out").exists()


def test_a_rotated_picture_has_the_regions_and_size_of_the_upright_one(folder: Folder) -> None:
    for orientation in range(1, 9):
        folder.add(f"{orientation}.png", rotated(orientation, "PNG"))
    folder.add_scenes(1, 4)
    folder.run()
    data = Dataset.open(folder.path / "out")
    upright = [i for i, name in enumerate(data.image_ids) if name.endswith("png")]
    assert (data.image_sizes[upright] == (WIDTH, HEIGHT)).all()
    features = [data.regions(i).features for i in upright]
    assert len(features) == 8 and all(np.array_equal(features[0], other) for other in features)


def test_near_duplicates_stay_in_one_split(folder: Folder) -> None:
    for seed in range(12):
        original = scene(seed, 120, 80)
        for quality in (95, 50, 30):
            folder.add(f"{seed} {quality}.jpg", encode(original, quality=quality))
        folder.add(f"{seed} copy.jpg", encode(original, quality=95))
    _, notes = folder.run()
    splits = folder.images()
    assert set(splits.values()) == {"train", "dev", "test"}
    for seed in range(12):
        assert len({split for name, split in splits.items() if name.startswith(f"{seed} ")}) == 1
    assert any(line.startswith("36 near-duplicate pictures") for line in notes.sentences())
    assert count(folder.log) == 36  # copies are extracted once


def test_near_duplicates_in_different_given_splits_are_noted(folder: Folder) -> None:
    folder.lines = ["image,split,caption", "a.jpg,train,x", "b.jpg,test,x"]
    for name in ("a.jpg", "b.jpg"):
        (folder.path / "pictures" / name).write_bytes(encode(scene()))
    _, notes = folder.run()
    assert folder.images() == {"a.jpg": "train", "b.jpg": "test"}
    assert any("in different splits of the captions file" in line for line in notes.sentences())


def test_an_interrupted_import_continues_with_the_pictures_that_are_left(folder: Folder) -> None:
    folder.add_scenes(0, 40)
    with pytest.raises(KeyboardInterrupt):
        folder.run(fails_at=37)
    assert count(folder.log) == 37 and not (folder.path / "out").exists()
    manifest, _ = folder.run()
    assert count(folder.log) == 37 + 8  # two shards of 16 were finished
    shutil.rmtree(folder.path / "out.regions")
    assert folder.run("second")[0].digest == manifest.digest


def test_a_second_import_extracts_new_pictures_only(folder: Folder) -> None:
    folder.add_scenes(0, 5)
    folder.run()
    folder.add_scenes(5, 8)
    (folder.path / "pictures" / "0.jpg").write_bytes(encode(scene(100)))
    with pytest.raises(DataError, match="already exists"):
        folder.run()
    assert count(folder.log) == 5
    folder.run(overwrite=True)
    assert count(folder.log) == 5 + 4 and len(folder.images()) == 8
    folder.run(overwrite=True, digest="cd" * 32)  # another extractor shares nothing
    assert count(folder.log) == 9 + 8


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_damaged_shard_is_extracted_again(suffix: str, folder: Folder) -> None:
    folder.add_scenes(0, 5)
    manifest, _ = folder.run()
    (shard,) = (folder.path / "out.regions").glob(f"*/*.{suffix}")
    shard.write_bytes(shard.read_bytes()[:-20])
    assert folder.run("second")[0].digest == manifest.digest  # another folder of regions
    assert folder.run(overwrite=True)[0].digest == manifest.digest
    assert count(folder.log) == 15


def test_two_processes_give_the_same_data_set_as_one(folder: Folder) -> None:
    folder.add_scenes(0, 36)
    folder.add("bad.jpg", b"")
    one, _ = folder.run("one")
    two, notes = folder.run("two", workers=2)
    assert one.digest == two.digest and count(folder.log) == 72
    assert "skipped 'bad.jpg': the file is empty" in notes.sentences()


def remove_folder(folder: Folder) -> None:
    shutil.rmtree(folder.path / "pictures")


def remove_pictures(folder: Folder) -> None:
    remove_folder(folder)
    (folder.path / "pictures").mkdir()


def name_one_file_twice(folder: Folder) -> None:
    folder.add("other/0.jpg", None)


def put_a_file_at_out(folder: Folder) -> None:
    (folder.path / "out").write_text("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_folder, "no such folder"),
        (remove_pictures, "4 of 4 pictures cannot be used"),
        (name_one_file_twice, "are the same file 0.jpg"),
        (put_a_file_at_out, "not a data set"),
    ],
)
def test_a_wrong_folder_is_refused_before_any_extraction(
    change: Callable[[Folder], None], message: str, folder: Folder
) -> None:
    folder.add_scenes(0, 4)
    change(folder)
    with pytest.raises(DataError, match=message):
        folder.run()
    assert count(folder.log) == 0


@pytest.mark.live
def test_an_import_killed_with_kill_9_continues_and_leaves_no_process(folder: Folder) -> None:
    folder.add_scenes(0, 34)
    (folder.path / "captions.csv").write_text("\n".join(folder.lines), "utf-8")
    command = [sys.executable, "-m", "hire_model", "data", "import", "images", str(folder.path / "pictures")]
    command += ["--captions", str(folder.path / "captions.csv"), "--out", str(folder.path / "out"), "--workers", "2"]
    cache = folder.path / "out.regions"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    while not list(cache.glob("*/*.npz")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    try:
        process.communicate(timeout=60)  # the workers hold the pipe open until they end, too
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finished = list(cache.glob("*/*.npz"))
    assert len(finished) < 3 and not (folder.path / "out").exists()
    kept = sum(len(np.load(path)["digest"]) for path in finished)
    times = [path.stat().st_mtime_ns for path in finished]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.stat().st_mtime_ns for path in finished] == times
    assert f"extracting regions: {34 - kept}/{34 - kept}" in done.stderr
    assert len(folder.images()) == 34 and verify(folder.path / "out") == []

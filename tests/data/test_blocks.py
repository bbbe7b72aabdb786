"""A flipped byte of a data set is refused where it is read, and the message names file and block."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from damage import flip_byte

from hire_model.data import blocks
from hire_model.data.blocks import BlockChecker, hash_blocks
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError

ROW, IMAGES = 512, 40  # bytes of a region, images of one region
SIZE = 4096  # of a block


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of 40 images with one region each, whose features have six blocks."""
    rng, out = np.random.default_rng(0), tmp_path / "data"
    with DatasetWriter(out, name="t", feature_dim=ROW // 4, feature_extractor="x", dtype="float32") as writer:
        for i in range(IMAGES):
            writer.add(ImageRecord(f"i{i}", "dev" if i % 2 else "train", rng.normal(size=(1, ROW // 4)), ["a caption"]))
    return set_blocks(out, SIZE)


def set_blocks(folder: Path, size: int) -> Path:
    """Write the digests of blocks of `size` bytes into the manifest; none for 0."""
    found = {FEATURES: hash_blocks(folder / FEATURES, size)[1]} if size else {}
    text = Manifest.read(folder).model_copy(update={"blocks": found}).model_dump_json()
    (folder / MANIFEST).write_text(text, "utf-8")
    return folder


def count_refused_images(folder: Path) -> int:
    """Return how many images cannot be read."""
    opened, refused = Dataset.open(folder), 0
    for image in range(IMAGES):
        try:
            opened.regions(image)
        except DataError as error:
            assert FEATURES in str(error) and "block " in str(error)
            refused += 1
    return refused


def test_a_flipped_byte_is_refused_with_its_block_and_other_blocks_are_read(data: Path) -> None:
    size = (data / FEATURES).stat().st_size
    for position in (SIZE, 3 * SIZE + 7, size - 1):
        number = position // SIZE
        with flip_byte(data / FEATURES, position), pytest.raises(DataError, match=f"features.npy: block {number} "):
            [Dataset.open(data).regions(image) for image in range(IMAGES)]
        with flip_byte(data / FEATURES, position):
            assert 1 <= count_refused_images(data) <= SIZE // ROW + 1
    assert count_refused_images(data) == 0


def test_a_flipped_byte_in_the_header_is_refused_before_it_is_parsed(data: Path) -> None:
    with flip_byte(data / FEATURES, 40), pytest.raises(DataError, match="block 0 "):
        Dataset.open(data).features  # noqa: B018


@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_byte_in_a_table_is_refused_where_it_is_read(data: Path, table: str) -> None:
    opened, path = Dataset.open(data), data / f"{table}.parquet"
    with flip_byte(path, path.stat().st_size // 2), pytest.raises(DataError, match=f"{table}.parquet: its SHA-256"):
        opened._table(table, TABLES[table].names[0])


def test_each_block_is_hashed_once_and_only_if_it_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    original = BlockChecker._check_block

    def record(checker: BlockChecker, number: int, size: int) -> None:
        hashed.append(number)
        original(checker, number, size)

    monkeypatch.setattr(BlockChecker, "_check_block", record)
    opened = Dataset.open(data)
    for _ in range(2):
        opened.regions(0), opened.regions(IMAGES - 1)
    assert hashed == [0, 4, 5], "the last row is in two blocks"


def test_forked_processes_share_what_was_checked_and_others_check_themselves(data: Path) -> None:
    checker = BlockChecker(data / FEATURES, hash_blocks(data / FEATURES, SIZE)[1])
    child = multiprocessing.get_context("fork").Process(target=checker.check, args=(0, 2 * SIZE))
    child.start()
    child.join(60)
    with flip_byte(data / FEATURES, SIZE + 1):
        checker.check(0, 2 * SIZE)  # the child has checked these blocks
        with pytest.raises(DataError, match="block 1 "):
            pickle.loads(pickle.dumps(checker)).check(0, 2 * SIZE)


def test_block_digests_do_not_change_the_digest_of_a_data_set(data: Path) -> None:
    digest = Manifest.read(data).digest
    assert Manifest.read(set_blocks(data, 0)).digest == digest
    assert Manifest.read(set_blocks(data, blocks.BLOCK)).digest == digest


def test_a_data_set_without_block_digests_opens_and_says_what_is_not_checked(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_blocks(data, 0)
    with caplog.at_level(logging.WARNING), flip_byte(data / FEATURES, SIZE):
        opened = Dataset.open(data)
        opened.regions(0), opened.regions(20)
    assert [r.message.count("the content of features.npy is not checked") for r in caplog.records] == [1]


def test_changed_block_digests_are_found(data: Path) -> None:
    assert verify(data) == []
    manifest = Manifest.read(data)
    digests = manifest.blocks[FEATURES]
    for changed, opens in ((digests.sha256[::-1], True), (digests.sha256[1:], False)):
        update = {"blocks": {FEATURES: digests.model_copy(update={"sha256": changed})}}
        (data / MANIFEST).write_text(manifest.model_copy(update=update).model_dump_json(), "utf-8")
        assert ["digests of blocks of features.npy" in finding.message for finding in verify(data)] == [True]
        if opens:
            assert count_refused_images(data) == IMAGES
        else:
            with pytest.raises(DataError, match=r"5 blocks of features\.npy\. Expected 6"):
                Dataset.open(data)

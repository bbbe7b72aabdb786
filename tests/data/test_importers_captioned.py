"""Importers of layouts with a captions file: bottom-up-attention TSV and npz folders."""

from __future__ import annotations

import base64
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from damaged import make_npy_header
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.data.importers.base import Notes, Source, Target, write_dataset
from hire_model.data.importers.butd_tsv import open_butd_tsv
from hire_model.data.importers.captions import derive_image_keys, read_captions
from hire_model.data.importers.npz import open_npz
from hire_model.data.store import Dataset
from hire_model.errors import DataError

IMAGES = [
    ("COCO_val2014_000000000042.jpg", 42, "test"),
    ("COCO_val2014_000000000043.jpg", 43, "val"),
    ("COCO_train2014_000000000007.jpg", 7, "train"),
    ("COCO_val2014_000000000099.jpg", 99, "restval"),
]


def write_karpathy(path: Path) -> Path:
    images = [
        {
            "filename": name,
            "cocoid": number,
            "split": split,
            "sentences": [{"raw": f" A dog {k} of {number}.\n", "sentid": number * 10 + k} for k in range(2)],
        }
        for name, number, split in IMAGES
    ]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}), "utf-8")
    return path


def encode(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.float32)).decode()


def make_tsv_line(number: int | str, boxes: np.ndarray, features: np.ndarray) -> str:
    return "\t".join([str(number), "100", "80", str(len(boxes)), encode(boxes), encode(features)]) + "\r\n"


BOXES = np.array([[0, 0, 50, 40], [10, 10, 99, 79]], np.float32)


def make_features(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(2, 3)).astype(np.float32)


def write_tsv(path: Path, numbers: tuple[int, ...] = (99, 7, 42, 43, 1000)) -> Path:
    path.write_bytes("".join(make_tsv_line(n, BOXES, make_features(n)) for n in numbers).encode())
    return path


def import_dataset(source: Source, out: Path) -> Dataset:
    write_dataset(source, Target(out, dtype="float32", overwrite=True))
    return Dataset.open(out)


def test_image_keys_are_the_names_without_folder_and_suffix_and_the_coco_number() -> None:
    assert derive_image_keys("val2014/COCO_val2014_000000391895.jpg")[-1] == "391895"
    assert derive_image_keys("000000000139.jpg")[-1] == "139"
    assert derive_image_keys("1000268201_693b08cb0e.jpg") == ["1000268201_693b08cb0e.jpg", "1000268201_693b08cb0e"]
    assert derive_image_keys("train/12")[-1] == "12"


@pytest.mark.parametrize(("restval", "train"), [("train", 2), ("drop", 1)])
def test_tsv_features_get_captions_and_splits_from_karpathys_file(tmp_path: Path, restval: str, train: int) -> None:
    notes = Notes()
    captions = read_captions(write_karpathy(tmp_path / "dataset_coco.json"), (), restval, notes)
    data = import_dataset(open_butd_tsv([write_tsv(tmp_path / "a.tsv")], captions, notes), tmp_path / "out")
    assert {name: counts.images for name, counts in data.manifest.splits.items()} == {
        "train": train,
        "dev": 1,
        "test": 1,
    }
    split = data.split("test")
    assert split.texts == ["A dog 0 of 42.", "A dog 1 of 42."] and split.image_id(0) == IMAGES[0][0]
    np.testing.assert_array_equal(split.regions(0).features, make_features(42))
    np.testing.assert_allclose(split.regions(0).boxes * np.array([100, 80, 100, 80]), BOXES, rtol=1e-6)
    printed = "\n".join(notes.sentences())
    assert f"{3 - train} images without captions in the imported splits, skipped" in printed
    assert "1 images of split restval" in printed


def test_picture_names_are_stored_only_with_the_pictures_option(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "42.jpg").touch()
    for name, pictures, expected in (("with", tmp_path / "pictures", "42.jpg"), ("without", None, None)):
        notes = Notes()
        source = open_npz(
            folder := write_npz(tmp_path / "in"), read_captions(folder / "captions.tsv", (), "train", notes), notes
        )
        write_dataset(source, Target(tmp_path / name, pictures=pictures))
        assert pq.read_table(tmp_path / name / "images.parquet")["picture"].to_pylist() == [expected]


def test_first_limits_the_captions_of_each_image(tmp_path: Path) -> None:
    path = write_karpathy(tmp_path / "dataset_coco.json")
    layout = json.loads(path.read_text())
    layout["images"][0]["sentences"] = [{"raw": f"caption {k}"} for k in range(3)]
    layout["images"][1]["sentences"] = [{"raw": "the only one"}]
    path.write_text(json.dumps(layout))
    notes = Notes()
    found = read_captions(path, (), "train", notes, first=2)
    assert [len(image.captions) for image in found.images] == [2, 1, 2, 2]
    assert found.images[0].captions == ["caption 0", "caption 1"]
    assert [len(image.caption_ids) for image in found.images] == [2, 1, 2, 2]
    printed = "\n".join(notes.sentences())
    assert f"1 captions after the first 2 of an image, skipped (first: image '{IMAGES[0][0]}')" in printed
    assert f"1 images with fewer than 2 captions (first: image '{IMAGES[1][0]}')" in printed


def test_several_tsv_files_are_imported_and_split_selects(tmp_path: Path) -> None:
    notes = Notes()
    files = [write_tsv(tmp_path / "a.tsv", (99, 7)), write_tsv(tmp_path / "b.tsv", (42, 43))]
    path = write_karpathy(tmp_path / "dataset_coco.json")
    assert import_dataset(
        open_butd_tsv(files, read_captions(path, (), "train", notes), notes), tmp_path / "out"
    ).features.shape == (
        8,
        3,
    )
    only = read_captions(path, ["test"], "train", notes)
    assert list(import_dataset(open_butd_tsv(files[1:], only, notes), tmp_path / "test").manifest.splits) == ["test"]
    with pytest.raises(DataError, match=r"no split 'val'\. Existing splits: test, dev, train"):
        read_captions(path, ["val"], "train", notes)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_imported_npz_files_have_the_same_features_boxes_and_captions(regions: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for image in ("a.jpg", "b", "000000000139.jpg"):
            low = rng.uniform(0, 0.4, (regions, 2))
            expected[image] = (rng.normal(size=(regions, dim)), np.concatenate([low, low + 0.3], axis=1))
            np.savez(folder / f"{image}.npz", x=expected[image][0], bbox=expected[image][1], info=np.array({"a": 1}))
            rows.append(json.dumps({"image": image, "split": "dev", "caption": f"über {image}"}, ensure_ascii=False))
        (folder / "captions.jsonl").write_text("\n".join(rows), "utf-8")
        notes = Notes()
        captions = read_captions(folder / "captions.jsonl", (), "train", notes)
        split = import_dataset(open_npz(folder, captions, notes), folder / "out").split("dev")
        for index, (image, (x, boxes)) in enumerate(expected.items()):
            assert split.image_id(index) == image and split.texts[index] == f"über {image}"
            np.testing.assert_array_equal(split.regions(index).features, x.astype(np.float32))
            np.testing.assert_array_equal(split.regions(index).boxes, boxes.astype(np.float32))


def write_npz(folder: Path, **changed: Any) -> Path:
    """Write image 42 as an npz file, and its captions as a table."""
    folder.mkdir(exist_ok=True)
    arrays = {
        "features": make_features(42),
        "boxes": BOXES,
        "image_w": 100,
        "image_h": np.array([80]),
        "objects_id": np.array([0, 1]),
        "objects_conf": np.array([0.5, 1.0]),
    } | changed
    np.savez(folder / "42.npz", **{name: array for name, array in arrays.items() if array is not None})
    (folder / "captions.tsv").write_text(
        "split\timage\tcaption\ntest\t42.jpg\tein Hund\ntest\t42.jpg\ta dog\n", "utf-8"
    )
    return folder


def import_npz(folder: Path, classes: tuple[str, ...] = ("dog", "cat")) -> tuple[Dataset, str]:
    notes = Notes()
    captions = read_captions(folder / "captions.tsv", (), "train", notes)
    return import_dataset(open_npz(folder, captions, notes, classes), folder.parent / "out"), "\n".join(
        notes.sentences()
    )


def test_npz_sizes_classes_and_scores_are_imported(tmp_path: Path) -> None:
    data, _ = import_npz(write_npz(tmp_path / "in"))
    regions = data.split("test").regions(0)
    assert data.split("test").texts == ["ein Hund", "a dog"] and data.image_sizes.tolist() == [[100, 80]]
    assert regions.classes.tolist() == [0, 1] and regions.scores.tolist() == [0.5, 1.0]
    data, notes = import_npz(tmp_path / "in", ())
    assert data.split("test").regions(0).classes.tolist() == [-1, -1] and "class ids were ignored" in notes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": None}, r"42\.npz: no features. Expected one of .*; the file has boxes"),
        ({"features": np.zeros((2, 3), int)}, r"42\.npz: features: dtype int64"),
        ({"features": np.zeros((2, 3, 1))}, r"42\.npz: features: shape \[2, 3, 1\]"),
        ({"features": np.full((2, 3), np.nan)}, r"42\.npz, region 0: a feature is NaN"),
        ({"features": np.zeros((2, 3))}, r"42\.npz: all features are zero"),
        ({"boxes": BOXES[:1]}, r"42\.npz: boxes: shape \[1, 4\]. Expected \[2, 4\]"),
        ({"boxes": BOXES * 3}, r"42\.npz, region 0: box .* is outside the image of 100 x 80"),
        ({"image_w": None}, r"42\.npz: the boxes are in pixels, but width and height"),
        ({"image_w": 0}, r"42\.npz: width or height is 0"),
        ({"image_w": np.inf}, r"42\.npz: width or height is inf. Expected one number of pixels, 1 to 2147483647"),
        ({"image_h": np.nan}, r"42\.npz: width or height is nan"),
        ({"image_h": 2**31}, r"42\.npz: width or height is 2147483648"),
        ({"objects_id": np.array([0, 2])}, r"42\.npz: classes, region 1: class 2. Expected -1 \(unknown\) or 0 to 1"),
        ({"objects_conf": np.array([0, 2.0])}, r"42\.npz: scores, region 1: score 2"),
        ({"features": np.array([{}])}, r"42\.npz: not a valid npz file"),
    ],
)
def test_a_wrong_npz_array_is_a_data_error(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_npz(write_npz(tmp_path / "in", **changed))


def test_a_truncated_missing_or_duplicate_npz_file_is_a_data_error(tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "in")
    content = (folder / "42.npz").read_bytes()
    (folder / "42.npz").write_bytes(content[:200])
    with pytest.raises(DataError, match=r"42\.npz: not a valid npz file"):
        import_npz(folder)
    (folder / "42.jpg.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"42\.npz: same image as 42\.jpg\.npz"):
        import_npz(folder)
    with (folder / "captions.tsv").open("a") as file:
        file.write("test\t43.jpg\ta cat\n")
    (folder / "42.jpg.npz").unlink()
    with pytest.raises(DataError, match=r"no features for 1 of 2 images .*\('43\.jpg'\)"):
        import_npz(folder)
    (folder / "42.npz").unlink()
    with pytest.raises(DataError, match=r"no npz file belongs to an image in"):
        import_npz(folder)


def test_an_npy_file_named_npz_is_a_data_error(tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "in")
    with (folder / "42.npz").open("wb") as file:
        np.save(file, make_features(42))
    with pytest.raises(DataError, match=r"42\.npz: an npy file with one array. Expected .*numpy\.savez"):
        import_npz(folder)


@pytest.mark.parametrize("shape", ["(2, 3", "(100000000000000000000, 3)", "(9999999999999, 3)"])
def test_a_damaged_array_header_in_an_npz_file_is_a_data_error(tmp_path: Path, shape: str) -> None:
    folder = write_npz(tmp_path / "in")
    with zipfile.ZipFile(folder / "42.npz", "w") as archive:
        archive.writestr("features.npy", make_npy_header(shape) + make_features(42).tobytes())
    with pytest.raises(DataError, match=r"42\.npz: not a valid npz file \(.+\). Copy or extract it again"):
        import_npz(folder)


def make_faulty_tsv(column: int, value: str) -> str:
    cells = make_tsv_line(7, BOXES, make_features(7)).rstrip().split("\t")
    cells[column] = value
    return make_tsv_line(42, BOXES, make_features(42)) + "\t".join(cells) + "\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.tsv: no lines"),
        (
            make_tsv_line(42, BOXES, make_features(42)) + "7\t100\t80\n",
            r"a\.tsv: line 2 has 3 columns. Expected 6: image_id",
        ),
        (make_faulty_tsv(1, "wide"), r"a\.tsv: line 2: field 'image_w' is b'wide'. Expected a whole number from 1"),
        (
            make_faulty_tsv(2, "2147483648"),
            r"line 2: field 'image_h' is b'2147483648'. Expected .* from 1 to 2147483647",
        ),
        (make_faulty_tsv(3, "0"), r"a\.tsv: line 2: field 'num_boxes' is b'0'"),
        (
            make_faulty_tsv(4, encode(BOXES[:1])),
            r"line 2: field 'boxes' holds 16 bytes. Expected 32 \(2 boxes x 4 x 4\)",
        ),
        (make_faulty_tsv(5, encode(make_features(7))[:-5]), r"line 2: field 'features' is not base64"),
        (
            make_faulty_tsv(5, encode(make_features(7)[:, :2])),
            r"line 2: field 'features' holds 16 bytes. Expected 24 \(2 boxes x 3",
        ),
        (make_faulty_tsv(5, encode(make_features(7) * np.nan)), r"line 2, region 0: a feature is NaN or infinite"),
        (make_faulty_tsv(4, encode(BOXES[:, [2, 3, 0, 1]])), r"line 2, region 0: box \(50, 40, 0, 0\) has no area"),
        (make_faulty_tsv(4, encode(BOXES * 2)), r"line 2, region 1: box .* is outside the image of 100 x 80"),
        (make_tsv_line(42, BOXES, make_features(42)) * 2, r"line 2: image_id '42' is already at .*line 1"),
        (
            make_tsv_line(42, BOXES, make_features(42)),
            r"a\.tsv: no features for 3 of 4 images with captions in .*COCO_val2014_000000000043",
        ),
    ],
)
def test_a_wrong_tsv_line_is_a_data_error_that_leaves_no_data_set(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content.encode())
    notes = Notes()
    captions = read_captions(write_karpathy(tmp_path / "dataset_coco.json"), (), "train", notes)
    with pytest.raises(DataError, match=message):
        import_dataset(open_butd_tsv([tmp_path / "a.tsv"], captions, notes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def change_image(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["images"][1].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("images"), r"not in Karpathy's layout. Expected an object with a list 'images'"),
        (
            change_image(filename=None),
            r"images\[1\]: field 'filename' is missing or has the wrong type. Expected a non-empty",
        ),
        (change_image(split=""), r"images\[1\]: field 'split' is missing"),
        (change_image(sentences=[]), r"images\[1\]: image 'COCO_val2014_000000000043.jpg' has no sentence"),
        (change_image(sentences=[{"raw": " \n"}]), r"images\[1\]\.sentences\[0\]: the caption is empty"),
        (change_image(sentences=[{"tokens": []}]), r"images\[1\]\.sentences\[0\]: field 'raw' is missing"),
        (change_image(cocoid=42), r"images .* share the name '42'"),
        (
            change_image(sentences=[{"raw": "b'a dog'"}]),
            r"images\[1\]\.sentences\[0\] is b'a dog'.*printed form of Python bytes",
        ),
        (
            change_image(sentences=[{"raw": "a \ud83d"}]),
            r"coco\.json: images\[1\]\.sentences\[0\]\.raw: half a character",
        ),
        (
            change_image(sentences=[{"raw": "a", "sentid": 70}, {"raw": "b", "sentid": "421"}]),
            r"images\[1\]\.sentences\[1\]: caption id '421' is already used at .*: images\[0\]\.sentences\[1\]",
        ),
        (
            change_image(sentences=[{"raw": "a", "sentid": 5}, {"raw": "b", "sentid": 5}]),
            r"sentences\[1\]: caption id '5' is already used at .*: images\[1\]\.sentences\[0\]",
        ),
    ],
)
def test_a_fault_in_karpathys_file_is_a_data_error(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = write_karpathy(tmp_path / "dataset_coco.json")
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError, match=message):
        read_captions(path, (), "train", Notes())


def make_jsonl_line(caption: str) -> bytes:
    return json.dumps({"image": "x", "split": "dev", "caption": caption}).encode() + b"\n"


def test_escaped_surrogate_pairs_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(make_jsonl_line("a dog \U0001f415") + make_jsonl_line("not an escape: \\ud83d"))
    assert b"\\ud83d\\udc15" in path.read_bytes()
    found = read_captions(path, (), "train", Notes()).images[0].captions
    assert found == ["a dog \U0001f415", "not an escape: \\ud83d"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", r"a\.json: not JSON"),
        ("a.json", b"[" * 100_000, r"a\.json: lists or objects nested too deeply"),
        ("a.json", b"9" * 5000, r"a\.json: not JSON"),
        ("a.json", b'{"images": ["\xed\xa0\xbd"]}', r"a\.json: not JSON .*utf-8"),
        ("a.jsonl", make_jsonl_line("hi \ud83d"), r"a\.jsonl: line 1: caption: half a character"),
        ("a.jsonl", make_jsonl_line("b'a dog'"), r"a\.jsonl: line 1 is b'a dog'.*printed form of Python bytes"),
        ("a.tsv", b'image\tsplit\tcaption\nx\tdev\tb"a dog\'s"\n', r"a\.tsv: line 2 is b\"a dog's\".*Python bytes"),
        ("a.csv", b"x", r"a\.csv: unknown type of captions file"),
        ("a.jsonl", b'{"image": "x"}\n', r"a\.jsonl: line 1: field 'split' is missing"),
        ("a.jsonl", b"[]\nno\n", r"a\.jsonl: line 1: field 'image' is missing"),
        ("a.tsv", b"image\tcaption\nx\ty\n", r"a\.tsv: line 1 has no column split"),
        ("a.tsv", b"image\tsplit\tcaption\nx\ty\n", r"a\.tsv: line 2 has 2 columns. Expected 3"),
        ("a.tsv", b"image\tsplit\tcaption\nx\tdev\ty\nx\ttest\ty\n", r"line 3: image 'x' is in split 'test' here"),
        ("a.tsv", b"image\tsplit\tcaption\nx\tdev\t \n", r"line 2: the caption is empty"),
        ("a.tsv", b"image\tsplit\tcaption\n", r"a\.tsv: no images"),
        ("a.json", b'{"images": []}', r"a\.json: no images"),
    ],
)
def test_a_fault_in_a_captions_file_is_a_data_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / name, (), "train", Notes())

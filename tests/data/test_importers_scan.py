"""The SCAN importer: files and data set hold the same content, and each fault has its message."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged import make_npy_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hire_model.data.importers.base import Target, write_dataset
from hire_model.data.importers.scan import open_scan
from hire_model.data.store import Dataset
from hire_model.data.verify import verify
from hire_model.errors import DataError

# Only a line feed ends a caption: U+2028, U+0085, vertical tab and similar characters are part of it.
CAPTION = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), min_size=1, max_size=30)
    .filter(str.strip)
    .filter(lambda text: not text.strip().startswith(("b'", 'b"')))
)


def write_lines(path: Path, texts: list[str]) -> None:
    path.write_bytes("".join(f"{text}\n" for text in texts).encode())


def write_scan(
    folder: Path, split: str = "train", images: int = 3, regions: int = 4, per: int = 5, dim: int = 6
) -> Path:
    """Write a correct folder with every file of the layout."""
    rng = np.random.default_rng(len(split))
    folder.mkdir(exist_ok=True)
    low = rng.uniform(0, 40, (images, regions, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 40, (images, regions, 2))], axis=2)
    for name, array in {
        "ims": rng.normal(size=(images, regions, dim)).astype(np.float16),
        "boxes": boxes.astype(np.float32),
        "sizes": np.tile(np.array([100, 80], np.int32), (images, 1)),
        "classes": rng.integers(-1, 3, (images, regions)).astype(np.int16),
        "scores": rng.uniform(size=(images, regions)).astype(np.float32),
        "n_regions": np.full(images, regions, np.int32),
    }.items():
        np.save(folder / f"{split}_{name}.npy", array)
    write_lines(folder / f"{split}_caps.txt", [f"caption {k} of {split}" for k in range(images * per)])
    write_lines(folder / f"{split}_ids.txt", [str(k // per) for k in range(images * per)])
    write_lines(folder / f"{split}_names.txt", [f"{split}_{k}.jpg" for k in range(images)])
    write_lines(folder / f"{split}_relations.jsonl", ["[[0, 1, 2, 0.5], [1, 0, 3]]"] * images)
    write_lines(folder / "classes.txt", ["dog", "cat", "hat"])
    write_lines(folder / "predicates.txt", ["wears", "on"])
    return folder


def import_scan(folder: Path, out: Path, **options: Any) -> tuple[Dataset, str]:
    source = open_scan(folder, **options)
    write_dataset(source, Target(out, dtype="float32", overwrite=True))
    return Dataset.open(out), "\n".join(source.notes.sentences())


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    images, regions, dim = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    counts = rng.integers(1, regions + 1, images)
    owner = np.concatenate([np.arange(images), rng.integers(0, images, draw(st.integers(0, 6)))])
    features = rng.normal(size=(images, regions, dim)).astype(draw(st.sampled_from([np.float16, np.float32])))
    captions = draw(st.lists(CAPTION, min_size=len(owner), max_size=len(owner)))
    return {"features": features, "counts": counts, "owner": rng.permutation(owner), "captions": captions}


@given(folders())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_assignment_and_any_unicode_captions_are_imported_unchanged(made: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "dev_ims.npy", made["features"])
        np.save(folder / "dev_n_regions.npy", made["counts"])
        write_lines(folder / "dev_caps.txt", made["captions"])
        write_lines(folder / "dev_ids.txt", [str(i) for i in made["owner"]])
        split = import_scan(folder, folder / "out", captions_per_image="ids")[0].split("dev")
        for image, count in enumerate(made["counts"]):
            np.testing.assert_array_equal(split.regions(image).features, made["features"][image, :count])
            mine = [t for t, o in zip(made["captions"], made["owner"], strict=True) if o == image]
            assert [t for t, o in zip(split.texts, split.owner, strict=True) if o == image] == mine


def test_every_optional_file_is_imported(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    write_scan(folder, "test", images=2)
    data, notes = import_scan(folder, tmp_path / "out")
    assert list(data.manifest.splits) == ["train", "test"]
    assert data.manifest.classes == ("dog", "cat", "hat") and data.manifest.predicates == ("wears", "on")
    split, regions = data.split("test"), data.split("test").regions(1)
    assert [split.image_id(i) for i in range(2)] == ["test_0.jpg", "test_1.jpg"]
    scale = np.array([100, 80, 100, 80])
    np.testing.assert_allclose(regions.boxes * scale, np.load(folder / "test_boxes.npy")[1], rtol=1e-6)
    np.testing.assert_array_equal(regions.classes, np.load(folder / "test_classes.npy")[1])
    np.testing.assert_array_equal(regions.scores, np.load(folder / "test_scores.npy")[1])
    assert regions.relations.tolist() == [[0, 1, 2], [1, 0, 3]] and regions.relation_scores.tolist() == [0.5, 1.0]
    assert data.image_sizes.tolist() == [[100, 80]] * 5
    assert "boxes are in pixels" in notes and "one row number per caption" in notes


def test_features_and_captions_are_enough(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    for path in folder.iterdir():
        if path.name not in ("train_ims.npy", "train_caps.txt"):
            path.unlink()
    data, notes = import_scan(folder, tmp_path / "out")
    split = data.split("train")
    assert split.owner.tolist() == [0] * 5 + [1] * 5 + [2] * 5 and split.image_id(2) == "train/2"
    assert np.isnan(split.regions(0).boxes).all() and "5 captions per image" in notes


def test_splits_selects_splits(tmp_path: Path) -> None:
    write_scan(write_scan(tmp_path / "in"), "dev")
    assert list(import_scan(tmp_path / "in", tmp_path / "out", splits=["dev"])[0].manifest.splits) == ["dev"]
    with pytest.raises(DataError, match=r"no split 'val'\. Existing splits: train, dev"):
        open_scan(tmp_path / "in", splits=["val"])


def test_images_repeated_per_caption_are_kept_once(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in", images=2)
    plain = import_scan(folder, tmp_path / "plain")[0].split("train")
    for name in ("ims", "boxes", "sizes", "classes", "scores", "n_regions"):
        path = folder / f"train_{name}.npy"
        np.save(path, np.repeat(np.load(path), 5, axis=0))
    write_lines(folder / "train_names.txt", [f"train_{k // 5}.jpg" for k in range(10)])
    write_lines(folder / "train_relations.jsonl", ["[[0, 1, 2, 0.5], [1, 0, 3]]"] * 10)
    data, notes = import_scan(folder, tmp_path / "out")
    split = data.split("train")
    assert "each image is repeated 5 times" in notes
    assert split.texts == plain.texts and split.owner.tolist() == plain.owner.tolist()
    for image in range(2):
        np.testing.assert_array_equal(split.regions(image).features, plain.regions(image).features)
        np.testing.assert_array_equal(split.regions(image).boxes, plain.regions(image).boxes)


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["90", "91", "92"], ["train/90", "train/91", "train/92"]),  # one per image
        ([str(90 + k // 5) for k in range(15)], ["train/90", "train/91", "train/92"]),  # one per caption
        ([str(900 + k) for k in range(15)], ["train/0", "train/1", "train/2"]),  # ids of captions
    ],
)
def test_ids_that_are_not_row_numbers_are_names_of_images_or_captions(
    tmp_path: Path, ids: list[str], names: list[str]
) -> None:
    folder = write_scan(tmp_path / "in")
    (folder / "train_names.txt").unlink()
    write_lines(folder / "train_ids.txt", ids)
    split = import_scan(folder, tmp_path / "out")[0].split("train")
    assert [split.image_id(i) for i in range(3)] == names
    assert split.owner.tolist() == [k // 5 for k in range(15)]


def test_zero_rows_at_the_end_are_padding(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    (folder / "train_n_regions.npy").unlink()
    write_lines(folder / "train_relations.jsonl", ["[]"] * 3)
    features = np.load(folder / "train_ims.npy")
    features[1, 2:] = 0
    np.save(folder / "train_ims.npy", features)
    data, notes = import_scan(folder, tmp_path / "out")
    assert data.split("train").region_counts.tolist() == [4, 2, 4]
    assert "1 images with all-zero rows at the end, treated as padding" in notes


def test_windows_line_ends_and_byte_order_mark_are_removed(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    path = folder / "train_caps.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    data, notes = import_scan(folder, tmp_path / "out")
    assert data.split("train").texts[0] == "caption 0 of train" and data.split("train").texts[-1].endswith("train")
    assert "byte order mark" in notes and "15 lines end in CR LF" in notes


def test_a_small_overhang_is_clipped_and_counted(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    boxes = np.load(folder / "train_boxes.npy")
    boxes[2, 1] = (-1, 5, 101, 80)
    np.save(folder / "train_boxes.npy", boxes)
    data, notes = import_scan(folder, tmp_path / "out")
    np.testing.assert_allclose(data.split("train").regions(2).boxes[1], (0, 5 / 80, 1, 1))
    assert "1 boxes that exceeded the image" in notes and "row 2" in notes


def test_boxes_can_be_fractions_and_can_be_missing(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    (folder / "train_sizes.npy").unlink()
    boxes = np.load(folder / "train_boxes.npy") / 100
    boxes[0, 0] = np.nan
    np.save(folder / "train_boxes.npy", boxes)
    data, _ = import_scan(folder, tmp_path / "out")
    np.testing.assert_allclose(data.split("train").regions(0).boxes, boxes[0])


def test_pictures_are_found_in_the_subfolder_of_the_split(tmp_path: Path) -> None:
    folder = write_scan(write_scan(tmp_path / "in"), "dev")
    for split in ("train", "dev"):
        subfolder = tmp_path / "pictures" / f"images_{split}"
        subfolder.mkdir(parents=True)
        for k in range(3):
            (subfolder / f"{split}_{k}.jpg").touch()
    (tmp_path / "pictures" / "images_train" / "dev_0.jpg").touch()
    source = open_scan(folder)
    write_dataset(source, Target(tmp_path / "out", pictures=tmp_path / "pictures"))
    picture = Dataset.open(tmp_path / "out").split("dev").picture(0)
    assert picture and picture.resolve().parent.name == "images_dev"
    with pytest.raises(DataError, match="no picture found for any of 6 images"):
        write_dataset(open_scan(folder), Target(tmp_path / "other", pictures=folder))
    assert not (tmp_path / "other").exists()


def edit_array(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        array = np.load(folder / f"train_{name}.npy")
        changed = change(array)
        np.save(folder / f"train_{name}.npy", array if changed is None else changed)

    return apply


def edit_text(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return apply


def assign(where: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[where] = value

    return change


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (edit_text("train_ims.npy", lambda data: data[:-9]), r"train_ims\.npy: not a valid npy file"),
    (edit_text("train_ims.npy", b""), r"train_ims\.npy: not a valid npy file"),
    (edit_text("train_ims.npy", b"hello there"), r"train_ims\.npy: not a valid npy file"),
    *(
        (
            edit_text("train_ims.npy", make_npy_header(shape) + bytes(4 * 144)),
            r"train_ims\.npy: not a valid npy file \(.+\). Expected f",
        )
        for shape in ("((3, 2, 4)", "(100000000000000000000, 2, 4)", "(True, 2, 4)", "(-3, 2, 4)")
    ),
    (edit_array("ims", lambda a: a.astype(object)), r"train_ims\.npy: not a valid npy file"),
    (edit_array("ims", lambda a: a[0]), r"shape \[4, 6\]. Expected \[any, any, any\], features"),
    (edit_array("ims", lambda a: a[:0]), r"train_ims\.npy: shape \[0, 4, 6\]. Expected no size to be 0"),
    (edit_array("ims", lambda a: (a * 9).astype(np.int8)), r"dtype int8. Expected floating point .*quantised"),
    (edit_array("ims", assign((1, 2, 0), np.nan)), r"train_ims\.npy: row 1, region 2: a feature is NaN or infinite"),
    (edit_array("ims", assign((0, 0, 0), np.inf)), r"train_ims\.npy: row 0, region 0: a feature is NaN or infinite"),
    (
        edit_array("ims", assign((1, 2), 0)),
        r"row 1, region 2: all features are zero, but the image should have 4 regions",
    ),
    (edit_array("n_regions", assign(2, 0)), r"train_n_regions\.npy: row 2 is 0. Expected 1 to 4"),
    (edit_array("n_regions", assign(2, 5)), r"train_n_regions\.npy: row 2 is 5. Expected 1 to 4"),
    (edit_array("boxes", lambda a: a[:, :, :3]), r"train_boxes\.npy: shape \[3, 4, 3\]. Expected \[3, 4, 4\]"),
    (
        edit_array("boxes", assign((1, 3), (10, 10, 120, 20))),
        r"boxes\.npy: row 1, region 3: box .* is outside the image of 100 x 80",
    ),
    (
        edit_array("boxes", assign((1, 3), (-9, 10, 12, 20))),
        r"boxes\.npy: row 1, region 3: box .* is outside the image",
    ),
    (edit_array("boxes", assign((1, 3, 0), np.nan)), r"boxes\.npy: row 1, region 3: box \(nan"),
    (
        edit_array("boxes", assign((1, 3), (30, 10, 20, 20))),
        r"region 3: box \(30, 10, 20, 20\) has no area. Expected x1 < x2",
    ),
    (edit_array("sizes", assign(1, (0, 5))), r"train_sizes\.npy: row 1 is \[0, 5\]"),
    (
        edit_array("sizes", lambda a: a + 2.0**31),
        r"train_sizes\.npy: row 0 is \[2147483748.0, .*pixels, 1 to 2147483647",
    ),
    (edit_array("sizes", lambda a: a * np.inf), r"train_sizes\.npy: row 0 is \[inf, inf\]"),
    (lambda folder: (folder / "train_sizes.npy").unlink(), r"in pixels, but train_sizes\.npy is missing"),
    (
        edit_array("classes", assign((0, 1), 3)),
        r"train_classes\.npy: row 0, region 1: class 3. Expected -1 .* or 0 to 2",
    ),
    (edit_array("scores", assign((0, 1), 1.5)), r"train_scores\.npy: row 0, region 1: score 1.5. Expected 0 to 1"),
    (edit_array("scores", lambda a: a[:2]), r"train_scores\.npy: shape \[2, 4\]. Expected \[3, 4\]"),
    (
        edit_text("train_caps.txt", lambda d: d.replace(b"caption 3", b"\xff\xfe")),
        r"train_caps\.txt: line 4 is not UTF-8",
    ),
    (
        edit_text("train_caps.txt", lambda d: d.replace(b"caption 3 of train", b"")),
        r"train_caps\.txt: line 4 of 15 is empty",
    ),
    (edit_text("train_caps.txt", lambda d: d.replace(b"caption 3 of train", b" \t")), r"line 4 of 15 is empty"),
    (edit_text("train_caps.txt", lambda d: d + b"\n"), r"train_caps\.txt: line 16 of 16 is empty"),
    (edit_text("train_caps.txt", b""), r"train_caps\.txt: the file is empty"),
    (lambda folder: (folder / "train_caps.txt").unlink(), r"train_caps\.txt: cannot be read: No such file"),
    (
        edit_text("train_caps.txt", lambda d: d.replace(b"caption 3 of train", b"b'a dog'")),
        r"line 4 is b'a dog'.*decoded",
    ),
    (edit_text("train_caps.txt", lambda d: d.replace(b"caption 3 of train", b'b"a dog"')), r"line 4 is b\"a dog\""),
    (
        edit_text("train_caps.txt", lambda d: d + b"one more\n"),
        r"16 captions for 3 images of train_ims.*captions-per-image ids",
    ),
    (edit_text("train_ids.txt", b"0\n1\n2\n3\n"), r"train_ids\.txt: 4 lines. Expected 3 .* or 15"),
    (edit_text("train_ids.txt", b"7\n7\n8\n"), r"train_ids\.txt: id '7' on line 2 is already on line 1"),
    (edit_text("train_ids.txt", b"9\n" * 14 + b"8\n"), r"train_ids\.txt: 15 ids, .*neither row numbers"),
    (edit_text("train_ids.txt", b"0\n" * 14 + b"2\n"), r"train_ids\.txt: image row 1 has no caption \(1 of 3"),
    (
        edit_text("train_names.txt", b"a.jpg\nb.jpg\na.jpg\n"),
        r"train_names\.txt: name 'a.jpg' on line 3 is already on line 1",
    ),
    (edit_text("train_names.txt", b"a.jpg\nb.jpg\n"), r"train_names\.txt: 2 lines. Expected 3"),
    (edit_text("train_relations.jsonl", b"[]\n[]\n"), r"train_relations\.jsonl: 2 lines. Expected 3"),
    (edit_text("train_relations.jsonl", b"[]\n[[0,\n[]\n"), r"train_relations\.jsonl: line 2: not JSON"),
    (
        edit_text("train_relations.jsonl", b"[]\n" + b"[" * 100_000 + b"\n[]\n"),
        r"line 2: lists or objects nested too deeply",
    ),
    (edit_text("train_relations.jsonl", b'[]\n[[0, "\\ud83d", 1]]\n[]\n'), r"line 2: \[0\]\[1\]: half a character"),
    (edit_text("train_relations.jsonl", b"[]\n{}\n[]\n"), r"line 2: \{\}. Expected a list of"),
    (edit_text("train_relations.jsonl", b"[]\n[[0, 1]]\n[]\n"), r"line 2, relation 0: \[0, 1\]. Expected \[subject"),
    (edit_text("train_relations.jsonl", b"[]\n[[0, 1, 4]]\n[]\n"), r"line 2, relation 0: region 4. Expected 0 to 3"),
    (edit_text("train_relations.jsonl", b"[]\n[[0, 1, true]]\n[]\n"), r"line 2, relation 0: region True"),
    (
        edit_text("train_relations.jsonl", b"[]\n[[2, 1, 2]]\n[]\n"),
        r"line 2, relation 0: region 2 is related to itself",
    ),
    (edit_text("train_relations.jsonl", b"[]\n[[0, 2, 1]]\n[]\n"), r"unknown predicate 2. Expected 0 to 1"),
    (edit_text("train_relations.jsonl", b'[]\n[[0, "eats", 1]]\n[]\n'), r"unknown predicate 'eats'"),
    (
        edit_text("train_relations.jsonl", b"[]\n[[0, 1, 2, 7]]\n[]\n"),
        r"relation 0: score 7. Expected a number from 0 to 1",
    ),
    (edit_text("classes.txt", b"dog\ncat\ndog\n"), r"classes\.txt: name 'dog' on line 3 is already on line 1"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[message[:50] for _, message in FAULTS])
def test_each_fault_has_its_message_and_leaves_no_data_set(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_scan(tmp_path / "in")
    damage(folder)
    with pytest.raises(DataError, match=f"(?s){message}"):
        import_scan(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"], "an incomplete data set was left"


@pytest.mark.parametrize("highest", [99_999, 100_000, 5_000_000])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "classes.txt",
            r"train_classes\.npy: row 2, region 1: class {}. Expected 0 to 99999 if classes\.txt is missing",
        ),
        (
            "predicates.txt",
            r"train_relations\.jsonl: line 2: predicate {}. Expected .* missing. Write .*predicates\.txt",
        ),
    ],
)
def test_ids_without_names_have_a_limit(tmp_path: Path, names: str, message: str, highest: int) -> None:
    folder = write_scan(tmp_path / "in")
    (folder / names).unlink()
    classes = np.load(folder / "train_classes.npy").astype(np.int64)
    classes[2, 1] = highest if names == "classes.txt" else 0
    np.save(folder / "train_classes.npy", classes)
    write_lines(
        folder / "train_relations.jsonl", ["[]", f"[[0, {highest if names == 'predicates.txt' else 0}, 1]]", "[]"]
    )
    if highest < 100_000:
        source = open_scan(folder)
        assert len(source.classes if names == "classes.txt" else source.predicates) == highest + 1
        return
    with pytest.raises(DataError, match=message.format(highest)):
        open_scan(folder)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("ids", r"line 1 is '90', but train_ims.npy has no such row"),
        ("3", r"15 captions for 3 images of train_ims.npy. Expected 9 \(3 per image\)"),
        ("0", r"expected auto, ids or a number from 1"),
        ("five", r"expected auto, ids or a number from 1"),
    ],
)
def test_captions_per_image_that_does_not_fit_is_refused(tmp_path: Path, rule: str, message: str) -> None:
    folder = write_scan(tmp_path / "in")
    write_lines(folder / "train_ids.txt", [str(90 + k // 5) for k in range(15)])
    with pytest.raises(DataError, match=message):
        open_scan(folder, captions_per_image=rule)


def test_a_missing_folder_and_one_without_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_scan(tmp_path / "none")
    np.save(tmp_path / "dev_ims_int8.npy", np.zeros((1, 1, 1), np.int8))
    with pytest.raises(DataError, match=r"dev_ims_int8\.npy is quantised"):
        open_scan(tmp_path)


def test_splits_with_different_feature_sizes_or_a_common_id_are_refused(tmp_path: Path) -> None:
    folder = write_scan(write_scan(tmp_path / "in"), "dev", dim=5)
    with pytest.raises(DataError, match=r"feature sizes differ between splits: train_ims.npy 6, dev_ims.npy 5"):
        open_scan(folder)
    write_scan(folder, "dev")
    write_lines(folder / "dev_names.txt", ["x.jpg", "train_1.jpg", "y.jpg"])
    with pytest.raises(DataError, match=r"image 'train_1.jpg': this id was already written"):
        import_scan(folder, tmp_path / "out")


def test_real_photographs_are_imported_unchanged(shared_data: Path, tmp_path: Path) -> None:
    """Compare the imported dev split of flickr8k_mini, converted as its README describes, with its files."""
    real, folder = shared_data / "flickr8k_mini", tmp_path / "in"
    folder.mkdir()
    quantised = np.load(real / "dev_ims_int8.npy", mmap_mode="r")[:8]
    features = (quantised.astype(np.float32) * np.load(real / "feature_scale.npy")).astype(np.float16)
    names = (real / "dev_ids.txt").read_text("utf-8").split("\n")[:8]
    captions = (real / "dev_caps.txt").read_text("utf-8").split("\n")[:40]
    np.save(folder / "dev_ims.npy", features)
    np.save(folder / "dev_boxes.npy", np.load(real / "dev_boxes.npy")[:8])
    np.save(folder / "dev_sizes.npy", np.load(real / "dev_image_wh.npy")[:8])
    write_lines(folder / "dev_names.txt", names)
    write_lines(folder / "dev_caps.txt", captions)
    write_dataset(open_scan(folder), Target(tmp_path / "out", pictures=real))
    split = Dataset.open(tmp_path / "out").split("dev")
    assert split.texts == captions and json.dumps([split.image_id(i) for i in range(8)]) == json.dumps(names)
    np.testing.assert_array_equal(split.regions(7).features, features[7])
    picture = split.picture(3)
    assert picture and picture.name == names[3] and picture.parent.name == "images_dev"


def test_features_too_large_for_float16_need_dtype_float32(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    np.save(folder / "train_ims.npy", np.load(folder / "train_ims.npy").astype(np.float32) * 1e6)
    with pytest.raises(DataError, match=r"image 'train_0\.jpg', region 0: .*float16 \(use --dtype float32\)"):
        write_dataset(open_scan(folder), Target(tmp_path / "out"))
    assert import_scan(folder, tmp_path / "out")[0].manifest.feature_dtype == "float32"


def test_column_major_features_are_imported(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "in")
    features = np.load(folder / "train_ims.npy")
    np.save(folder / "train_ims.npy", np.asfortranarray(features))
    split = import_scan(folder, tmp_path / "out")[0].split("train")
    np.testing.assert_array_equal(split.regions(2).features, features[2])


def test_codraw_is_imported_as_documented(shared_data: Path, tmp_path: Path) -> None:
    """Run the commands of docs/data.md on the first 30 scenes; their number of captions varies."""
    codraw = str(shared_data / "codraw")
    commands = [
        ["make_codraw.py", "--jsonl", f"val={codraw}/val.jsonl", "--codebook", codraw, "--out", ".", "--limit", "30"],
        ["codraw_relations.py", "--dir", ".", "--split", "val"],
    ]
    for script, *arguments in commands:
        subprocess.run(
            [sys.executable, shared_data / script, *arguments], cwd=tmp_path, check=True, capture_output=True
        )
    data, _ = import_scan(tmp_path, tmp_path / "out")
    split = data.split("val")
    assert len(split.images) == 30 and len(set(np.bincount(split.owner).tolist())) > 1
    assert len(data.manifest.classes) == 58 and data.manifest.predicates[0] == "wears"
    expected = [json.loads(line) for line in (tmp_path / "val_relations.jsonl").read_text("utf-8").splitlines()]
    imported = [split.regions(i).relations.tolist() for i in range(30)]
    assert imported == [[row[:3] for row in rows] for rows in expected] and sum(map(len, imported)) > 30
    assert verify(tmp_path / "out") == []

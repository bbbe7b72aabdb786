"""Captions files of every layout give the same pictures and captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hire_model.cli.imports import CaptionsFormat
from hire_model.data.images.captions import FORMATS, read_picture_captions, recognise_format
from hire_model.data.importers.base import Notes
from hire_model.errors import DataError

ROWS = [("a.jpg", "train", "a dog, running"), ("a.jpg", "train", "a brown dog"), ("b.jpg", "val", 'a "red" house')]
PICTURES = [("a.jpg", "train", ["a dog, running", "a brown dog"]), ("b.jpg", "dev", ['a "red" house'])]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def write_csv(path: Path) -> None:
    path.write_text("image,split,caption\r\n" + "".join(f"{n},{s},{quoted(c)}\r\n" for n, s, c in ROWS), "utf-8-sig")


def write_tsv(path: Path) -> None:
    path.write_text("filename\ttext\tsplit\n" + "".join(f"{n}\t{c}\t{s}\n" for n, s, c in ROWS), "utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"file_name": n, "split": s, "text": c}) + "\n" for n, s, c in ROWS), "utf-8")


def write_karpathy(path: Path) -> None:
    sentences = [{"raw": caption} for _, _, caption in ROWS]
    images = [
        {"filename": "a.jpg", "split": "train", "sentences": sentences[:2]},
        {"filename": "b.jpg", "split": "val", "sentences": sentences[2:]},
    ]
    path.write_text(json.dumps({"dataset": "x", "images": images}), "utf-8")


def write_coco(path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "bare.jpg"}]
    notes = [{"id": 10 + k, "image_id": 1 + (n == "b.jpg"), "caption": c} for k, (n, _, c) in enumerate(ROWS)]
    path.write_text(json.dumps({"images": images, "annotations": notes}, indent=1), "utf-8")


def write_token(path: Path) -> None:
    path.write_text("".join(f"{n}#{k}\t{c}\n" for k, (n, _, c) in enumerate(ROWS)), "utf-8")


WRITERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "csv": (write_csv, "captions.csv"),
    "tsv": (write_tsv, "captions.txt"),
    "jsonl": (write_jsonl, "captions.json"),
    "karpathy": (write_karpathy, "dataset.json"),
    "coco": (write_coco, "captions_val2014.json"),
    "token": (write_token, "results.token"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_layout_is_recognised_from_its_content_and_read(kind: str, tmp_path: Path) -> None:
    write, name = WRITERS[kind]
    write(tmp_path / name)
    assert recognise_format(tmp_path / name) == kind
    images = read_picture_captions(tmp_path / name, "auto", Notes())
    with_splits = kind not in ("coco", "token")
    assert [(image.image_id, image.split, image.captions) for image in images] == [
        (name, split if with_splits else "", captions) for name, split, captions in PICTURES
    ]
    assert len({i for image in images for i in image.caption_ids}) == 3


def test_the_command_offers_each_layout() -> None:
    assert {kind.value for kind in CaptionsFormat} == {"auto", *FORMATS}


def test_an_imagefolder_takes_its_splits_from_its_folders(tmp_path: Path) -> None:
    for split, name in (("train", "a.jpg"), ("validation", "b.jpg")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\n{name},a dog\n", "utf-8")
    images = read_picture_captions(tmp_path, "auto", Notes())
    assert [(image.image_id, image.split) for image in images] == [
        ("train/a.jpg", "train"),
        ("validation/b.jpg", "dev"),
    ]


def test_an_imagefolder_without_folders_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.jpg,a dog\n", "utf-8")
    for path in (tmp_path, tmp_path / "metadata.csv"):
        assert [image.split for image in read_picture_captions(path, "auto", Notes())] == [""]


def test_the_named_format_overrides_the_recognised_one(tmp_path: Path) -> None:
    path = tmp_path / "captions"
    path.write_text('{"image": "a.jpg", "caption": "the words \\"images\\" and \\"annotations\\""}\n', "utf-8")
    assert read_picture_captions(path, "jsonl", Notes())[0].image_id == "a.jpg"
    with pytest.raises(DataError, match="line 1"):
        read_picture_captions(path, "token", Notes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "was not recognised"),
        ("a,b\n1,2\n", "was not recognised"),
        ("image,caption\n", "no captions in it"),
        ("image,caption\na.jpg\n", "line 2 has 1 columns"),
        ("image,caption\na.jpg,  \n", "line 2: the caption is empty"),
        ("image,caption\n,a dog\n", "line 2: the picture or the caption is missing"),
        ('image,caption\na.jpg,"a dog\n', "not CSV"),
        ("image,caption\na.jpg,b'a dog'\n", "printed form of Python bytes"),
        ("image,split,caption\na.jpg,train,x\na.jpg,dev,x\n", "in split 'dev' here and in 'train' above"),
        ("image,split,caption\na.jpg,train,x\nb.jpg,,x\n", "'b.jpg' has no split"),
        ('{"image": "a.jpg", "caption": 7}\n', "line 1: the picture or the caption is missing or no text"),
        ('{"image": "a.jpg", "caption": "x"}\n[]\n', "line 2: not a JSON object"),
        ("a.jpg#0\ta dog\nb.jpg\n", "line 2: 'b.jpg'"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\]"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', r"annotations\[0\]"),
    ],
)
def test_a_fault_in_the_captions_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "captions"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        read_picture_captions(path, "auto", Notes())

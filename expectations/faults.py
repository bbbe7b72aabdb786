"""Faults of every kind, planted one by one in a sound data set: is each one found, and where?

    python -m expectations.faults [--out docs/validation-faults.md]

draws 40 relational scenes, plants each fault in a copy of them, validates it, and writes the table.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from expectations.check import Check, Severity, validate
from expectations.planting import Plant, both, caption_copy, cell, cells, columns, features, file, image_copy, manifest
from hire_model.data.schema import FEATURES
from hire_model.files import write_text
from hire_model.progress import show_progress

NAN, INF = float("nan"), float("inf")
GERMAN = "Ein Mann mit Hut steht neben einem roten Stuhl"
CHINESE = "一个戴帽子的男人站在椅子旁边 red chair here"


@dataclass(frozen=True)
class Fault:
    """What is wrong, in words; the suite that must find it, words that its message must have, and how severe it is."""

    what: str
    suite: str
    words: str
    plant: Plant
    severity: Severity = "error"


def _whole(what: str, words: str, plant: Plant) -> Fault:
    return Fault(what, "manifest", words, plant)


MANIFEST_FAULTS = [
    _whole("features.npy is missing", "missing", lambda folder: (folder / FEATURES).unlink()),
    _whole("features.npy is cut off", "bytes", file(FEATURES, lambda b: b[:-1000], signed=False)),
    _whole("one bit of a feature is flipped", "SHA-256", file(FEATURES, lambda b: b[:-1] + bytes([b[-1] ^ 1]), False)),
    _whole("captions.parquet is from another version", "bytes", file("captions.parquet", lambda b: b + b"x", False)),
    _whole("regions.parquet is no Parquet file", "not a Parquet", file("regions.parquet", lambda b: b"PAR1")),
    _whole("a column is missing", "columns are", columns("captions", lambda t: t.drop_columns(["caption_id"]))),
    _whole(
        "a column has another type",
        "columns are",
        columns("captions", lambda t: t.set_column(1, "image", t["image"].cast(pa.int32()))),
    ),
    _whole("a caption is null", "no value for text", cell("captions", 5, "text", None)),
    _whole("a class is null", "no value for class_id", cell("regions", 6, "class_id", None)),
    _whole("features are float32, not float16", "float32 (", features(lambda a: a.astype(np.float32), None)),
    _whole("features are one number narrower", "expected float16", features(lambda a: a[:, 1:], None)),
    _whole("features are one row short", "expected float16", features(lambda a: a[1:], None)),
    _whole("features.npy is no npy file", "not a whole npy", file(FEATURES, lambda b: b"0" * len(b))),
    _whole("two images have the same id", "image_id empty, repeated", cells("images", [0, 3], image_id="same")),
    _whole("an image has no id", "image_id empty, repeated", cell("images", 2, "image_id", "")),
    _whole("an image's id ends in a space", "white space", cell("images", 2, "image_id", "train-2 ")),
    _whole("two classes have the same name", "classes: 2 names", manifest(lambda m: {"classes": ["dog", *m.classes]})),
    _whole("a predicate has no name", "predicates: 1 names", manifest(lambda m: {"predicates": ["", *m.predicates]})),
    _whole("an image has no regions", "without regions", cell("images", 1, "n_regions", 0)),
    _whole("an image begins at a wrong region", "first_region out of", cell("images", 2, "first_region", 5)),
    _whole("an image begins at a wrong relation", "first_relation out", cell("images", 9, "first_relation", 0)),
    _whole("a caption points beyond the images", "image is not there", cell("captions", 3, "image", 40)),
    _whole("a caption points before the images", "image is not there", cell("captions", 3, "image", -1)),
    _whole("the manifest counts other splits", "the tables hold", columns("images", lambda t: _other_split(t))),
]
CAPTION_FAULTS = [
    Fault("a caption is empty", "captions", "has letters", cell("captions", 5, "text", " ")),
    Fault("a caption is punctuation", "captions", "has letters", cell("captions", 7, "text", "... 3")),
    Fault("a caption has no id", "captions", "has an id", cell("captions", 8, "caption_id", "")),
    Fault("a caption's id ends in a space", "captions", "white space", cell("captions", 8, "caption_id", "x ")),
    Fault("a caption's id ends in a line break", "captions", "white space", cell("captions", 8, "caption_id", "x\n")),
    Fault("a caption holds a NUL", "captions", "control character", cell("captions", 8, "text", "a dog\0s"), "warning"),
    Fault("two captions have the same id", "captions", "same id", cells("captions", [4, 9], caption_id="c")),
    Fault("a caption of one word", "captions", "3 to 90", cell("captions", 6, "text", "dog"), "warning"),
    Fault("a caption of 100 words", "captions", "3 to 90", cell("captions", 6, "text", "a dog " * 50), "warning"),
    Fault("a caption of 400 words", "captions", "no page", cell("captions", 6, "text", "a dog " * 200)),
    Fault(
        "UTF-8 read as Latin-1",
        "captions",
        "wrong encoding",
        cell("captions", 11, "text", "a cafÃ© by the sea"),
        "warning",
    ),
    Fault(
        "a lost character",
        "captions",
        "wrong encoding",
        cell("captions", 12, "text", "a caf\ufffd by the sea"),
        "warning",
    ),
    Fault(
        "5 % of the file read in a wrong encoding",
        "captions",
        "less than 1 %",
        cells("captions", range(20, 30), text=lambda text: f"{text} â€œlikeâ€\x9d"),
    ),
    Fault(
        "markup in a caption", "captions", "markup", cell("captions", 13, "text", "a <b>dog</b> on a table"), "warning"
    ),
    Fault(
        "a line break in a caption",
        "captions",
        "line break",
        cell("captions", 13, "text", "a dog\non a bed"),
        "warning",
    ),
    Fault("a caption in another script", "captions", "Latin", cell("captions", 14, "text", CHINESE), "warning"),
    Fault(
        "a fifth of the captions in German", "captions", "are English", cells("captions", range(30, 70), text=GERMAN)
    ),
    Fault(
        "an image has a caption twice",
        "captions",
        "twice",
        cells("captions", [15, 17], text="a dog on a bed"),
        "warning",
    ),
    Fault(
        "two images share a caption",
        "captions",
        "two images",
        cells("captions", [15, 22], text="a dog in bed"),
        "warning",
    ),
    Fault(
        "a caption of train stands in test",
        "captions",
        "word for word",
        cells("captions", [3, 190], text="a dog in bed"),
        "warning",
    ),
    Fault(
        "a caption of train stands in test, with other case and punctuation",
        "captions",
        "but for case",
        both(cell("captions", 3, "text", "A dog is in the bed!"), cell("captions", 190, "text", "a dog is in bed")),
        "warning",
    ),
    Fault(
        "the captions of test are those of train",
        "captions",
        "copied to another",
        caption_copy(),
    ),
]
IMAGE_FAULTS = [
    Fault("an image has an empty split", "images", "belongs to a split", cells("images", [4], split=" ")),
    Fault("an image has no caption", "images", "has a caption", cells("captions", range(10, 15), report=2, image=1)),
    Fault(
        "an image has 30 captions",
        "images",
        "at most 20",
        cells("captions", range(5, 30), report=0, image=0),
        "warning",
    ),
    Fault("a negative width", "images", "width", cell("images", 4, "width", -320)),
    Fault("a height of 2 million pixels", "images", "height", cell("images", 4, "height", 2_000_000)),
    Fault("a picture is lost", "images", "is there", cell("images", 6, "picture", "gone.png"), "warning"),
]
REGION_FAULTS = [
    Fault("a feature is NaN", "regions", "finite", features(lambda a: _put(a, 6, 3, NAN), 6)),
    Fault("a feature is infinite", "regions", "finite", features(lambda a: _put(a, 9, 0, INF), 9)),
    Fault("a region's features are all zero", "regions", "all zero", features(lambda a: _times(a, 7, 0), 7)),
    Fault("a feature is 100 times too long", "regions", "factor of 10", features(lambda a: _times(a, 8, 100), 8)),
    Fault("a feature is 100 times too short", "regions", "factor of 10", features(lambda a: _times(a, 8, 0.01), 8)),
    Fault(
        "the test split was not normalised as train was",
        "regions",
        "factor of 10",
        features(lambda a: np.concatenate([a[:-50], a[-50:] * 20]), None),
    ),
    Fault("a box lacks one number", "regions", "all of its four", cell("regions", 3, "y2", NAN)),
    Fault("a box has an infinite number", "regions", "all of its four", cell("regions", 3, "x2", INF)),
    Fault("x1 is negative", "regions", "x1 is inside", cell("regions", 3, "x1", -0.01)),
    Fault("y1 is negative", "regions", "y1 is inside", cell("regions", 3, "y1", -0.01)),
    Fault("x2 is in pixels", "regions", "x2 is inside", cell("regions", 3, "x2", 112.0)),
    Fault("y2 is in pixels", "regions", "y2 is inside", cell("regions", 3, "y2", 112.0)),
    Fault("a box without width", "regions", "has a width", cells("regions", [3], x1=0.5, x2=0.5)),
    Fault("a box stands on its head", "regions", "has a height", cells("regions", [3], y1=0.7, y2=0.2)),
    Fault("a class beyond the vocabulary", "regions", "vocabulary", cell("regions", 5, "class_id", 24)),
    Fault("a class of -2", "regions", "vocabulary", cell("regions", 5, "class_id", -2)),
    Fault("a detection's score above 1", "regions", "score", cell("regions", 4, "score", 1.1)),
    Fault("a detection's score in per cent", "regions", "score", cell("regions", 4, "score", 87.0)),
    Fault("a detection's score below 0", "regions", "score", cell("regions", 4, "score", -0.1)),
]
RELATION_FAULTS = [
    Fault("a subject of -1", "relations", "subject is a region", cell("relations", 1, "subject", -1)),
    Fault("a subject beyond the regions", "relations", "subject is one", cell("relations", 1, "subject", 99)),
    Fault("an object of -1", "relations", "object is a region", cell("relations", 1, "object", -1)),
    Fault("an object beyond the regions", "relations", "object is one", cell("relations", 1, "object", 99)),
    Fault("a region related to itself", "relations", "itself", cells("relations", [2], subject=1, object=1)),
    Fault("an unknown predicate", "relations", "vocabulary", cell("relations", 1, "predicate", 99)),
    Fault("a predicate of -1", "relations", "vocabulary", cell("relations", 1, "predicate", -1)),
    Fault("a relation without a score", "relations", "has a score", cell("relations", 1, "score", NAN)),
    Fault("a relation's score above 1", "relations", "0-1", cell("relations", 1, "score", 2.0)),
    Fault(
        "a relation told twice",
        "relations",
        "told twice",
        cells("relations", [0, 1], subject=0, predicate=1, object=1),
        "warning",
    ),
]
SPLIT_FAULTS = [
    Fault("two splits share a picture", "splits", "picture", cells("images", [1, 39], picture="dev-000000.png")),
    Fault("an image of train is in test too", "splits", "has the regions", image_copy(0, shuffled=False)),
    Fault(
        "the same with noise of 1 %, its regions in another order",
        "splits",
        "has the regions",
        image_copy(0.01, shuffled=True),
    ),
    Fault(
        "an image of train is in test too, without its boxes",
        "splits",
        "most of its features",
        image_copy(0, shuffled=False, box=lambda _: NAN),
    ),
    Fault(
        "an image of train is in test too, with the boxes of a crop, its regions in another order",
        "splits",
        "most of its features",
        image_copy(0, shuffled=True, box=lambda value: 0.9 * value),
    ),
    Fault(
        "an image of train is in test too, but for one region",
        "splits",
        "most of its features",
        image_copy(0, shuffled=False, new_regions=1),
    ),
    Fault(
        "an image of test is close to one of train", "splits", "close to", image_copy(0.03, shuffled=True), "warning"
    ),
]
FAULTS = [*MANIFEST_FAULTS, *CAPTION_FAULTS, *IMAGE_FAULTS, *REGION_FAULTS, *RELATION_FAULTS, *SPLIT_FAULTS]


def _put(array: np.ndarray, row: int, column: int, value: float) -> None:
    array[row, column] = value


def _times(array: np.ndarray, row: int, factor: float) -> None:
    array[row] *= factor


def _other_split(table: pa.Table) -> pa.Table:
    return table.set_column(1, "split", pa.array(["dev", *table["split"].to_pylist()[1:]]))


def copy(dataset: Path, out: Path) -> Path:
    """A copy of a data set to plant a fault in; the pictures are linked."""
    shutil.copytree(dataset, out, ignore=shutil.ignore_patterns("pictures"))
    (out / "pictures").symlink_to(dataset / "pictures")
    return out


def find(fault: Fault, dataset: Path) -> Check | None:
    """Plant `fault` in `dataset`, validate it, and return the check that found it, at its row; None if none did."""
    row = fault.plant(dataset)
    for check in validate(dataset).failed(fault.severity):
        at = row is None or f"row {row}:" in check.message
        if check.table == fault.suite and fault.words in check.message and at:
            return check
    return None


def main() -> None:
    """Write the table of planted faults."""
    from hire_model.data.synthetic import generate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/validation-faults.md"))
    out, rows, missed = parser.parse_args().out, [], 0
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "sound"
        generate(sound, train=24, dev=8, test=8, seed=0)
        for number, fault in enumerate(show_progress(FAULTS, "faults")):
            planted = copy(sound, Path(scratch) / str(number))
            found = find(fault, planted)
            missed += found is None
            message = found.message.split("; ", 1)[-1].replace("|", "\\|").replace("\n", " ") if found else "**missed**"
            message = message.replace(f"{planted}/", "")  # no path of one machine in a document
            rows.append(f"| {number + 1} | {fault.what} | {fault.suite} | {fault.severity} | {message} |")
    head = [
        "# Planted faults",
        "",
        "Written by `python -m expectations.faults`: each fault was planted in a copy of 40 relational scenes, with",
        f"the manifest's digests written anew. {len(FAULTS)} kinds, {missed} missed. Rows count from 0.",
        "",
        "| | Fault | Suite | Severity | Found as |",
        "|---|---|---|---|---|",
    ]
    write_text("\n".join([*head, *rows, ""]), out)
    print(f"{out}: {len(FAULTS)} kinds, {missed} missed")


if __name__ == "__main__":
    main()

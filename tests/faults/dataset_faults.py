"""The faults that validation must find, each planted alone in a valid data set.

    python tests/faults/dataset_faults.py [--out docs/validation-faults.md]

The command generates 40 relational scenes, plants each fault in a copy, validates the copy, and writes a table. The
suite `meaning` needs more images: it gets 300 scenes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from fault import Fault
from meaning_faults import MEANING_FAULTS, MEANING_SCENES
from planting import (
    Plant,
    change_columns,
    change_features,
    change_file,
    change_manifest,
    copy_captions,
    copy_image,
    plant_both,
    set_cell,
    set_cells,
)

from expectations import check, suites
from expectations.results import ExpectationResult
from hire_model.data.schema import FEATURES
from hire_model.files import write_text
from hire_model.progress import show_progress

_READ_SUITE = suites.read_suite  # `find_fault` replaces it
NAN, INF = float("nan"), float("inf")
GERMAN = "Ein Mann mit Hut steht neben einem roten Stuhl"
CHINESE = "一个戴帽子的男人站在椅子旁边 red chair here"


def _manifest_fault(name: str, message: str, plant: Plant) -> Fault:
    return Fault(name, "manifest", message, plant)


MANIFEST_FAULTS = [
    _manifest_fault("features.npy is missing", "missing", lambda folder: (folder / FEATURES).unlink()),
    _manifest_fault("features.npy is truncated", "bytes", change_file(FEATURES, lambda b: b[:-1000], signed=False)),
    _manifest_fault(
        "one bit of a feature is flipped",
        "SHA-256",
        change_file(FEATURES, lambda b: b[:-1] + bytes([b[-1] ^ 1]), False),
    ),
    _manifest_fault(
        "captions.parquet is from another version", "bytes", change_file("captions.parquet", lambda b: b + b"x", False)
    ),
    _manifest_fault(
        "regions.parquet is not a Parquet file", "not a Parquet", change_file("regions.parquet", lambda b: b"PAR1")
    ),
    _manifest_fault(
        "a column is missing", "columns are", change_columns("captions", lambda t: t.drop_columns(["caption_id"]))
    ),
    _manifest_fault(
        "a column has another type",
        "columns are",
        change_columns("captions", lambda t: t.set_column(1, "image", t["image"].cast(pa.int32()))),
    ),
    _manifest_fault("a caption is null", "no value for text", set_cell("captions", 5, "text", None)),
    _manifest_fault("a class is null", "no value for class_id", set_cell("regions", 6, "class_id", None)),
    _manifest_fault(
        "features are float32, not float16", "float32 (", change_features(lambda a: a.astype(np.float32), None)
    ),
    _manifest_fault("features are one number narrower", "Expected float16", change_features(lambda a: a[:, 1:], None)),
    _manifest_fault("features are one row short", "Expected float16", change_features(lambda a: a[1:], None)),
    _manifest_fault(
        "features.npy is not a npy file", "not a valid npy", change_file(FEATURES, lambda b: b"0" * len(b))
    ),
    _manifest_fault(
        "two images have the same id", "image_id empty, repeated", set_cells("images", [0, 3], image_id="same")
    ),
    _manifest_fault("an image has no id", "image_id empty, repeated", set_cell("images", 2, "image_id", "")),
    _manifest_fault("an image's id ends in a space", "white space", set_cell("images", 2, "image_id", "train-2 ")),
    _manifest_fault(
        "two classes have the same name",
        "classes: 2 names",
        change_manifest(lambda m: {"classes": ["dog", *m.classes]}),
    ),
    _manifest_fault(
        "a predicate has no name", "predicates: 1 names", change_manifest(lambda m: {"predicates": ("", *m.predicates)})
    ),
    _manifest_fault("an image has no regions", "without regions", set_cell("images", 1, "n_regions", 0)),
    _manifest_fault(
        "an image starts at a wrong region", "first_region out of", set_cell("images", 2, "first_region", 5)
    ),
    _manifest_fault(
        "an image starts at a wrong relation", "first_relation out", set_cell("images", 9, "first_relation", 0)
    ),
    _manifest_fault(
        "a caption refers to an image after the last", "image does not exist", set_cell("captions", 3, "image", 40)
    ),
    _manifest_fault("a caption refers to image -1", "image does not exist", set_cell("captions", 3, "image", -1)),
    _manifest_fault(
        "the manifest's counts of the splits are wrong",
        "the tables hold",
        change_columns("images", lambda t: _change_split(t)),
    ),
]
CAPTION_FAULTS = [
    Fault("a caption is empty", "captions", "has letters", set_cell("captions", 5, "text", " ")),
    Fault("a caption has no letters", "captions", "has letters", set_cell("captions", 7, "text", "... 3")),
    Fault("a caption has no id", "captions", "has an id", set_cell("captions", 8, "caption_id", "")),
    Fault("a caption's id ends in a space", "captions", "white space", set_cell("captions", 8, "caption_id", "x ")),
    Fault(
        "a caption's id ends in a line break", "captions", "white space", set_cell("captions", 8, "caption_id", "x\n")
    ),
    Fault(
        "a caption contains a NUL",
        "captions",
        "control character",
        set_cell("captions", 8, "text", "a dog\0s"),
        "warning",
    ),
    Fault("two captions have the same id", "captions", "same id", set_cells("captions", [4, 9], caption_id="c")),
    Fault("a caption has one word", "captions", "3 to 90", set_cell("captions", 6, "text", "dog"), "warning"),
    Fault("a caption has 100 words", "captions", "3 to 90", set_cell("captions", 6, "text", "a dog " * 50), "warning"),
    Fault("a caption has 400 words", "captions", "at most 150 words", set_cell("captions", 6, "text", "a dog " * 200)),
    Fault(
        "a caption is UTF-8 decoded as Latin-1",
        "captions",
        "wrong encoding",
        set_cell("captions", 11, "text", "a cafÃ© by the sea"),
        "warning",
    ),
    Fault(
        "a caption has a replacement character",
        "captions",
        "wrong encoding",
        set_cell("captions", 12, "text", "a caf\ufffd by the sea"),
        "warning",
    ),
    Fault(
        "5 % of the captions are decoded with a wrong encoding",
        "captions",
        "less than 1 %",
        set_cells("captions", range(20, 30), text=lambda text: f"{text} â€œlikeâ€\x9d"),
    ),
    Fault(
        "a caption contains markup",
        "captions",
        "markup",
        set_cell("captions", 13, "text", "a <b>dog</b> on a table"),
        "warning",
    ),
    Fault(
        "a caption contains a line break",
        "captions",
        "line break",
        set_cell("captions", 13, "text", "a dog\non a bed"),
        "warning",
    ),
    Fault("a caption is in another script", "captions", "Latin", set_cell("captions", 14, "text", CHINESE), "warning"),
    Fault(
        "a fifth of the captions are in German",
        "captions",
        "are English",
        set_cells("captions", range(30, 70), text=GERMAN),
    ),
    Fault(
        "an image has the same caption twice",
        "captions",
        "twice",
        set_cells("captions", [15, 17], text="a dog on a bed"),
        "warning",
    ),
    Fault(
        "two images have the same caption",
        "captions",
        "two images",
        set_cells("captions", [15, 22], text="a dog in bed"),
        "warning",
    ),
    Fault(
        "a caption of train is in test too",
        "captions",
        "unchanged",
        set_cells("captions", [3, 190], text="a dog in bed"),
        "warning",
    ),
    Fault(
        "a caption of train is in test too, with other case and punctuation",
        "captions",
        "ignoring case",
        plant_both(
            set_cell("captions", 3, "text", "A dog is in the bed!"),
            set_cell("captions", 190, "text", "a dog is in bed"),
        ),
        "warning",
    ),
    Fault(
        "more than half of the captions of test are copied from train",
        "captions",
        "copied to another",
        copy_captions(),
    ),
    *(
        Fault(
            f"a caption contains {name}",
            "captions",
            message,
            set_cell("captions", 8, "text", f"a dog{character} on a bed"),
            "warning",
        )
        for name, character, message in (
            ("a control character of Latin-1", "\x85", "control character"),
            ("a zero-width space", "\u200b", "invisible"),
            ("a byte order mark", "\ufeff", "invisible"),
            ("a right-to-left override", "\u202e", "invisible"),
        )
    ),
    Fault(
        "every training caption is the same",
        "captions",
        "different captions",
        set_cells("captions", range(120), text="a man wears a hat"),
    ),
    Fault(
        "a caption contains the id of its image",
        "captions",
        "contains the id",
        set_cell("captions", 3, "text", "a dog in train-000000"),
        "warning",
    ),
    Fault(
        "2 % of the captions contain the id of their image",
        "captions",
        "give their images away",
        set_cells("captions", range(4), text=lambda text: f"train-000000: {text}"),
    ),
]
IMAGE_FAULTS = [
    Fault("an image has an empty split", "images", "belongs to a split", set_cells("images", [4], split=" ")),
    Fault(
        "an image has no caption", "images", "has a caption", set_cells("captions", range(10, 15), report=2, image=1)
    ),
    Fault(
        "an image has 30 captions",
        "images",
        "at most 20",
        set_cells("captions", range(5, 30), report=0, image=0),
        "warning",
    ),
    Fault("a width is negative", "images", "width", set_cell("images", 4, "width", -320)),
    Fault("a height is 2 million pixels", "images", "height", set_cell("images", 4, "height", 2_000_000)),
    Fault("a picture is missing", "images", "exists", set_cell("images", 6, "picture", "gone.png"), "warning"),
]
REGION_FAULTS = [
    Fault("a feature is NaN", "regions", "finite", change_features(lambda a: _set_value(a, 6, 3, NAN), 6)),
    Fault("a feature is infinite", "regions", "finite", change_features(lambda a: _set_value(a, 9, 0, INF), 9)),
    Fault("a region's features are all zero", "regions", "all zero", change_features(lambda a: _scale_row(a, 7, 0), 7)),
    Fault(
        "a region's features are 100 times too large",
        "regions",
        "factor of 10",
        change_features(lambda a: _scale_row(a, 8, 100), 8),
    ),
    Fault(
        "a region's features are 100 times too small",
        "regions",
        "factor of 10",
        change_features(lambda a: _scale_row(a, 8, 0.01), 8),
    ),
    Fault(
        "the test split is not normalised like train",
        "regions",
        "factor of 10",
        change_features(lambda a: np.concatenate([a[:-50], a[-50:] * 20]), None),
    ),
    Fault("a number of a box is missing", "regions", "all of its four", set_cell("regions", 3, "y2", NAN)),
    Fault("a number of a box is infinite", "regions", "all of its four", set_cell("regions", 3, "x2", INF)),
    Fault("x1 is negative", "regions", "x1 is inside", set_cell("regions", 3, "x1", -0.01)),
    Fault("y1 is negative", "regions", "y1 is inside", set_cell("regions", 3, "y1", -0.01)),
    Fault("x2 is in pixels", "regions", "x2 is inside", set_cell("regions", 3, "x2", 112.0)),
    Fault("y2 is in pixels", "regions", "y2 is inside", set_cell("regions", 3, "y2", 112.0)),
    Fault("a box has no width", "regions", "has a width", set_cells("regions", [3], x1=0.5, x2=0.5)),
    Fault("a box has y1 greater than y2", "regions", "has a height", set_cells("regions", [3], y1=0.7, y2=0.2)),
    Fault("a class is not in the vocabulary", "regions", "vocabulary", set_cell("regions", 5, "class_id", 24)),
    Fault("a class is -2", "regions", "vocabulary", set_cell("regions", 5, "class_id", -2)),
    Fault("a detection's score is above 1", "regions", "score", set_cell("regions", 4, "score", 1.1)),
    Fault("a detection's score is a percentage", "regions", "score", set_cell("regions", 4, "score", 87.0)),
    Fault("a detection's score is below 0", "regions", "score", set_cell("regions", 4, "score", -0.1)),
]
RELATION_FAULTS = [
    Fault("a subject is -1", "relations", "subject is a region", set_cell("relations", 1, "subject", -1)),
    Fault(
        "a subject is not a region of the image", "relations", "subject is one", set_cell("relations", 1, "subject", 99)
    ),
    Fault("an object is -1", "relations", "object is a region", set_cell("relations", 1, "object", -1)),
    Fault(
        "an object is not a region of the image", "relations", "object is one", set_cell("relations", 1, "object", 99)
    ),
    Fault("a region is related to itself", "relations", "itself", set_cells("relations", [2], subject=1, object=1)),
    Fault("a predicate is not in the vocabulary", "relations", "vocabulary", set_cell("relations", 1, "predicate", 99)),
    Fault("a predicate is -1", "relations", "vocabulary", set_cell("relations", 1, "predicate", -1)),
    Fault("a relation has no score", "relations", "has a score", set_cell("relations", 1, "score", NAN)),
    Fault("a relation's score is above 1", "relations", "0-1", set_cell("relations", 1, "score", 2.0)),
    Fault(
        "an image has the same relation twice",
        "relations",
        "same relation twice",
        set_cells("relations", [0, 1], subject=0, predicate=1, object=1),
        "warning",
    ),
]
SPLIT_FAULTS = [
    Fault("two splits share a picture", "splits", "picture", set_cells("images", [1, 39], picture="dev-000000.png")),
    Fault("an image of train is in test too", "splits", "has the regions", copy_image(0, shuffled=False)),
    Fault(
        "an image of train is in test too, with 1 % noise and its regions in another order",
        "splits",
        "has the regions",
        copy_image(0.01, shuffled=True),
    ),
    Fault(
        "an image of train is in test too, without its boxes",
        "splits",
        "most of its features",
        copy_image(0, shuffled=False, box=lambda _: NAN),
    ),
    Fault(
        "an image of train is in test too, with the boxes of a crop, its regions in another order",
        "splits",
        "most of its features",
        copy_image(0, shuffled=True, box=lambda value: 0.9 * value),
    ),
    Fault(
        "an image of train is in test too, except for one region",
        "splits",
        "most of its features",
        copy_image(0, shuffled=False, new_regions=1),
    ),
    Fault(
        "an image of train is in test too, scaled by 1.001, with the boxes of a crop",
        "splits",
        "another split in most regions",
        copy_image(0, shuffled=True, box=lambda value: 0.9 * value, scale=1.001),
    ),
    Fault(
        "an image of train is in test too, with 3 % noise and the boxes of a crop",
        "splits",
        "another split in most regions",
        copy_image(0.03, shuffled=True, box=lambda value: 0.9 * value),
    ),
    Fault(
        "an image is twice in train",
        "splits",
        "another image of its split",
        copy_image(0, shuffled=False, into="train"),
        "warning",
    ),
    Fault(
        "an image of test is close to one of train", "splits", "close to", copy_image(0.03, shuffled=True), "warning"
    ),
]
FAULTS = [
    *MANIFEST_FAULTS,
    *CAPTION_FAULTS,
    *IMAGE_FAULTS,
    *REGION_FAULTS,
    *RELATION_FAULTS,
    *SPLIT_FAULTS,
    *MEANING_FAULTS,
]


def _set_value(array: np.ndarray, row: int, column: int, value: float) -> None:
    array[row, column] = value


def _scale_row(array: np.ndarray, row: int, factor: float) -> None:
    array[row] *= factor


def _change_split(table: pa.Table) -> pa.Table:
    return table.set_column(1, "split", pa.array(["dev", *table["split"].to_pylist()[1:]]))


def copy_dataset(dataset: Path, out: Path) -> Path:
    """Copy a data set, so that a fault can be planted in it; the pictures are linked."""
    shutil.copytree(dataset, out, ignore=shutil.ignore_patterns("pictures"))
    (out / "pictures").symlink_to(dataset / "pictures")
    return out


def find_fault(fault: Fault, dataset: Path) -> ExpectationResult | None:
    """Plant `fault` in `dataset`, validate it, and return the result that reports it at its row, or None.

    Only the suite `manifest` and expectations that can report the fault are checked: each takes 35 ms.
    """
    row = fault.plant(dataset)
    with (
        patch.object(check, "SUITE_NAMES", tuple(dict.fromkeys(("manifest", fault.suite)))),
        patch.object(suites, "read_suite", lambda path: _read_part(path, fault)),
    ):
        failed = check.validate(dataset).failed(fault.severity)
    for result in failed:
        names_row = row is None or f"row {row}:" in result.message
        if result.table == fault.suite and fault.message in result.message and names_row:
            return result
    return None


def _read_part(path: Path, fault: Fault) -> dict[str, Any]:
    """Read a suite; of the fault's suite only the expectations of its severity, and of its message if one has it."""
    suite = _READ_SUITE(path)
    if path.stem == fault.suite:
        severity = "critical" if fault.severity == "error" else "warning"
        able = [item for item in suite["expectations"] if item["severity"] == severity]
        suite["expectations"] = [item for item in able if fault.message in item["description"]] or able
    return suite


def main() -> None:
    """Write the table of planted faults."""
    from hire_model.data.synthetic import generate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/validation-faults.md"))
    out, rows, missed = parser.parse_args().out, [], 0
    with tempfile.TemporaryDirectory() as scratch:
        valid, large = Path(scratch) / "valid", Path(scratch) / "large"
        generate(valid, train=24, dev=8, test=8, seed=0)
        generate(large, **MEANING_SCENES)
        for number, fault in enumerate(show_progress(FAULTS, "faults")):
            planted = copy_dataset(large if fault.suite == "meaning" else valid, Path(scratch) / str(number))
            result = find_fault(fault, planted)
            missed += result is None
            message = "**missed**"
            if result is not None:
                message = result.message.split("; ", 1)[-1].replace("|", "\\|").replace("\n", " ")
            message = message.replace(f"{planted}/", "")  # the page must not contain paths of a machine
            rows.append(f"| {number + 1} | {fault.name} | {fault.suite} | {fault.severity} | {message} |")
    head = [
        "# Planted faults",
        "",
        "Each fault below was planted in a copy of a valid data set (40 relational scenes; 300 for the suite",
        "`meaning`), and the manifest's digests were updated so that they do not reveal it, unless the fault is one of",
        f"the digests. Then `hire data validate` checked the copy: it found {len(FAULTS) - missed} of {len(FAULTS)}",
        "faults. Rows count from 0.",
        "",
        "`python tests/faults/dataset_faults.py` writes this page.",
        "",
        "| | Fault | Suite | Severity | Message |",
        "|---|---|---|---|---|",
    ]
    write_text("\n".join([*head, *rows, ""]), out)
    print(f"{out}: {len(FAULTS)} faults, {missed} missed")


if __name__ == "__main__":
    main()

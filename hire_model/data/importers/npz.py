"""Import a folder with one npz file per image, named after the image (123.npz, 123.jpg.npz).

Names of the arrays in a file:
    features [r, F]   features, feature, feat or x
    boxes [r, 4]      boxes or bbox
    width, height     image_w and image_h, or width and height
    class ids [r]     classes, objects_id or objects
    scores [r]        scores or objects_conf

The files hold neither captions nor splits: both come from a captions file (see `captions`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes, Source
from hire_model.data.importers.captions import Captions, Detections, make_record
from hire_model.data.importers.checks import LONGEST, check_classes, check_scores, is_length
from hire_model.data.importers.files import check_array, convert_errors
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

_FEATURES = ("features", "feature", "feat", "x")
_BOXES = ("boxes", "bbox")
_WIDTH, _HEIGHT = ("image_w", "width"), ("image_h", "height")
_CLASSES = ("classes", "objects_id", "objects")
_SCORES = ("scores", "objects_conf")


def open_npz(folder: Path, captions: Captions, notes: Notes, classes: tuple[str, ...] = ()) -> Source:
    """Open a folder of npz files. They are read one by one in the order of `captions`.

    classes: names of the class ids; without names, the ids in the files are ignored and a note is added.
    A DataError names file and field.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected a folder with one npz file per image.")
    files: dict[int, Path] = {}
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.endswith(".npz"):
            _assign_file(Path(entry.path), captions, files, notes)
    if not files:
        raise DataError(
            f"{folder}: no npz file belongs to an image in {captions.path}. Expected files named after the images, "
            f"such as {captions.images[0].image_id}.npz."
        )
    captions.check_complete(files, str(folder))
    dim = _read_detections(next(iter(files.values())), None).features.shape[1]

    def records(notes: Notes) -> Iterator[ImageRecord]:
        for index, image in enumerate(captions.images):
            path = files[index]
            yield make_record(image, _check_labels(_read_detections(path, dim), classes, path, notes), str(path), notes)

    return Source(f"npz per image, folder {folder.resolve().name}", dim, len(files), records, classes, notes=notes)


def _assign_file(path: Path, captions: Captions, files: dict[int, Path], notes: Notes) -> None:
    index = captions.find(path.name.removesuffix(".npz"))
    if index is None:
        notes.count("npz files without captions in the imported splits, skipped", path.name)
    elif index in files:
        raise DataError(f"{path}: same image as {files[index].name}. Expected one file per image.")
    else:
        files[index] = path


def _load_arrays(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays that the importer uses, and the names of all arrays in the file."""
    with convert_errors(path, "npz", "Copy or extract it again."):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(
                f"{path}: an npy file with one array. Expected an archive of named arrays. Write it with numpy.savez."
            )
        with archive:
            arrays = {key: archive[key] for key in archive.files if key in _USED}
            return arrays, ", ".join(archive.files) or "no arrays"


def _read_detections(path: Path, dim: int | None) -> Detections:
    arrays, names = _load_arrays(path)

    def pick(keys: tuple[str, ...]) -> np.ndarray | None:
        return next((arrays[key] for key in keys if key in arrays), None)

    features = pick(_FEATURES)
    if features is None:
        raise DataError(f"{path}: no features. Expected one of {', '.join(_FEATURES)}; the file has {names}.")
    check_array(features, f"{path}: features", "f", [None, dim], "features [regions, feature size]")
    regions = len(features)
    boxes, classes, scores = pick(_BOXES), pick(_CLASSES), pick(_SCORES)
    if boxes is not None:
        check_array(boxes, f"{path}: boxes", "iuf", [regions, 4], "x1 y1 x2 y2 of each region")
    if classes is not None:
        check_array(classes, f"{path}: classes", "iu", [regions], "the class id of each region")
    if scores is not None:
        check_array(scores, f"{path}: scores", "f", [regions], "the score of each region")
    width, height = _parse_size(pick(_WIDTH), path), _parse_size(pick(_HEIGHT), path)
    size = (width, height) if width and height else None
    return Detections(features, boxes, size, classes, scores)


_USED = {*_FEATURES, *_BOXES, *_WIDTH, *_HEIGHT, *_CLASSES, *_SCORES}


def _parse_size(value: np.ndarray | None, path: Path) -> int:
    if value is None:
        return 0
    if value.size != 1 or value.dtype.kind not in "iuf" or not is_length(value.item()):
        raise DataError(f"{path}: width or height is {value}. Expected one number of pixels, 1 to {LONGEST}.")
    return int(value.item())


def _check_labels(detections: Detections, classes: tuple[str, ...], path: Path, notes: Notes) -> Detections:
    ids = detections.classes
    if ids is not None and not classes:
        notes.count("images whose class ids were ignored, because --classes is not set", path.name)
        ids = None
    elif ids is not None:
        ids = check_classes(ids, len(classes), f"{path}: classes")
    scores = None if detections.scores is None else check_scores(detections.scores, f"{path}: scores")
    return Detections(detections.features, detections.boxes, detections.size, ids, scores)

"""SCAN / VSE-infinity `*_precomp` folders: arrays and text files per split.

{split}_ims.npy          [N, R, F] features of N images
{split}_caps.txt         a caption per line
{split}_ids.txt          optional: row of each caption's image, or a name per image (see `scan_files`)
{split}_names.txt        optional: name of each image row, as a rule its picture's file name
{split}_boxes.npy        optional: [N, R, 4] x1 y1 x2 y2 in pixels or fractions
{split}_sizes.npy        [N, 2] width and height in pixels; needed if boxes are in pixels
{split}_classes.npy      optional: [N, R] class ids, -1 unknown; names in classes.txt
{split}_scores.npy       optional: [N, R] detector scores in 0-1
{split}_n_regions.npy    optional: [N] how many regions are real; without it zero rows at the end are padding
{split}_relations.jsonl  optional: per image row [[subject, predicate, object, score], ...]; names in predicates.txt
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

from hire_model.data.importers.base import Notes, Source, select_splits
from hire_model.data.importers.checks import (
    LONGEST,
    Relation,
    check_classes,
    check_scores,
    is_length,
    parse_relations,
    select_real_features,
    to_fractions,
)
from hire_model.data.importers.files import check_unique, parse_json, read_vocabulary
from hire_model.data.importers.scan_files import ScanSplit, open_split
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

_SUFFIX = "_ims.npy"
_MOST_UNNAMED = 100_000  # ids without a list of names: a higher one is a fault, and would fill memory with names
_Ids = Iterator[tuple[int, str]]  # an id and its place


def open_scan(folder: Path, *, splits: Sequence[str] = (), captions_per_image: str = "auto") -> Source:
    """Open a folder in SCAN's layout. splits: only these; captions_per_image: auto, ids or a number.

    Raises DataError naming file, row and field for the first fault found.
    """
    folder, notes = folder.expanduser(), Notes()
    names = select_splits(splits, _find_splits(folder), str(folder))
    opened = [open_split(folder, name, captions_per_image, notes) for name in names]
    dims = {split.features.shape[2] for split in opened}
    if len(dims) > 1:
        sizes = ", ".join(f"{split.path('ims.npy').name} {split.features.shape[2]}" for split in opened)
        raise DataError(f"{folder}: feature sizes differ between splits: {sizes}. Expected one size.")
    classes = _read_vocabulary(folder / "classes.txt", "class", _find_class_ids, opened, notes)
    predicates = _read_vocabulary(folder / "predicates.txt", "predicate", _find_predicate_ids, opened, notes)

    def records(notes: Notes) -> Iterator[ImageRecord]:
        for split in opened:
            yield from _read_records(split, len(classes), {name: i for i, name in enumerate(predicates)}, notes)

    return Source(
        description=f"SCAN layout, folder {folder.resolve().name}",
        feature_dim=dims.pop(),
        images=sum(len(split.owners.rows) for split in opened),
        records=records,
        classes=classes,
        predicates=predicates,
        notes=notes,
        named=all(split.names is not None or split.owners.names for split in opened),
    )


def _find_splits(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected one with train{_SUFFIX}, train_caps.txt and so on.")
    found = sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))
    if not found:
        quantised = list(folder.glob("*_ims_int8.npy"))
        hint = f" {quantised[0].name} is quantised: scale it back to floating point first." if quantised else ""
        raise DataError(f"{folder}: no file {{split}}{_SUFFIX}. Expected [N, R, F] features per split.{hint}")
    known = ["train", "dev", "val", "test"]
    return sorted(found, key=lambda name: (known.index(name) if name in known else len(known), name))


def _find_class_ids(splits: Sequence[ScanSplit]) -> _Ids:
    """The highest class id of each split."""
    for split in splits:
        if split.classes is not None:
            row, region = np.unravel_index(int(split.classes.argmax()), split.classes.shape)
            yield int(split.classes[row, region]), f"{split.path('classes.npy')}: row {row}, region {region}"


def _find_predicate_ids(splits: Sequence[ScanSplit]) -> _Ids:
    """All predicate ids; faults in the lines are found later, where they have a place."""
    for split in splits:
        for number, line in enumerate(split.relations or (), 1):
            where = f"{split.path('relations.jsonl')}: line {number}"
            rows = parse_json(line, where)
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, list) and len(row) > 2 and type(row[1]) is int:
                    yield row[1], where


def _read_vocabulary(
    path: Path, kind: str, ids: Callable[[Sequence[ScanSplit]], _Ids], splits: Sequence[ScanSplit], notes: Notes
) -> tuple[str, ...]:
    if path.is_file():
        return read_vocabulary(path, notes)
    highest, where = max(ids(splits), key=itemgetter(0), default=(-1, ""))
    if highest >= _MOST_UNNAMED:
        raise DataError(
            f"{where}: {kind} {highest}. Expected 0 to {_MOST_UNNAMED - 1} where {path.name} is missing: write {path}, "
            "a name on each line, or check the ids."
        )
    used = highest + 1
    if used > 0:
        notes.add(f"{path.name} is missing: the names are '{kind} 0' to '{kind} {used - 1}'.")
    return tuple(f"{kind} {i}" for i in range(used))


def _read_records(split: ScanSplit, classes: int, predicates: dict[str, int], notes: Notes) -> Iterator[ImageRecord]:
    image_names = _name_images(split)
    for index, captions in enumerate(split.owners.group_captions()):
        row = int(split.owners.rows[index])
        features = _read_features(split, row, notes)
        width, height = _read_size(split, row)
        boxes, ids, scores = (
            None if array is None else array[row, : len(features)]
            for array in (split.boxes, split.classes, split.scores)
        )
        if boxes is not None:
            frame = (width, height) if split.pixels else None
            boxes = to_fractions(boxes, frame, f"{split.path('boxes.npy')}: row {row}", notes)
        if ids is not None:
            ids = check_classes(ids, classes, f"{split.path('classes.npy')}: row {row}")
        if scores is not None:
            scores = check_scores(scores, f"{split.path('scores.npy')}: row {row}")
        yield ImageRecord(
            image_id=image_names[index],
            split=split.name,
            features=features,
            captions=[split.captions[i] for i in captions],
            width=width,
            height=height,
            boxes=boxes,
            classes=ids,
            scores=scores,
            relations=_read_relations(split, row, len(features), predicates),
            picture=split.names[row] if split.names else None,
        )


def _read_features(split: ScanSplit, row: int, notes: Notes) -> np.ndarray:
    """The real regions of the image at `row`; where the file repeats images, its copies are compared too."""
    where, copies = f"{split.path('ims.npy')}: row {row}", split.owners.copies
    block = _map_rows(split.features, row, copies, split.path("ims.npy"))
    if copies > 1 and not (block == block[0]).all():
        raise DataError(
            f"{where}: other rows of the file come in runs of {copies} equal ones, these do not. "
            "Say --captions-per-image 1 or ids if each row is an image of its own."
        )
    return select_real_features(block[0], _read_region_count(split, row), where, notes)


def _map_rows(features: np.ndarray, row: int, count: int, path: Path) -> np.ndarray:
    """Rows of the features through a mapping of their own, which ends with them.

    Pages read through the one mapping of the whole file would stay with this process until it ends.
    """
    if not features.flags.c_contiguous:
        return features[row : row + count]
    start = features.offset + row * features.strides[0]  # type: ignore[attr-defined]
    return np.memmap(path, features.dtype, "r", start, (count, *features.shape[1:]))


def _name_images(split: ScanSplit) -> list[str]:
    """The images' ids: their names, else the split and the ids file's name, else the split and a number."""
    if split.names is not None:
        names = [split.names[row] for row in split.owners.rows]
        check_unique(names, split.path("names.txt"), "name")
        return names
    return [f"{split.name}/{name}" for name in split.owners.names or range(len(split.owners.rows))]


def _read_region_count(split: ScanSplit, row: int) -> int | None:
    if split.counts is None:
        return None
    count, most = int(split.counts[row]), split.features.shape[1]
    if not 1 <= count <= most:
        raise DataError(f"{split.path('n_regions.npy')}: row {row} is {count}. Expected 1 to {most}.")
    return count


def _read_size(split: ScanSplit, row: int) -> tuple[int, int]:
    if split.sizes is None:
        return 0, 0
    width, height = split.sizes[row].tolist()
    if not (is_length(width) and is_length(height)):
        raise DataError(
            f"{split.path('sizes.npy')}: row {row} is {[width, height]}. Expected width and height in pixels, "
            f"1 to {LONGEST}."
        )
    return int(width), int(height)


def _read_relations(split: ScanSplit, row: int, regions: int, predicates: dict[str, int]) -> list[Relation]:
    if split.relations is None:
        return []
    where = f"{split.path('relations.jsonl')}: line {row + 1}"
    return parse_relations(parse_json(split.relations[row], where), regions, predicates, where)

"""Import SCAN / VSE-infinity `*_precomp` folders: arrays and text files per split.

{split}_ims.npy          [N, R, F] features of N images
{split}_caps.txt         one caption per line
{split}_ids.txt          optional: image row of each caption, or one name per image (see `scan_files`)
{split}_names.txt        optional: name of each image row, usually the file name of its picture
{split}_boxes.npy        optional: [N, R, 4] x1 y1 x2 y2 in pixels or fractions
{split}_sizes.npy        [N, 2] width and height in pixels; required if boxes are in pixels
{split}_classes.npy      optional: [N, R] class ids, -1 unknown; names in classes.txt
{split}_scores.npy       optional: [N, R] detector scores in 0-1
{split}_n_regions.npy    optional: [N] number of real regions; without it, zero rows at the end are padding
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
_MAX_UNNAMED = 100_000  # without a list of names, a higher id is an error; generated names would fill the memory
_Ids = Iterator[tuple[int, str]]  # an id and its place


def open_scan(folder: Path, *, splits: Sequence[str] = (), captions_per_image: str = "auto") -> Source:
    """Open a folder in SCAN's layout.

    Args:
        folder: the folder
        splits: names of the splits to import; empty for all
        captions_per_image: auto, ids or a number (see `scan_files.find_owners`)

    Raises:
        DataError: names file, row and field of the first error.
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
        raise DataError(f"{folder}: no such folder. Expected a folder with train{_SUFFIX}, train_caps.txt and so on.")
    names = sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))
    if not names:
        quantised = list(folder.glob("*_ims_int8.npy"))
        hint = f" {quantised[0].name} is quantised: convert it to floating point first." if quantised else ""
        raise DataError(f"{folder}: no file {{split}}{_SUFFIX}. Expected [N, R, F] features of each split.{hint}")
    order = ["train", "dev", "val", "test"]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _find_class_ids(splits: Sequence[ScanSplit]) -> _Ids:
    """Yield the highest class id of each split."""
    for split in splits:
        if split.classes is not None:
            row, region = np.unravel_index(int(split.classes.argmax()), split.classes.shape)
            yield int(split.classes[row, region]), f"{split.path('classes.npy')}: row {row}, region {region}"


def _find_predicate_ids(splits: Sequence[ScanSplit]) -> _Ids:
    """Yield all predicate ids. `_read_relations` reports errors in the lines later, with their place."""
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
    if highest >= _MAX_UNNAMED:
        raise DataError(
            f"{where}: {kind} {highest}. Expected 0 to {_MAX_UNNAMED - 1} if {path.name} is missing. Write {path} "
            "with one name per line, or check the ids."
        )
    if highest >= 0:
        notes.add(f"{path.name} is missing: the names are '{kind} 0' to '{kind} {highest}'.")
    return tuple(f"{kind} {i}" for i in range(highest + 1))


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
    """Return the real regions of the image at `row`. If the file repeats images, check that the copies are equal."""
    where, copies = f"{split.path('ims.npy')}: row {row}", split.owners.copies
    block = _map_rows(split.features, row, copies, split.path("ims.npy"))
    if copies > 1 and not (block == block[0]).all():
        raise DataError(
            f"{where}: the {copies} copies of this image differ. Expected equal rows, as in other runs. If each "
            "row is a different image, use --captions-per-image 1 or ids."
        )
    return select_real_features(block[0], _read_region_count(split, row), where, notes)


def _map_rows(features: np.ndarray, row: int, count: int, path: Path) -> np.ndarray:
    """Return rows of the features through a separate memory mapping, which is freed together with them.

    Pages that are read through the mapping of the whole file would stay resident until the process ends.
    """
    if not features.flags.c_contiguous:
        return features[row : row + count]
    start = features.offset + row * features.strides[0]  # type: ignore[attr-defined]
    return np.memmap(path, features.dtype, "r", start, (count, *features.shape[1:]))


def _name_images(split: ScanSplit) -> list[str]:
    """Return the image ids: names from names.txt, else split/name from ids.txt, else split/number."""
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

"""Faults that leave each value valid, but not what it means. They are planted in all images of one or all splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from fault import Fault
from planting import (
    Plant,
    change_features,
    change_manifest,
    read_columns,
    write_columns,
    write_counts,
    write_digests,
)

from hire_model.data.schema import FEATURES

MEANING_SCENES: Final[dict[str, Any]] = {"train": 220, "dev": 40, "test": 40, "seed": 0}
FIRST_DEV, FIRST_TEST = 220, 260
ALL = ("train", "dev", "test")
BOX = ("x1", "y1", "x2", "y2")
Change = Callable[[np.ndarray], np.ndarray]


def change_split(table: str, columns: tuple[str, ...], change: Change, splits: tuple[str, ...], row: int) -> Plant:
    """Change columns [rows, columns] of a table in some splits. The fault is found at `row`."""

    def plant(folder: Path) -> int:
        images, values = read_columns(folder, "images"), read_columns(folder, table)
        rows = np.repeat(np.isin(images["split"], splits), images[f"n_{table}"])
        stacked = np.stack([np.array(values[name]) for name in columns], axis=1)
        stacked[rows] = change(stacked[rows])
        values |= {name: stacked[:, k].tolist() for k, name in enumerate(columns)}
        write_columns(folder, table, values)
        write_digests(folder)
        return row

    return plant


def move_captions(order: Change, splits: tuple[str, ...], row: int) -> Plant:
    """Give the captions of some splits to other images: `order` maps the images of a split to the new ones."""

    def plant(folder: Path) -> int:
        names, captions = np.array(read_columns(folder, "images")["split"]), read_columns(folder, "captions")
        target = np.arange(len(names))
        for split in splits:
            members = np.flatnonzero(names == split)
            target[members] = order(members)
        write_columns(folder, "captions", captions | {"image": target[captions["image"]].tolist()})
        write_digests(folder)
        return row

    return plant


def change_images(change: Change, splits: tuple[str, ...], row: int, step: int = 1) -> Plant:
    """Change the features of every `step`-th image of some splits."""

    def plant(folder: Path) -> int:
        images, array = read_columns(folder, "images"), np.load(folder / FEATURES)
        chosen = np.isin(images["split"], splits) & (np.arange(len(images["split"])) % step == 0)
        rows = np.repeat(chosen, images["n_regions"])
        array[rows] = change(array[rows])
        np.save(folder / FEATURES, array)
        write_digests(folder)
        return row

    return plant


def drop_relations(split: str, row: int) -> Plant:
    """Remove all relations of the last split."""

    def plant(folder: Path) -> int:
        images, relations = read_columns(folder, "images"), read_columns(folder, "relations")
        gone = np.array(images["split"]) == split
        left = int(np.array(images["n_relations"])[~gone].sum())
        write_columns(folder, "relations", {name: values[:left] for name, values in relations.items()})
        images["n_relations"] = np.where(gone, 0, images["n_relations"]).tolist()
        images["first_relation"] = np.where(gone, left, images["first_relation"]).tolist()
        write_columns(folder, "images", images)
        write_counts(folder)
        return row

    return plant


def shuffle(rows: np.ndarray) -> np.ndarray:
    """Shuffle the rows with a fixed seed."""
    return np.random.default_rng(0).permutation(rows)


def exchange(*order: int) -> Change:
    """Return a function that puts the columns in another order."""
    return lambda values: values[:, list(order)]


def exchange_sides(boxes: np.ndarray) -> np.ndarray:
    """Exchange width and height of the boxes, inside the image."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.clip(np.concatenate([boxes[:, :2], boxes[:, :2] + size[:, ::-1]], axis=1), 0, 1)


def set_dimension(rows: np.ndarray) -> np.ndarray:
    """Set dimension 3 of the features to 0.5."""
    rows[:, 3] = 0.5
    return rows


def shift_ids(count: int) -> Change:
    """Return a function that adds 1 to ids below `count`, cyclically."""
    return lambda ids: np.where(ids >= 0, (ids + 1) % count, ids)


def _find(name: str, message: str, plant: Plant, severity: str = "error") -> Fault:
    return Fault(name, "meaning", message, plant, severity)  # type: ignore[arg-type]


_ENDS = ("subject", "object")
_CLASSES, _PREDICATES = 24, 11
MEANING_FAULTS = [
    _find(
        "the captions of test are shifted by one image",
        "the image before",
        move_captions(lambda rows: np.roll(rows, 1), ("test",), FIRST_TEST),
    ),
    _find(
        "all captions are shifted by one image",
        "the image after",
        move_captions(lambda rows: np.roll(rows, -1), ALL, 0),
    ),
    _find(
        "the captions of test are shuffled", "captions fit the features", move_captions(shuffle, ("test",), FIRST_TEST)
    ),
    _find("all captions are shuffled", "captions fit the features", move_captions(shuffle, ALL, 0)),
    _find(
        "all rows of features.npy are shifted by one",
        "the region before",
        change_features(lambda array: np.roll(array, 1, axis=0), 0),
    ),
    _find(
        "the features of train are shuffled",
        "classes fit the features",
        change_images(shuffle, ("train",), 0),
        "warning",
    ),
    _find(
        "the features of test are shuffled", "captions fit the features", change_images(shuffle, ("test",), FIRST_TEST)
    ),
    _find(
        "the class ids of test are shifted by one",
        "classes fit the features",
        change_split("regions", ("class_id",), shift_ids(_CLASSES), ("test",), FIRST_TEST),
        "warning",
    ),
    _find(
        "the vocabulary of classes is shifted by one",
        "names of classes",
        change_manifest(lambda m: {"classes": (*m.classes[1:], m.classes[0])}),
    ),
    _find(
        "the predicates of dev are shifted by one",
        "predicates fit boxes and classes",
        change_split("relations", ("predicate",), shift_ids(_PREDICATES), ("dev",), FIRST_DEV),
        "warning",
    ),
    _find(
        "the vocabulary of predicates is in another order",
        "the predicate's name",
        change_manifest(lambda m: {"predicates": m.predicates[::-1]}),
    ),
    _find(
        "subject and object are exchanged in test",
        "subject and object exchanged",
        change_split("relations", _ENDS, exchange(1, 0), ("test",), FIRST_TEST),
    ),
    _find(
        "subject and object are exchanged everywhere",
        "the predicate's name",
        change_split("relations", _ENDS, exchange(1, 0), ALL, 0),
    ),
    _find(
        "all boxes of test are the whole image",
        "different boxes",
        change_split("regions", BOX, lambda boxes: boxes * 0 + [0, 0, 1, 1], ("test",), FIRST_TEST),
    ),
    _find(
        "x and y of the boxes are exchanged in test",
        "x and y exchanged",
        change_split("regions", BOX, exchange(1, 0, 3, 2), ("test",), FIRST_TEST),
    ),
    _find(
        "x and y of the boxes are exchanged everywhere",
        "about y than about x",
        change_split("regions", BOX, exchange(1, 0, 3, 2), ALL, 0),
        "warning",
    ),
    _find(
        "width and height of the boxes are exchanged in test",
        "width and height exchanged",
        change_split("regions", BOX, exchange_sides, ("test",), FIRST_TEST),
    ),
    _find(
        "width and height of the boxes are exchanged everywhere",
        "higher than wide",
        change_split("regions", BOX, exchange_sides, ALL, 0),
        "warning",
    ),
    _find(
        "a feature dimension is constant in test",
        "varies in this one",
        change_images(set_dimension, ("test",), FIRST_TEST),
    ),
    _find(
        "a feature dimension is constant everywhere",
        "a feature dimension varies",
        change_images(set_dimension, ALL, 0),
        "warning",
    ),
    _find("the features of test are scaled by 5", "norm", change_images(lambda x: 5 * x, ("test",), FIRST_TEST)),
    _find("the features of half of train are scaled by 5", "norm", change_images(lambda x: 5 * x, ("train",), 0, 2)),
    _find("the features of test are negated", "sign", change_images(np.negative, ("test",), FIRST_TEST)),
    _find("the features of half of train are negated", "sign", change_images(np.negative, ("train",), 0, 2)),
    _find(
        "all relations of test have the score 0",
        "do not all have the score 0",
        change_split("relations", ("score",), lambda scores: 0 * scores, ("test",), FIRST_TEST),
    ),
    _find("test has no relations", "missing in a split", drop_relations("test", FIRST_TEST)),
]

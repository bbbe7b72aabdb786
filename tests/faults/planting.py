"""Plant faults in a data set. Digests and counts in the manifest are updated, so that only the content is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hire_model.data.blocks import hash_blocks
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, Manifest, SplitCounts, hash_file

Plant = Callable[[Path], int | None]
"""Damages the data set in a folder; returns the row of the file at which the fault must be found, or None."""


def read_columns(folder: Path, table: str) -> dict[str, list[Any]]:
    """Read the columns of a table as lists."""
    return pq.read_table(folder / f"{table}.parquet").to_pydict()


def write_columns(folder: Path, table: str, columns: dict[str, list[Any]]) -> None:
    """Write the columns of a table with the types of the format."""
    pq.write_table(pa.table(columns, schema=TABLES[table]), folder / f"{table}.parquet")


def write_digests(folder: Path) -> None:
    """Update the digests of the files in the manifest."""
    manifest = Manifest.read(folder)
    files = {name: hash_file(folder / name) for name in manifest.files}
    blocks = {FEATURES: hash_blocks(folder / FEATURES)[1]}
    update = {"files": files, "blocks": blocks}
    (folder / MANIFEST).write_text(manifest.model_copy(update=update).model_dump_json(), "utf-8")


def write_counts(folder: Path) -> None:
    """Update the counts of the splits and the digests in the manifest."""
    images = pd.DataFrame(read_columns(folder, "images"))
    captions = Counter(images["split"].iloc[read_columns(folder, "captions")["image"]])
    sums = images.groupby("split", sort=False)[["n_regions", "n_relations"]].sum()
    splits = {
        str(name): SplitCounts(images=int(size), captions=captions[name], regions=regions, relations=relations)
        for name, size, (regions, relations) in zip(
            sums.index, images["split"].value_counts()[sums.index], sums.to_numpy().tolist(), strict=True
        )
    }
    manifest = Manifest.read(folder).model_copy(update={"splits": splits})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
    write_digests(folder)


def set_cells(table: str, rows: Sequence[int], report: int | None = None, counted: bool = True, **values: Any) -> Plant:
    """Set columns of some rows; a callable value maps the old value to the new one.

    The fault is found at row `report`, by default at the first of `rows`. counted: update the counts in the manifest.
    """

    def plant(folder: Path) -> int:
        columns = read_columns(folder, table)
        for name, value in values.items():
            for row in rows:
                columns[name][row] = value(columns[name][row]) if callable(value) else value
        write_columns(folder, table, columns)
        (write_counts if counted else write_digests)(folder)
        return rows[0] if report is None else report

    return plant


def set_cell(table: str, row: int, column: str, value: Any) -> Plant:
    """Set one cell; the counts in the manifest are not updated."""
    return set_cells(table, [row], counted=False, **{column: value})


def plant_both(first: Plant, second: Plant) -> Plant:
    """Plant two faults; they are found at the row of the first."""

    def plant(folder: Path) -> int | None:
        row = first(folder)
        second(folder)
        return row

    return plant


def change_features(change: Callable[[np.ndarray], np.ndarray | None], row: int | None) -> Plant:
    """Change the array of features: `change` modifies it in place or returns a new one."""

    def plant(folder: Path) -> int | None:
        array = np.load(folder / FEATURES)
        changed = change(array)
        np.save(folder / FEATURES, array if changed is None else changed)
        write_digests(folder)
        return row

    return plant


def change_file(name: str, change: Callable[[bytes], bytes], signed: bool = True) -> Plant:
    """Change the bytes of one file. signed: update the digests."""

    def plant(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        if signed:
            write_digests(folder)

    return plant


def change_manifest(change: Callable[[Manifest], dict[str, Any]]) -> Plant:
    """Change fields of the manifest and nothing else."""

    def plant(folder: Path) -> None:
        manifest = Manifest.read(folder)
        (folder / MANIFEST).write_text(manifest.model_copy(update=change(manifest)).model_dump_json(), "utf-8")

    return plant


def change_columns(table: str, change: Callable[[pa.Table], pa.Table]) -> Plant:
    """Change a table, including its columns and types."""

    def plant(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        pq.write_table(change(pq.read_table(path)), path)
        write_digests(folder)

    return plant


def copy_image(
    noise: float,
    shuffled: bool,
    box: Callable[[float], float] | None = None,
    new_regions: int = 0,
    scale: float = 1.0,
    into: str = "test",
) -> Plant:
    """Copy features and boxes of a training image to another image with the same number of regions.

    Args:
        noise: Standard deviation of the noise added to each feature, as a share of the features' own deviation.
        shuffled: Whether to shuffle the regions.
        box: Maps each number of the copied boxes to a new one.
        new_regions: How many regions, at the end, get new features.
        scale: Factor of the copied features.
        into: Split of the other image.
    """

    def plant(folder: Path) -> int:
        images, regions, array = (
            read_columns(folder, "images"),
            read_columns(folder, "regions"),
            np.load(folder / FEATURES),
        )
        source, target = _find_equally_large(images, into)
        rng, size = np.random.default_rng(0), images["n_regions"][source]
        old, new = images["first_region"][source], images["first_region"][target]
        order = rng.permutation(size) if shuffled else np.arange(size)
        copied = scale * array[old + order].astype(np.float32)
        array[new : new + size] = copied + noise * copied.std() * rng.standard_normal(copied.shape)
        last = slice(new + size - new_regions, new + size)
        array[last] = np.roll(array[last], 1, axis=1)
        for name in ("x1", "y1", "x2", "y2"):
            values = [regions[name][old + k] for k in order.tolist()]
            regions[name][new : new + size] = [box(value) for value in values] if box else values
        np.save(folder / FEATURES, array)
        write_columns(folder, "regions", regions)
        write_digests(folder)
        return target

    return plant


def copy_captions() -> Plant:
    """Replace more than half of the test split's captions by texts of the training split."""

    def plant(folder: Path) -> int:
        captions, splits = read_columns(folder, "captions"), read_columns(folder, "images")["split"]
        rows = {name: [k for k, image in enumerate(captions["image"]) if splits[image] == name] for name in set(splits)}
        chosen = rows["test"][: len(rows["test"]) // 2 + 1]
        for test, train in zip(chosen, rows["train"], strict=False):
            captions["text"][test] = captions["text"][train]
        write_columns(folder, "captions", captions)
        write_digests(folder)
        return rows["test"][0]

    return plant


def _find_equally_large(images: dict[str, list[Any]], into: str) -> tuple[int, int]:
    """Find the first images of train and of split `into` with the same number of regions, at least four."""
    rows = range(len(images["split"]))
    return next(
        (a, b)
        for b in rows
        for a in rows
        if a != b
        and (images["split"][a], images["split"][b]) == ("train", into)
        and images["n_regions"][a] == images["n_regions"][b] >= 4
    )

"""The tables that the suites check: those of the data set, with extra columns that the expectations need.

A frame's index is the row in the file. A suite may name every column; docs/validation.md lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.duplicates import find_copies, find_nearest
from expectations.features import Measures, measure_features
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify

NORM_FACTOR = 10.0
"""How far from the median norm of the reference split a norm may be where no range was learned."""


@dataclass(frozen=True)
class CheckedTable:
    """A frame to check: the suite's name, the file that a message names, and the columns that tell whose a row is."""

    name: str
    file: str
    frame: pd.DataFrame
    context: tuple[str, ...] = ()


class SimilarImages(NamedTuple):
    """Per image the nearest of another split (row, distance), and the one that it was copied from (row, share)."""

    nearest: np.ndarray
    apart: np.ndarray
    sources: np.ndarray
    shares: np.ndarray


def build_manifest_table(folder: Path, manifest: Manifest) -> CheckedTable:
    """A row per file: what `hire data verify` finds wrong with it, the features' width and type as stored."""
    findings = verify(folder)
    files = [MANIFEST, *(f"{table}.parquet" for table in TABLES), FEATURES]
    frame = pd.DataFrame({"file": files})
    frame["finding"] = [" ".join(f.message for f in findings if f.file == file) or None for file in files]
    frame["feature_dim"] = [manifest.feature_dim if file == FEATURES else np.nan for file in files]
    frame["feature_dtype"] = [manifest.feature_dtype if file == FEATURES else None for file in files]
    frame["feature_extractor"] = [manifest.feature_extractor if file == FEATURES else None for file in files]
    return CheckedTable("manifest", MANIFEST, frame, ("file",))


class DatasetTables:
    """The content of one data set, whose structure is sound, as tables. None is kept: build one, check it, drop it."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def build(self, name: str) -> CheckedTable:
        """The table of the suite `name`."""
        builders = {
            "captions": self._build_captions,
            "images": self._build_images,
            "relations": self._build_relations,
            "regions": self._build_regions,
            "splits": self._build_splits,
        }
        pool = pa.default_memory_pool()
        pool.release_unused()  # what the table before took
        table = builders[name]()
        pool.release_unused()  # what was only on the way to this one
        return table

    def _read(self, name: str) -> pd.DataFrame:
        return pq.read_table(self.data.folder / f"{name}.parquet").to_pandas(split_blocks=True, self_destruct=True)

    @cached_property
    def _images(self) -> pd.DataFrame:
        return self._read("images")

    @cached_property
    def _reference(self) -> str:
        """The split that a model learns from: train, or the largest where there is none of that name."""
        splits = self._images["split"]
        return "train" if (splits == "train").any() else str(splits.mode()[0])

    @cached_property
    def _measures(self) -> tuple[Measures, SimilarImages]:
        """What the pass over the features leaves, without signatures and hashes; what these say of other splits."""
        counts, splits = self._images["n_regions"].to_numpy(np.int64), self._images["split"].to_numpy()
        found = measure_features(self.data, counts)
        near = find_nearest(found.signatures, splits)
        related = SimilarImages(*near, *find_copies(found.hashes, counts, splits, self._reference))
        return replace(found, signatures=found.signatures[:0].copy(), hashes=found.hashes[:0].copy()), related

    @cached_property
    def parameters(self) -> dict[str, float]:
        """What a suite may write as {"$PARAMETER": name}: what is right for this data set and no other."""
        norms, images = self._measures[0].norms, self._images
        own = np.repeat(images["split"].to_numpy() == self._reference, images["n_regions"])
        middle = float(np.median(norms[own]))
        return {
            "classes": len(self.data.manifest.classes),
            "predicates": len(self.data.manifest.predicates),
            "norm_low": middle / NORM_FACTOR,
            "norm_high": middle * NORM_FACTOR,
        }

    def _build_captions(self) -> CheckedTable:
        """caption_id, image, text; image_id and split of the image; `plain`, the text that near duplicates share;
        `split_copied`, the share of the split's captions that stand, by `plain`, in another split too."""
        frame = self._read("captions")
        frame["image_id"] = pd.Categorical.from_codes(frame["image"], self._images["image_id"])
        frame["split"] = pd.Categorical(self._images["split"]).take(frame["image"])
        frame["plain"] = simplify(frame["text"])
        frame["split_copied"] = _compute_copied_shares(frame)
        return CheckedTable("captions", "captions.parquet", frame, ("image_id", "split"))

    def _build_images(self) -> CheckedTable:
        """The images' columns; n_captions; `lost_picture`, the name of a picture that is not there."""
        frame = self._images.copy()
        owners = pq.read_table(self.data.folder / "captions.parquet", columns=["image"])["image"].to_numpy()
        frame["n_captions"] = np.bincount(owners, minlength=len(frame))
        lost = [bool(name) and self.data.picture(row) is None for row, name in enumerate(frame["picture"].fillna(""))]
        frame["lost_picture"] = frame["picture"].where(np.array(lost, bool))
        return CheckedTable("images", "images.parquet", frame, ("image_id", "split"))

    def _build_regions(self) -> CheckedTable:
        """The regions' columns; image_id; `norm`, `bad` numbers of the features; `box_parts`, how many of four."""
        frame = self._read("regions")
        # Great Expectations compares native 64-bit columns at once, and all others value by value in Python
        frame = frame.astype({name: "int64" if name == "class_id" else "float64" for name in frame.columns})
        frame["box_parts"] = np.isfinite(frame[["x1", "y1", "x2", "y2"]]).sum(axis=1)
        frame["norm"], frame["bad"] = self._measures[0].norms, self._measures[0].bad
        frame["image_id"] = self._repeat_image_ids("n_regions")
        return CheckedTable("regions", f"regions.parquet, {FEATURES}", frame, ("image_id",))

    def _build_relations(self) -> CheckedTable:
        """The relations' columns; image_id; `n_regions` of the image."""
        frame = self._read("relations")
        frame = frame.astype({name: "float64" if name == "score" else "int64" for name in frame.columns})
        counts = self._images["n_regions"].to_numpy(np.int64)
        frame["n_regions"] = np.repeat(counts, self._images["n_relations"])
        frame["image_id"] = self._repeat_image_ids("n_relations")
        return CheckedTable("relations", "relations.parquet", frame, ("image_id",))

    def _build_splits(self) -> CheckedTable:
        """A row per image: image_id, split, picture; `apart`, how far its features are from the nearest image of
        another split (0: the same), and `nearest`, which one that is; `copied`, the share of its regions whose features
        are those of regions of one image of another split (0 in the training split), and `source`, which one."""
        frame, found = self._images[["image_id", "split", "picture"]].copy(), self._measures[1]
        frame["apart"], frame["nearest"] = found.apart, self._describe_images(found.nearest)
        frame["copied"], frame["source"] = found.shares, self._describe_images(found.sources)
        return CheckedTable("splits", "images.parquet", frame, ("image_id", "split", "nearest", "source"))

    def _describe_images(self, rows: np.ndarray) -> list[str | None]:
        """Images by row, in words; None for a row of -1."""
        ids, splits = self._images["image_id"].to_numpy(), self._images["split"].to_numpy()
        return [f"row {row}, {ids[row]}, {splits[row]}" if row >= 0 else None for row in rows.tolist()]

    def _repeat_image_ids(self, counts: str) -> pd.Categorical:
        """The image_id of each row of a table of which an image has `counts` rows; one number a row is held."""
        images = self._images
        return pd.Categorical.from_codes(np.repeat(np.arange(len(images)), images[counts]), images["image_id"])


def _compute_copied_shares(frame: pd.DataFrame) -> pd.Series:
    """Of each row's split the share of rows whose `plain` stands in another split as well."""
    pairs = frame[["plain", "split"]].drop_duplicates()
    shared = frame["plain"].isin(pairs["plain"][pairs["plain"].duplicated()])
    return shared.groupby(frame["split"], observed=True).transform("mean").astype("float64")


def simplify(texts: pd.Series) -> pd.Series:
    """Texts without case, punctuation, articles and spare white space: what near duplicates have in common."""
    bare = texts.str.lower().str.replace(r"[^\w\s]", " ", regex=True)
    return bare.str.replace(r"\b(a|an|the)\b", " ", regex=True).str.replace(r"\s+", " ", regex=True).str.strip()

"""The tables that the suites check: the tables of the data set, with extra columns that expectations need.

The index of a frame is the row in the file. A suite may refer to every column; docs/validation.md lists them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.duplicates import find_copies, find_near_copies, find_nearest, uses_codebook
from expectations.features import PER_DIRECTION, Measures, measure_features
from expectations.meaning.table import build_frame
from hire_model.data.schema import FEATURES, MANIFEST, TABLES, Manifest
from hire_model.data.store import Dataset
from hire_model.data.verify import verify

MIN_CAPTIONS = 20
"""A split with fewer captions may have the same text in most of them."""
NORM_FACTOR = 10.0
"""A norm may differ from the reference split's median by this factor, unless a suite states a range."""


@dataclass(frozen=True)
class SuiteTable:
    """A frame for a suite to check.

    name     name of the suite
    label    what messages call the table, usually its file
    frame    the rows
    context  columns that messages show in addition, to identify a row
    unit     what a row is
    """

    name: str
    label: str
    frame: pd.DataFrame
    context: tuple[str, ...] = ()
    unit: str = "rows"


class SimilarImages(NamedTuple):
    """Per image: the nearest image of another split (row, distance) and the one it was copied from (row, share).

    near: pairs of images with nearly equal features, see `find_near_copies`.
    """

    nearest: np.ndarray
    apart: np.ndarray
    sources: np.ndarray
    shares: np.ndarray
    near: pd.DataFrame


def build_manifest_table(folder: Path, manifest: Manifest) -> SuiteTable:
    """Build a row per file: the findings of `hire data verify`, and the features' width and type."""
    findings = verify(folder)
    required = [*(f"{table}.parquet" for table in TABLES), FEATURES]
    files = [MANIFEST, *required, *(name for name in manifest.files if name not in required)]
    frame = pd.DataFrame({"file": files})
    frame["finding"] = [" ".join(f.message for f in findings if f.file == file) or None for file in files]
    frame["feature_dim"] = [manifest.feature_dim if file == FEATURES else np.nan for file in files]
    frame["feature_dtype"] = [manifest.feature_dtype if file == FEATURES else None for file in files]
    frame["feature_extractor"] = [manifest.feature_extractor if file == FEATURES else None for file in files]
    return SuiteTable("manifest", MANIFEST, frame, ("file",))


class DatasetTables:
    """Builds the tables of a data set with a sound structure. To save memory, tables are not cached."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def build(self, name: str) -> SuiteTable:
        """Build the table of the suite `name`."""
        builders = {
            "captions": self._build_captions,
            "images": self._build_images,
            "relations": self._build_relations,
            "regions": self._build_regions,
            "splits": self._build_splits,
            "meaning": self._build_meaning,
        }
        pool = pa.default_memory_pool()
        pool.release_unused()  # memory of the previous table
        table = builders[name]()
        pool.release_unused()  # intermediate memory of this one
        return table

    def _read(self, name: str) -> pd.DataFrame:
        return pq.read_table(self.data.folder / f"{name}.parquet").to_pandas(split_blocks=True, self_destruct=True)

    @cached_property
    def _images(self) -> pd.DataFrame:
        return self._read("images")

    @cached_property
    def _reference(self) -> str:
        """The reference split: train, or the largest split if there is no train."""
        splits = self._images["split"]
        return "train" if (splits == "train").any() else str(splits.mode()[0])

    @cached_property
    def _measures(self) -> tuple[Measures, SimilarImages]:
        """The measurements of the features, without signatures and hashes, and the similar images found with these."""
        counts, splits = self._images["n_regions"].to_numpy(np.int64), self._images["split"].to_numpy()
        measures = measure_features(self.data, counts)
        nearest = find_nearest(measures.signatures, splits)
        copies = find_copies(measures.hashes, counts, splits, self._reference)
        pooled = measures.signatures[:, ::PER_DIRECTION]
        if uses_codebook(measures.hashes, counts, splits == self._reference):
            pooled = pooled[:0]  # images of the same things have equal features
        similar = SimilarImages(*nearest, *copies, find_near_copies(self.data, pooled, counts))
        measures = replace(measures, signatures=measures.signatures[:0].copy(), hashes=measures.hashes[:0].copy())
        return measures, similar

    @cached_property
    def parameters(self) -> dict[str, float]:
        """The values that a suite can refer to as {"$PARAMETER": name}; they depend on the data set."""
        norms, images = self._measures[0].norms, self._images
        in_reference = np.repeat(images["split"].to_numpy() == self._reference, images["n_regions"])
        median = float(np.median(norms[in_reference]))
        return {
            "classes": len(self.data.manifest.classes),
            "predicates": len(self.data.manifest.predicates),
            "norm_low": median / NORM_FACTOR,
            "norm_high": median * NORM_FACTOR,
        }

    def _build_captions(self) -> SuiteTable:
        """Build caption_id, image and text, image_id and split of the image, and four more columns.

        plain         the simplified text, equal for near duplicates
        split_copied  share of the split's captions whose `plain` occurs in another split
        repeated      share of the split's captions with this text; 0 in a split of fewer than 20 captions
        id_inside     the part of the image's id that the text contains
        """
        frame = self._read("captions")
        frame["image_id"] = pd.Categorical.from_codes(frame["image"], self._images["image_id"])
        frame["split"] = pd.Categorical(self._images["split"]).take(frame["image"])
        frame["plain"] = simplify(frame["text"])
        frame["split_copied"] = _compute_copied_shares(frame)
        frame["repeated"] = _compute_repeated_shares(frame)
        frame["id_inside"] = _find_ids(frame, self._images["image_id"].tolist())
        return SuiteTable("captions", "captions.parquet", frame, ("image_id", "split"))

    def _build_images(self) -> SuiteTable:
        """Build the images' columns, n_captions, and `lost_picture`: the name of a picture that does not exist."""
        frame = self._images.copy()
        owners = pq.read_table(self.data.folder / "captions.parquet", columns=["image"])["image"].to_numpy()
        frame["n_captions"] = np.bincount(owners, minlength=len(frame))
        lost = [bool(name) and self.data.picture(row) is None for row, name in enumerate(frame["picture"].fillna(""))]
        frame["lost_picture"] = frame["picture"].where(np.array(lost, bool))
        return SuiteTable("images", "images.parquet", frame, ("image_id", "split"))

    def _build_regions(self) -> SuiteTable:
        """Build the regions' columns, image_id, and three more.

        norm       Euclidean norm of the features
        bad        how many of the features are not finite
        box_parts  how many of the box's four numbers are finite
        """
        frame = self._read("regions")
        # Great Expectations compares 64-bit columns at once, and all other columns value by value in Python
        frame = frame.astype({name: "int64" if name == "class_id" else "float64" for name in frame.columns})
        frame["box_parts"] = np.isfinite(frame[["x1", "y1", "x2", "y2"]]).sum(axis=1)
        frame["norm"], frame["bad"] = self._measures[0].norms, self._measures[0].bad
        frame["image_id"] = self._repeat_image_ids("n_regions")
        return SuiteTable("regions", f"regions.parquet, {FEATURES}", frame, ("image_id",))

    def _build_relations(self) -> SuiteTable:
        """Build the relations' columns, image_id, and `n_regions` of the image."""
        frame = self._read("relations")
        frame = frame.astype({name: "float64" if name == "score" else "int64" for name in frame.columns})
        counts = self._images["n_regions"].to_numpy(np.int64)
        frame["n_regions"] = np.repeat(counts, self._images["n_relations"])
        frame["image_id"] = self._repeat_image_ids("n_relations")
        return SuiteTable("relations", "relations.parquet", frame, ("image_id",))

    def _build_splits(self) -> SuiteTable:
        """Build a row per image: image_id, split, picture, and eight more columns.

        apart    distance of its features from the nearest image of another split; 0: equal
        nearest  that image
        copied   share of its regions whose features equal those of one image of another split; 0 in the reference split
        source   that image
        near     share of its regions whose features nearly equal those of one image of another split
        near_to  that image
        again    share of its regions whose features nearly equal those of one image of the same split
        same_as  that image
        """
        frame, similar = self._images[["image_id", "split", "picture"]].copy(), self._measures[1]
        frame["apart"], frame["nearest"] = similar.apart, self._describe_images(similar.nearest)
        frame["copied"], frame["source"] = similar.shares, self._describe_images(similar.sources)
        splits, near = frame["split"].to_numpy(), similar.near
        across = splits[near["image"]] != splits[near["other"]]
        for share, name, pairs in (("near", "near_to", near[across]), ("again", "same_as", near[~across])):
            best = pairs.sort_values("share", kind="stable").drop_duplicates("image", keep="last")
            shares, rows = np.zeros(len(frame)), np.full(len(frame), -1, np.int64)
            shares[best["image"]], rows[best["image"]] = best["share"], best["other"]
            frame[share], frame[name] = shares, self._describe_images(rows)
        context = ("image_id", "split", "nearest", "source", "near_to", "same_as")
        return SuiteTable("splits", "images.parquet", frame, context)

    def _build_meaning(self) -> SuiteTable:
        """Build a row per part of a split, and per split; see `expectations.meaning.table`."""
        frame = build_frame(self.data, self._images, self._reference)
        return SuiteTable("meaning", "images.parquet", frame, ("split", "images"), "groups of images")

    def _describe_images(self, rows: np.ndarray) -> list[str | None]:
        """Describe images by row, id and split; None for row -1."""
        ids, splits = self._images["image_id"].to_numpy(), self._images["split"].to_numpy()
        return [f"row {row}, {ids[row]}, {splits[row]}" if row >= 0 else None for row in rows.tolist()]

    def _repeat_image_ids(self, counts: str) -> pd.Categorical:
        """Repeat each image_id as often as the image's column `counts` states; categorical to save memory."""
        images = self._images
        return pd.Categorical.from_codes(np.repeat(np.arange(len(images)), images[counts]), images["image_id"])


def _compute_copied_shares(frame: pd.DataFrame) -> pd.Series:
    """Compute for each row the share of its split's rows whose `plain` occurs in another split too."""
    pairs = frame[["plain", "split"]].drop_duplicates()
    shared = frame["plain"].isin(pairs["plain"][pairs["plain"].duplicated()])
    return shared.groupby(frame["split"], observed=True).transform("mean").astype("float64")


def _compute_repeated_shares(frame: pd.DataFrame) -> pd.Series:
    """Compute for each row the share of its split's captions with the same text; 0 in a split of few captions."""
    sizes = frame["split"].map(frame["split"].value_counts()).astype("int64")
    counts = frame.groupby(["split", "text"], observed=True)["image"].transform("size")
    return (counts / sizes).where(sizes >= MIN_CAPTIONS, 0.0)


def _find_ids(frame: pd.DataFrame, image_ids: list[str]) -> list[str | None]:
    """Return for each caption its image's id, or the number in it, if the text contains it.

    Short ones may occur in a text by chance, so an id needs six characters with a digit, and a number five digits.
    """
    keys = []
    for name in image_ids:
        stem = name.rpartition("/")[2].rpartition(".")[0] or name
        numbers = re.findall(r"[1-9]\d{4,}", stem)
        keys.append([*([stem] if len(stem) >= 6 and any(map(str.isdigit, stem)) else []), *numbers])
    pairs = zip(frame["text"].tolist(), frame["image"].tolist(), strict=True)
    return [next((key for key in keys[image] if key in text), None) for text, image in pairs]


def simplify(texts: pd.Series) -> pd.Series:
    """Remove case, punctuation, articles and extra white space, so that near duplicates become equal."""
    bare = texts.str.lower().str.replace(r"[^\w\s]", " ", regex=True)
    return bare.str.replace(r"\b(a|an|the)\b", " ", regex=True).str.replace(r"\s+", " ", regex=True).str.strip()

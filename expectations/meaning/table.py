"""Collect all measurements in one table: a row per part of a split, and a row per whole split."""

from __future__ import annotations

import numpy as np
import pandas as pd

from expectations.meaning import captions, neighbours, regions, relations
from expectations.meaning.maps import Agreement
from expectations.meaning.sample import SplitValues, read_sample
from hire_model.data.store import Dataset

MIN_PART = 40
"""Sampled images of a part, or of a split, with fewer of which nothing is measured."""
_MIN_REGIONS = 200  # of a split, to compare feature dimensions
_FREQUENT = 0.1  # share of non-zero numbers; a rarer dimension may be zero in a whole split by chance
_SHOWN = 5  # feature dimensions per message
_RANKS = ("caption_features", "caption_classes", "region_classes", "region_boxes", "predicates")
_NEXT = ("the image before", "the image after")


def build_frame(data: Dataset, images: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Build the table of the suite `meaning`; docs/validation.md lists the columns. None and NaN: not measured.

    Args:
        data: The data set.
        images: Its table of images.
        reference: Name of the reference split.
    """
    builder = _Builder(data, images, reference)
    frame = pd.DataFrame([*builder.measure_parts(), *builder.measure_splits()])
    for name in _RANKS:
        others = [frame[name].drop(row).median() for row in frame.index]
        frame[f"{name}_below"] = np.array(others) - frame[name]
    return frame.set_index("first")


class _Builder:
    """Measures the sample once; each measurement is then averaged over parts or splits."""

    def __init__(self, data: Dataset, images: pd.DataFrame, reference: str) -> None:
        self.data, self.images, self.reference = data, images, reference
        self.counts = images["n_regions"].to_numpy(np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self.sample = read_sample(data, images["split"].to_numpy(), self.counts)
        self.words = captions.CaptionWords(data, self.sample)
        self.classes = captions.count_classes(data, self.sample, self.starts, self.counts)
        self.relations = relations.draw_relations(
            data, self.sample, self.starts, images["n_relations"].to_numpy(np.int64)
        )

    def measure_parts(self) -> list[dict[str, object]]:
        """Return a row per part."""
        sample, n = self.sample, len(self.sample.images)
        everything = np.arange(n)
        region_boxes = self.data.boxes[sample.regions]
        opposite, rescaled = neighbours.compare_neighbours(sample, self.reference)
        equal_boxes = regions.find_equal_boxes(region_boxes, sample.owners, n)
        by_features = captions.compare_captions(sample.pooled, self.words, sample, self.reference)
        by_classes = captions.compare_captions(self.classes, self.words, sample, self.reference)
        of_classes = regions.compare_classes(self.data, sample, self.reference)
        of_boxes = regions.compare_boxes(region_boxes, sample, self.reference)
        of_predicates = relations.compare_predicates(self.data, self.relations, sample, self.reference)
        rows = []
        for part in range(int(sample.parts.max()) + 1):
            members = sample.parts == part
            row = self._name_rows(members)
            for name, values in (("opposite", opposite), ("rescaled", rescaled), ("equal_boxes", equal_boxes)):
                row[name] = _average(values, members)
            for name, agreement in (("caption_features", by_features), ("caption_classes", by_classes)):
                row |= _describe(name, agreement, members, everything, [f"captions of {each}" for each in _NEXT])
            for name, result, owners, texts in (
                (
                    "region_classes",
                    of_classes,
                    sample.owners,
                    [f"classes of the region {x}" for x in ("before", "after")],
                ),
                ("region_boxes", of_boxes, sample.owners, [f"{each} exchanged" for each in regions.EXCHANGES]),
                ("predicates", of_predicates, self.relations.images, ["subject and object exchanged"]),
            ):
                used, agreement = result or (np.empty(0, np.int64), None)
                row |= _describe(name, agreement, members[owners[used]], owners[used], texts)
            rows.append(row)
        return rows

    def measure_splits(self) -> list[dict[str, object]]:
        """Return a row per split, for what needs many images."""
        data, sample, rows = self.data, self.sample, []
        manifest, owners = data.manifest, sample.owners
        region_boxes, region_classes = data.boxes[sample.regions], data.classes[sample.regions]
        sizes = data.image_sizes[sample.images][owners]
        shares = self._measure_relations()
        for name in dict.fromkeys(sample.splits.tolist()):
            members = sample.splits == name
            row = self._name_rows(members)
            inside = members[owners]
            row["class_names"] = captions.rank_names(self.classes > 0, manifest.classes, self.words, members)
            row["sides"] = regions.compare_sides(region_boxes[inside], region_classes[inside])
            row["upright"] = regions.find_upright(
                region_boxes[inside], region_classes[inside], sizes[inside], manifest.classes
            )
            chosen = members[self.relations.images]
            row["contradicted"] = relations.find_contradiction(data, self.relations, chosen)
            others = [values for other, values in sample.values.items() if other != name]
            row |= dict.fromkeys(("constant", "constant_here", "drifted"))
            if np.count_nonzero(members) >= MIN_PART:  # regions of one image are alike, so their number does not count
                row |= compare_dimensions(sample.values[name], others, sample.values[self.reference])
            rows.append(row | shares[name])
        return rows

    def _name_rows(self, members: np.ndarray) -> dict[str, object]:
        rows = self.sample.images[members]
        return {"first": rows[0], "split": self.sample.splits[members][0], "images": f"{rows[0]} to {rows[-1]}"}

    def _measure_relations(self) -> dict[str, dict[str, float]]:
        """Return by split: the share of images with relations relative to the highest of all splits; the top score."""
        images, measured = self.images, {}
        scores, counts = self.data.relation_scores, images["n_relations"].to_numpy(np.int64)
        splits = np.repeat(images["split"].to_numpy(), counts)
        shares = (images["n_relations"] > 0).groupby(images["split"]).mean()
        sizes = images["split"].value_counts()
        for name, share in shares.items():
            compared = sizes[name] >= MIN_PART and shares[sizes >= MIN_PART].max() >= 0.1
            top = scores[splits == name]
            measured[str(name)] = {
                "relation_share": share / shares[sizes >= MIN_PART].max() if compared else np.nan,
                "top_score": float(np.nanmax(top)) if len(top) and np.isfinite(top).any() else np.nan,
            }
        return measured


def _average(values: np.ndarray, members: np.ndarray) -> float:
    known = values[members]
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) >= MIN_PART else float("nan")


def _describe(
    name: str, agreement: Agreement | None, members: np.ndarray, owners: np.ndarray, alternatives: list[str]
) -> dict[str, object]:
    """Return the mean rank of the rows `members`, and as `NAME_fits` the alternative that fits better, or None.

    owners: [rows] the image of each row.
    """
    row: dict[str, object] = {name: float("nan"), f"{name}_fits": None}
    if agreement is None or np.count_nonzero(members) < MIN_PART:
        return row
    row[name] = _average(agreement.ranks, members)
    if better := agreement.find_better(members, owners):
        row[f"{name}_fits"] = alternatives[better - 1]
    return row


def compare_dimensions(values: SplitValues, others: list[SplitValues], reference: SplitValues) -> dict[str, object]:
    """Return as text which feature dimensions are constant everywhere, constant only in this split, or drifted.

    Drifted: mean or deviation differs from the reference split's by more than a deviation or a factor of three.
    """
    row: dict[str, object] = {"constant": None, "constant_here": None, "drifted": None}
    others = [other for other in others if other.regions >= _MIN_REGIONS]
    if values.regions < _MIN_REGIONS or values.constant.all():
        return row
    varies = np.zeros(len(values.mean), bool)
    for other in others:
        varies |= ~other.constant & ((values.mean != 0) | (other.non_zero > _FREQUENT))
    row["constant_here"] = _list_dimensions(values.constant & varies)
    sparse = values.non_zero.mean() < 1 - _FREQUENT  # then a unit that is always zero is usual
    row["constant"] = _list_dimensions(values.constant & ~varies & ~(sparse & (values.mean == 0)))
    both = ~values.constant & ~reference.constant
    both &= np.minimum(values.non_zero, reference.non_zero) > _FREQUENT
    scale = np.maximum(reference.deviation, 1e-9)
    ratio = np.log(np.maximum(values.deviation, 1e-9) / scale)
    drifted = (np.abs(ratio) > np.log(3)) | (np.abs(values.mean - reference.mean) > scale)
    row["drifted"] = _list_dimensions(both & drifted & (reference.regions >= _MIN_REGIONS))
    return row


def _list_dimensions(which: np.ndarray) -> str | None:
    """Return the number of true values and the first few of their indices, or None."""
    rows = np.flatnonzero(which).tolist()
    if not rows:
        return None
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"{len(rows)} of {len(which)} dimensions: {', '.join(map(str, rows[:_SHOWN]))}{more}"

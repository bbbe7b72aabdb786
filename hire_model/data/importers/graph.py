"""Scene graphs from elsewhere, laid over an image's regions by the overlap of boxes.

Scene-Graph-Benchmark writes `custom_prediction.json` ({"0": {bbox, rel_pairs, rel_labels, rel_scores, ...}}) and
`custom_data_info.json` (ind_to_predicates, idx_to_files). Its boxes are in the picture as the network saw it: shorter
side 600, longer side at most 1000. Visual Genome has `relationships.json` ([{image_id, relationships: [{predicate,
subject: {x, y, w, h}, object}]}]) and `image_data.json` (image_id -> coco_id, width, height).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hire_model.data.importers.base import Notes, Source
from hire_model.data.importers.captions import derive_image_keys
from hire_model.data.importers.checks import Relation, check_within, read_numbers
from hire_model.data.importers.files import check_unique, iterate_json, parse_json, read_bytes
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

_SHORT, _LONG = 600, 1000  # Scene-Graph-Benchmark's resize
_BACKGROUND = "__background__"
_ROUNDING = 1e-3  # a score may leave 0-1 by so much
_SPARE = 4  # relations kept per image before matching, as a multiple of those wanted: some find no region


@dataclass(frozen=True)
class GraphOptions:
    """How a graph is laid over the regions.

    iou         a graph's box means the region that it overlaps most, if by so much (intersection over union)
    top         the so many best relations of an image are kept
    frame       sgb: what its boxes are measured in, "resized" (600/1000) or the "original" picture's pixels
    vocabulary  vg: the so many most frequent predicates are kept; its own are free text
    images      sgb: custom_data_info.json, by default the one beside the predictions; vg: image_data.json, whose
                coco_id then names the images; without it Visual Genome's own ids do
    """

    iou: float = 0.5
    top: int = 50
    frame: Literal["resized", "original"] = "resized"
    vocabulary: int = 50
    images: Path | None = None


@dataclass(frozen=True)
class ImageGraph:
    """One image's graph: boxes [b, 4] in pixels, edges [e, 3] int32 (box, predicate, box), scores [e] float32.

    size: (width, height) of the picture that the boxes are measured in, None if it is the data set's own.
    """

    boxes: np.ndarray
    edges: np.ndarray
    scores: np.ndarray
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Graphs:
    """The graphs of a file, by image name."""

    path: Path
    predicates: tuple[str, ...]
    images: dict[str, ImageGraph]
    options: GraphOptions
    resized: bool = False

    def find(self, record: ImageRecord) -> ImageGraph | None:
        """The graph of the record's image."""
        return next((self.images[key] for key in derive_image_keys(record.image_id) if key in self.images), None)


def add_graphs(source: Source, graphs: Graphs) -> Source:
    """The same source with relations from `graphs`; any of its own are replaced. Raises DataError if none fits."""

    def records(notes: Notes) -> Iterator[ImageRecord]:
        kept = 0
        for record in source.records(notes):
            relations = match_relations(record, graphs, notes)
            kept += len(relations)
            yield dataclasses.replace(record, relations=relations)
        notes.add(f"{graphs.path.name}: {kept:,} relations laid over the regions.")
        if not kept:
            raise DataError(
                f"{graphs.path}: not one relation fits a region. Check that the images have the same names, the frame "
                f"of the boxes (--graph-frame, now {graphs.options.frame}), and --graph-iou {graphs.options.iou:g}."
            )

    if not source.named:  # row 5 of a split is not image 5 of COCO or Visual Genome
        raise DataError(
            f"{graphs.path}: names its images, and the source does not. For the SCAN layout add SPLIT_names.txt, the "
            "name of each image on a line, in the order of the features."
        )
    if source.predicates:
        source.notes.add(f"The source's own relations are replaced by those of {graphs.path.name}.")
    return dataclasses.replace(source, predicates=graphs.predicates, records=records)


def match_relations(record: ImageRecord, graphs: Graphs, notes: Notes) -> list[Relation]:
    """The graph of one image as relations between its regions, best first."""
    where = f"image '{record.image_id}'"
    graph = graphs.find(record)
    if graph is None:
        notes.count("images without a graph", where)
        return []
    if record.boxes is None:
        raise DataError(f"{where}: a graph can only be laid over regions that have boxes; the source has none.")
    size = graph.size or (record.width, record.height)
    if not all(size):
        raise DataError(f"{where}: its width and height are not known, so boxes in pixels cannot be compared.")
    if graphs.resized:
        size = compute_resized_size(*size)
    region = match_boxes(graph.boxes / np.array([*size, *size], np.float32), record.boxes, graphs.options.iou)
    best: dict[tuple[int, int, int], float] = {}
    for (subject, predicate, object_), score in zip(graph.edges.tolist(), graph.scores.tolist(), strict=True):
        ends = int(region[subject]), int(region[object_])
        if min(ends) < 0 or ends[0] == ends[1]:
            notes.count("relations dropped, as their boxes are no two regions", where)
            continue
        edge = (ends[0], predicate, ends[1])
        best[edge] = max(score, best.get(edge, 0.0))
    ranked = sorted(best.items(), key=lambda item: -item[1])[: graphs.options.top]
    return [(*edge, score) for edge, score in ranked]


def match_boxes(boxes: np.ndarray, regions: np.ndarray, least: float) -> np.ndarray:
    """[b] index of the region with the greatest IoU for each box, -1 where that is below `least`.

    boxes [b, 4] and regions [r, 4] are x1 y1 x2 y2 in one frame; a region of NaN never matches.
    """
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, regions)]
    iou = np.nan_to_num(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12), nan=-1.0)
    return np.where(iou.max(axis=1) >= least, iou.argmax(axis=1), -1)


def compute_resized_size(width: int, height: int) -> tuple[int, int]:
    """Size of a picture as Scene-Graph-Benchmark shows it to its network: short side 600, long side at most 1000."""
    short, long = min(width, height), max(width, height)
    side = round(_LONG * short / long) if long / short * _SHORT > _LONG else _SHORT
    if short == side:
        return width, height
    return (side, int(side * height / width)) if width < height else (int(side * width / height), side)


def read_sgb(path: Path, options: GraphOptions) -> Graphs:
    """Scene-Graph-Benchmark's predictions. Raises DataError naming file, image and field."""
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected Scene-Graph-Benchmark's custom_prediction.json.")
    info_path = (options.images or path.with_name("custom_data_info.json")).expanduser()
    info = parse_json(read_bytes(info_path), str(info_path))
    names, files = (info.get(key) if isinstance(info, dict) else None for key in ("ind_to_predicates", "idx_to_files"))
    if not isinstance(names, list) or not isinstance(files, list):
        raise DataError(f"{info_path}: expected an object with the lists ind_to_predicates and idx_to_files.")
    first = 1 if names and names[0] == _BACKGROUND else 0
    predicates = tuple(map(str, names[first:]))
    check_unique(predicates, info_path, "ind_to_predicates: the name", "at", first)
    images: dict[str, ImageGraph] = {}
    for key, value in iterate_json(path):
        where = f"{path}: image '{key}'"
        if not key.isdecimal() or int(key) >= len(files):
            raise DataError(f"{where}: {info_path.name} names {len(files)} files, none for this one.")
        graph = _read_sgb_image(value, first, len(names), options.top * _SPARE, where)
        images.update(dict.fromkeys(derive_image_keys(str(files[int(key)])), graph))
    return Graphs(path, predicates, images, options, options.frame == "resized")


def _read_sgb_image(value: Any, first: int, names: int, keep: int, where: str) -> ImageGraph:
    boxes, pairs = read_numbers(value, "bbox", 4, "iuf", where), read_numbers(value, "rel_pairs", 2, "iu", where)
    labels, scores = (
        read_numbers(value, "rel_labels", 0, "iu", where),
        read_numbers(value, "rel_scores", 0, "iuf", where),
    )
    if not len(pairs) == len(labels) == len(scores):
        raise DataError(f"{where}: {len(pairs)} rel_pairs, {len(labels)} rel_labels, {len(scores)} rel_scores.")
    check_within(pairs, 0, len(boxes) - 1, 0, f"{where}: rel_pairs names box")
    check_within(labels, first, names - 1, 0, f"{where}: unknown predicate")
    check_within(scores, 0, 1, _ROUNDING, f"{where}: rel_scores holds")
    scores = scores.astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:keep]
    edges = np.stack([pairs[best, 0], labels[best] - first, pairs[best, 1]], axis=1).astype(np.int32)
    return ImageGraph(boxes.astype(np.float32), edges, np.clip(scores[best], 0, 1))


def read_vg(path: Path, options: GraphOptions) -> Graphs:
    """Visual Genome's relationships. Raises DataError naming file, entry and field."""
    path = path.expanduser()
    known = _read_vg_images(options.images.expanduser()) if options.images else None
    words: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    found: dict[str, ImageGraph] = {}
    for key, value in iterate_json(path):
        where = f"{path}: entry {key}"
        if not isinstance(value, dict) or "image_id" not in value or not isinstance(value.get("relationships"), list):
            raise DataError(f"{where}: expected an object with image_id and the list relationships.")
        name, size = known.get(str(value["image_id"]), ("", None)) if known else (str(value["image_id"]), None)
        if name:
            found[name] = _read_vg_image(value["relationships"], words, numbers, size, where)
    common = [word for word, _ in words.most_common(options.vocabulary)]
    new = np.full(len(numbers), -1, np.int32)
    new[[numbers[word] for word in common]] = np.arange(len(common))
    return Graphs(path, tuple(common), {name: _renumber_predicates(g, new) for name, g in found.items()}, options)


def _read_vg_images(path: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """Visual Genome id -> (COCO id, (width, height)) of each image that COCO has."""
    images = {}
    for key, value in iterate_json(path):
        try:
            if value["coco_id"] is not None:
                images[str(value["image_id"])] = (str(value["coco_id"]), (int(value["width"]), int(value["height"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: entry {key}: expected image_id, coco_id, width and height.") from error
    return images


def _read_vg_image(
    relationships: list[Any], words: Counter[str], numbers: dict[str, int], size: tuple[int, int] | None, where: str
) -> ImageGraph:
    boxes: list[tuple[float, float, float, float]] = []
    edges: list[tuple[int, int, int]] = []
    for at, relation in enumerate(relationships):
        try:
            predicate = " ".join(relation["predicate"].lower().split())
            ends = [[float(relation[end][key]) for key in "xywh"] for end in ("subject", "object")]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(
                f"{where}, relationship {at}: expected predicate, and subject and object with x, y, w, h."
            ) from error
        if predicate and all(w > 0 and h > 0 for _, _, w, h in ends):
            words[predicate] += 1
            edges.append((len(boxes), numbers.setdefault(predicate, len(numbers)), len(boxes) + 1))
            boxes += [(x, y, x + w, y + h) for x, y, w, h in ends]
    return ImageGraph(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(edges, np.int32).reshape(-1, 3),
        np.ones(len(edges), np.float32),
        size,
    )


def _renumber_predicates(graph: ImageGraph, new: np.ndarray) -> ImageGraph:
    edges = graph.edges.copy()
    edges[:, 1] = new[edges[:, 1]]
    kept = edges[:, 1] >= 0
    return dataclasses.replace(graph, edges=edges[kept], scores=graph.scores[kept])

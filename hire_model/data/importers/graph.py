"""Import scene graphs. Their boxes are matched with the regions of an image by overlap.

Two layouts are supported:
- Scene-Graph-Benchmark: `custom_prediction.json` ({"0": {bbox, rel_pairs, rel_labels, rel_scores, ...}}) and
  `custom_data_info.json` (ind_to_predicates, idx_to_files). Boxes are in pixels of the resized picture: shorter side
  600, longer side at most 1000.
- Visual Genome: `relationships.json` ([{image_id, relationships: [{predicate, subject: {x, y, w, h}, object}]}]) and
  `image_data.json` (image_id -> coco_id, width, height).
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
from hire_model.data.schema import FROM_FILE, MakerFacts, hash_file
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

_SHORT, _LONG = 600, 1000  # sides of a picture after the resize of Scene-Graph-Benchmark
Box = tuple[float, float, float, float]
_BACKGROUND = "__background__"
_ROUNDING = 1e-3  # a score may be outside 0-1 by this much
_SPARE = 4  # factor of relations kept before matching, because some boxes match no region


@dataclass(frozen=True)
class GraphOptions:
    """How to read a graph and match it with the regions.

    iou         minimum IoU (intersection over union) of a box of the graph with its best region
    top         maximum number of relations per image; those with the highest scores are kept
    frame       Scene-Graph-Benchmark: boxes are in pixels of the "resized" (600/1000) or the "original" picture
    vocabulary  Visual Genome: number of predicates to keep, the most frequent ones (its predicates are free text)
    images      Scene-Graph-Benchmark: custom_data_info.json, default: the one beside the predictions;
                Visual Genome: image_data.json, to name images by coco_id; without it, by image_id
    """

    iou: float = 0.5
    top: int = 50
    frame: Literal["resized", "original"] = "resized"
    vocabulary: int = 50
    images: Path | None = None


@dataclass(frozen=True)
class ImageGraph:
    """The graph of one image.

    boxes   [b, 4] in pixels
    edges   [e, 3] int32: box, predicate, box
    scores  [e] float32
    size    (width, height) of the picture that the boxes refer to; None: the size in the data set
    """

    boxes: np.ndarray
    edges: np.ndarray
    scores: np.ndarray
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Graphs:
    """The graphs of a file by image name. `resized`: boxes are in pixels of the resized picture (600/1000)."""

    layout: str
    path: Path
    predicates: tuple[str, ...]
    images: dict[str, ImageGraph]
    options: GraphOptions
    resized: bool = False

    def find(self, record: ImageRecord) -> ImageGraph | None:
        """Return the graph of the image of `record`, None if there is none."""
        return next((self.images[key] for key in derive_image_keys(record.image_id) if key in self.images), None)


def add_graphs(source: Source, graphs: Graphs) -> Source:
    """Return `source` with the relations of `graphs`. Relations of the source itself are replaced.

    Raise DataError if the images of the source have no names, or, while reading, if no relation matches.
    """

    def records(notes: Notes) -> Iterator[ImageRecord]:
        count = 0
        for record in source.records(notes):
            relations = match_relations(record, graphs, notes)
            count += len(relations)
            yield dataclasses.replace(record, relations=relations)
        notes.add(f"{graphs.path.name}: {count:,} relations matched with regions.")
        if not count:
            raise DataError(
                f"{graphs.path}: no relation matches the regions. Check that the images have the same names, the frame "
                f"of the boxes (--graph-frame, now {graphs.options.frame}), and --graph-iou {graphs.options.iou:g}."
            )

    if not source.named:  # row 5 of a split is not image 5 of COCO or Visual Genome
        raise DataError(
            f"{graphs.path}: refers to images by name, but the source has no image names. For the SCAN layout, "
            "add SPLIT_names.txt with one image name per line, in the order of the features."
        )
    if source.predicates:
        source.notes.add(f"The relations of the source are replaced by those of {graphs.path.name}.")
    facts = MakerFacts(
        kind=FROM_FILE,
        name=f"{graphs.layout}, {graphs.path.name}",
        digest=hash_file(graphs.path).sha256,
        options=dataclasses.asdict(graphs.options) | {"images": graphs.options.images and graphs.options.images.name},
    )
    return dataclasses.replace(source, predicates=graphs.predicates, records=records, relation_maker=facts)


def match_relations(record: ImageRecord, graphs: Graphs, notes: Notes) -> list[Relation]:
    """Return the graph of one image as relations between its regions, highest score first."""
    where = f"image '{record.image_id}'"
    graph = graphs.find(record)
    if graph is None:
        notes.count("images without a graph", where)
        return []
    if record.boxes is None:
        raise DataError(f"{where}: the regions have no boxes. Expected boxes, to match them with the graph.")
    size = graph.size or (record.width, record.height)
    if not all(size):
        raise DataError(f"{where}: width and height are unknown. Expected both, to match boxes in pixels.")
    if graphs.resized:
        size = compute_resized_size(*size)
    region = match_boxes(graph.boxes / np.array([*size, *size], np.float32), record.boxes, graphs.options.iou)
    best: dict[tuple[int, int, int], float] = {}
    for (subject, predicate, object_), score in zip(graph.edges.tolist(), graph.scores.tolist(), strict=True):
        ends = int(region[subject]), int(region[object_])
        if min(ends) < 0 or ends[0] == ends[1]:
            notes.count("relations dropped, because their boxes do not match two different regions", where)
            continue
        edge = (ends[0], predicate, ends[1])
        best[edge] = max(score, best.get(edge, 0.0))
    ranked = sorted(best.items(), key=lambda item: -item[1])[: graphs.options.top]
    return [(*edge, score) for edge, score in ranked]


def match_boxes(boxes: np.ndarray, regions: np.ndarray, min_iou: float) -> np.ndarray:
    """Return the index of the region with the highest IoU for each box, [b], or -1 if that IoU is below `min_iou`.

    boxes [b, 4] and regions [r, 4] are x1 y1 x2 y2 in the same unit. A region of NaN never matches.
    """
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, regions)]
    iou = np.nan_to_num(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12), nan=-1.0)
    return np.where(iou.max(axis=1) >= min_iou, iou.argmax(axis=1), -1)


def compute_resized_size(width: int, height: int) -> tuple[int, int]:
    """Return the picture size after the resize of Scene-Graph-Benchmark: short side 600, long side at most 1000."""
    short, long = min(width, height), max(width, height)
    side = round(_LONG * short / long) if long / short * _SHORT > _LONG else _SHORT
    if short == side:
        return width, height
    return (side, int(side * height / width)) if width < height else (int(side * width / height), side)


def read_sgb(path: Path, options: GraphOptions) -> Graphs:
    """Read predictions of Scene-Graph-Benchmark. A DataError names file, image and field."""
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected Scene-Graph-Benchmark's custom_prediction.json.")
    info_path = (options.images or path.with_name("custom_data_info.json")).expanduser()
    info = parse_json(read_bytes(info_path), str(info_path))
    names, files = (info.get(key) if isinstance(info, dict) else None for key in ("ind_to_predicates", "idx_to_files"))
    if not isinstance(names, list) or not isinstance(files, list):
        raise DataError(
            f"{info_path}: wrong layout. Expected an object with the lists ind_to_predicates and idx_to_files."
        )
    first = 1 if names and names[0] == _BACKGROUND else 0
    predicates = tuple(map(str, names[first:]))
    check_unique(predicates, info_path, "ind_to_predicates: the name", "at", first)
    images: dict[str, ImageGraph] = {}
    for key, value in iterate_json(path):
        where = f"{path}: image '{key}'"
        if not key.isdecimal() or int(key) >= len(files):
            raise DataError(
                f"{where}: no file name in {info_path.name}, which names {len(files)} files. Expected one per image."
            )
        graph = _read_sgb_image(value, first, len(names), options.top * _SPARE, where)
        images.update(dict.fromkeys(derive_image_keys(str(files[int(key)])), graph))
    return Graphs("Scene-Graph-Benchmark", path, predicates, images, options, options.frame == "resized")


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
    """Read relationships of Visual Genome. A DataError names file, entry and field."""
    path = path.expanduser()
    coco_images = _read_vg_images(options.images.expanduser()) if options.images else None
    predicate_counts: Counter[str] = Counter()
    indices: dict[str, int] = {}
    graphs: dict[str, ImageGraph] = {}
    for value, where in iterate_vg(path):
        image_id = str(value["image_id"])
        name, size = coco_images.get(image_id, ("", None)) if coco_images else (image_id, None)
        if name:
            graphs[name] = _read_vg_image(value["relationships"], predicate_counts, indices, size, where)
    predicates = [predicate for predicate, _ in predicate_counts.most_common(options.vocabulary)]
    new_indices = np.full(len(indices), -1, np.int32)
    new_indices[[indices[predicate] for predicate in predicates]] = np.arange(len(predicates))
    graphs = {name: _renumber_predicates(graph, new_indices) for name, graph in graphs.items()}
    return Graphs("Visual Genome", path, tuple(predicates), graphs, options)


def iterate_vg(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the entries of relationships.json, which have image_id and relationships, and the place of each."""
    for key, value in iterate_json(path):
        where = f"{path}: entry {key}"
        if not isinstance(value, dict) or "image_id" not in value or not isinstance(value.get("relationships"), list):
            raise DataError(f"{where}: wrong layout. Expected an object with image_id and the list relationships.")
        yield value, where


def _read_vg_images(path: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """Return image_id -> (coco_id, (width, height)) of each image that is also in COCO."""
    images = {}
    for key, value in iterate_json(path):
        try:
            if value["coco_id"] is not None:
                images[str(value["image_id"])] = (str(value["coco_id"]), (int(value["width"]), int(value["height"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: entry {key}: wrong layout. Expected image_id, coco_id, width and height."
            ) from error
    return images


def _read_vg_image(
    relationships: list[Any],
    predicate_counts: Counter[str],
    indices: dict[str, int],
    size: tuple[int, int] | None,
    where: str,
) -> ImageGraph:
    """Read one entry. Count its predicates in `predicate_counts`, and assign an index to each new one in `indices`."""
    boxes: list[Box] = []
    edges: list[tuple[int, int, int]] = []
    for relation in parse_relationships(relationships, where):
        predicate_counts[relation.predicate] += 1
        edges.append((len(boxes), indices.setdefault(relation.predicate, len(indices)), len(boxes) + 1))
        boxes += relation.boxes
    return ImageGraph(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(edges, np.int32).reshape(-1, 3),
        np.ones(len(edges), np.float32),
        size,
    )


@dataclass(frozen=True)
class Relationship:
    """One relationship of Visual Genome. boxes: x1 y1 x2 y2 in pixels; names and boxes of subject and object."""

    predicate: str
    names: tuple[str, str]
    boxes: tuple[Box, Box]


def parse_relationships(relationships: list[Any], where: str) -> Iterator[Relationship]:
    """Yield the relationships of one image that have a predicate and boxes with an area.

    An object is named by "name", or by the first of "names" as in the first release; "" without either.
    """
    for number, relation in enumerate(relationships):
        try:
            predicate = " ".join(relation["predicate"].lower().split())
            ends = [relation[end] for end in ("subject", "object")]
            subject, object_ = ([float(end[key]) for key in "xywh"] for end in ends)
            names = [str(end.get("name") or next(iter(end.get("names") or []), "")) for end in ends]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(
                f"{where}, relationship {number}: wrong layout. Expected predicate, and subject and object with "
                "x, y, w, h."
            ) from error
        if predicate and min(*subject[2:], *object_[2:]) > 0:
            first, second = ((x, y, x + w, y + h) for x, y, w, h in (subject, object_))
            yield Relationship(predicate, (names[0], names[1]), (first, second))


def _renumber_predicates(graph: ImageGraph, new_indices: np.ndarray) -> ImageGraph:
    edges = graph.edges.copy()
    edges[:, 1] = new_indices[edges[:, 1]]
    kept = edges[:, 1] >= 0
    return dataclasses.replace(graph, edges=edges[kept], scores=graph.scores[kept])

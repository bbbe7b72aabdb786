"""Make the relations of images that are being imported, or of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from hire_model.data.importers.base import Notes, Source
from hire_model.data.importers.checks import Relation
from hire_model.data.relations.maker import RegionBlock, RelationMaker, make_block
from hire_model.data.relations.recorded import record_maker
from hire_model.data.schema import EXTRACTOR
from hire_model.data.store import Dataset, ImageRegions
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError
from hire_model.progress import show_progress

BLOCK = 256


def relate_source(source: Source, maker: RelationMaker) -> Source:
    """Return `source` with the relations that `maker` makes, image by image. Its own relations are replaced."""

    def records(notes: Notes) -> Iterator[ImageRecord]:
        for record in source.records(notes):
            if record.boxes is None:
                raise DataError(
                    f"image '{record.image_id}': the regions have no boxes. Expected boxes, to relate them."
                )
            count = len(record.boxes)
            classes = np.full(count, -1) if record.classes is None else record.classes
            scores = np.full(count, np.nan) if record.scores is None else record.scores
            block = make_block([(record.boxes, classes, scores)], np.array([[record.width, record.height]]))
            (relations,) = _list_relations(maker, block)
            if not relations:
                notes.count("images without relations", f"image '{record.image_id}'")
            yield dataclasses.replace(record, relations=relations)

    return _record_maker(dataclasses.replace(source, records=records), maker)


def open_related(dataset: Dataset, makers: Sequence[RelationMaker], choice: np.ndarray) -> Source:
    """Return the images of a data set with made relations instead of its own.

    Args:
        dataset: the data set.
        makers: one or more, with the same predicates; the last one is recorded.
        choice: [images], the index in `makers` of the maker for each image.
    """
    manifest, related = dataset.manifest, _relate_all(dataset, makers, choice)
    owners = np.argsort(dataset.caption_images, kind="stable")
    ends = np.searchsorted(dataset.caption_images[owners], np.arange(1, len(related)))
    captions = np.split(owners, ends)

    def records(notes: Notes) -> Iterator[ImageRecord]:
        for row, relations in enumerate(related):
            yield dataclasses.replace(_read_record(dataset, row, captions[row]), relations=relations)

    extractor = manifest.extractor
    source = Source(
        manifest.source, manifest.feature_dim, len(related), records, manifest.classes, extractor=extractor,
        extractor_file=dataset.folder / EXTRACTOR if extractor and extractor.file else None,
    )  # fmt: skip
    return _record_maker(source, makers[-1])


def read_block(dataset: Dataset, rows: Sequence[int]) -> RegionBlock:
    """Return the regions of the images `rows` of a data set."""
    layouts = [dataset.layout(row) for row in rows]
    return make_block([(each.boxes, each.classes, each.scores) for each in layouts], dataset.image_sizes[list(rows)])


def relate_image(maker: RelationMaker, regions: ImageRegions, width: int, height: int) -> ImageRegions:
    """Return the regions of one picture with made relations."""
    block = make_block([(regions.boxes, regions.classes, regions.scores)], np.array([[width, height]]))
    relations, scores = maker.relate(block).select(0)
    return dataclasses.replace(regions, relations=relations, relation_scores=scores)


def _record_maker(source: Source, maker: RelationMaker) -> Source:
    return dataclasses.replace(
        source, predicates=maker.predicates, relation_maker=record_maker(maker), relation_prior=maker.weights
    )


def _relate_all(dataset: Dataset, makers: Sequence[RelationMaker], choice: np.ndarray) -> list[list[Relation]]:
    """Return the relations of all images. Raise DataError if there is none, or the classes are not the makers'."""
    related: list[list[Relation]] = [[] for _ in choice]
    for number, maker in enumerate(makers):
        if maker.classes not in (None, dataset.manifest.classes):
            raise DataError(f"{dataset.folder}: other classes than those of '{maker.name}'. Fit the prior again.")
        chosen = np.flatnonzero(choice == number).tolist()
        for start in show_progress(range(0, len(chosen), BLOCK), "relate regions"):
            rows = chosen[start : start + BLOCK]
            for row, found in zip(rows, _list_relations(maker, read_block(dataset, rows)), strict=True):
                related[row] = found
    if not any(related):
        raise DataError(
            f"{dataset.folder}: no relation was made. Expected regions with boxes and, if the data set has class "
            "names, classes: cells of a grid are not related. Import the pictures with --detector."
        )
    return related


def _list_relations(maker: RelationMaker, block: RegionBlock) -> list[list[Relation]]:
    triplets = maker.relate(block)
    related: list[list[Relation]] = [[] for _ in block.boxes]
    for (image, subject, predicate, object_), score in zip(
        triplets.rows.tolist(), triplets.scores.tolist(), strict=True
    ):
        related[image].append((subject, predicate, object_, score))
    return related


def _read_record(dataset: Dataset, row: int, captions: np.ndarray) -> ImageRecord:
    regions = dataset.regions(row)
    width, height = dataset.image_sizes[row].tolist()
    return ImageRecord(
        image_id=str(dataset.image_ids[row]),
        split=str(dataset.image_splits[row]),
        features=regions.features,
        captions=dataset.caption_texts[captions].tolist(),
        caption_ids=dataset.caption_ids[captions].tolist(),
        width=width,
        height=height,
        boxes=regions.boxes,
        classes=regions.classes,
        scores=regions.scores,
        picture=dataset.picture_name(row),
    )

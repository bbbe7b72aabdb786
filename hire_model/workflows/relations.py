"""Make the relations of a data set: fit a prior if one is wanted, relate all regions, write a new data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hire_model.data.importers.base import Notes, Target, write_dataset
from hire_model.data.importers.graph import iterate_vg, parse_relationships
from hire_model.data.relations.fitting import FOLDS, Evidence
from hire_model.data.relations.geometry import GeometryRules
from hire_model.data.relations.maker import PER_REGION, RegionBlock, RelationMaker
from hire_model.data.relations.making import BLOCK, open_related, read_block
from hire_model.data.relations.nouns import ClassFinder
from hire_model.data.schema import PICTURES, Manifest, hash_file
from hire_model.data.store import Dataset, Split
from hire_model.errors import DataError
from hire_model.evaluation.dataset_figures import describe_maker
from hire_model.progress import show_progress
from hire_model.training.caption_negatives import (
    AUXILIARIES,
    CaptionNegatives,
    find_noun_phrases,
    find_relations,
    is_predicate,
    learn_words,
    split_words,
)

_FEW = 100  # relations that a prior should be fitted on


@dataclass(frozen=True)
class RelationJob:
    """Which relations to make.

    maker  geometry rules or a learned prior
    top    relations in which a region is the subject
    fit    what the prior is fitted on: "relations" or "captions" of the training split, or the path of Visual Genome's
           relationships.json; empty: relations if the split has imported ones, else captions
    train  name of the training split
    """

    maker: Literal["geometry", "prior"]
    top: int = PER_REGION
    fit: str = ""
    train: str = "train"


def make_relations(dataset: Dataset, job: RelationJob, target: Target) -> tuple[Manifest, Notes]:
    """Write a data set with made relations, and return its manifest and notes for the user.

    A prior sees the training split only, and the relations of a training image come from a prior that was fitted
    without this image's fold. The last prior, fitted on all of them, makes all other relations and is recorded.

    Raises:
        DataError: `fit` does not fit the data set, nothing could be learned, or no relation was made.
    """
    if target.out.expanduser().resolve() == dataset.folder.resolve():
        raise DataError(f"{target.out}: is the data set itself. Choose another --out.")
    notes = Notes()
    choice = np.zeros(len(dataset.image_ids), np.int64)
    makers: list[RelationMaker] = [GeometryRules(job.top)]
    if job.maker == "prior":
        train = dataset.split(job.train)
        makers = [*_fit_priors(train, job, notes)]
        choice[:] = len(makers) - 1
        if len(makers) > 1:
            choice[train.images] = _divide(train)
    elif job.fit:
        raise DataError(f"--fit {job.fit}: geometry rules are not fitted. Leave it out, or use --from prior.")
    if dataset.relations.size:
        notes.add(f"The {len(dataset.relations):,} relations of {dataset.folder} are replaced.")
    source = open_related(dataset, makers, choice)
    pictures = dataset.folder / PICTURES
    manifest = dataset.manifest
    full = Target(
        target.out,
        target.name,
        manifest.feature_extractor,
        manifest.feature_dtype,
        manifest.licence,
        pictures if pictures.is_dir() else None,
        target.overwrite,
    )
    return write_dataset(source, full), notes


def _fit_priors(train: Split, job: RelationJob, notes: Notes) -> Iterator[RelationMaker]:
    """Yield a prior without each fold, and one with all; for an outside file only the latter."""
    manifest = train.dataset.manifest
    if not manifest.classes:
        raise DataError(f"{train.dataset.folder}: no class names. A prior needs them; use --from geometry.")
    inside = job.fit in ("", "relations", "captions")
    fit = job.fit or ("relations" if train.relation_counts.any() and not manifest.has_made_relations else "captions")
    evidence, count = _collect_evidence(train, fit)
    source = f"{fit} of split {train.name} of {manifest.name}" if inside else _name_file(Path(fit).expanduser())
    if not count:
        raise DataError(
            f"{source}: no relation between two of the {len(manifest.classes)} classes was found. Expected relations "
            "between named regions, or English captions that name the classes. Use --from geometry, or another --fit."
        )
    notes.add(f"The prior was fitted on {count:,} relations: {source}.")
    if count < _FEW:
        notes.add("That is little; expect rough relations.")
    if inside:
        for fold in range(FOLDS):
            yield evidence.fit(source, job.top, without=fold)
    yield evidence.fit(source, job.top)


def _collect_evidence(train: Split, fit: str) -> tuple[Evidence, int]:
    """Return what a prior is fitted on, and the number of relations in it."""
    manifest = train.dataset.manifest
    if fit == "relations" and manifest.has_made_relations:
        raise DataError(
            f"{train.dataset.folder}: its relations were made by '{describe_maker(manifest.relation_maker)}', so there "
            "is nothing to learn from them. Use the data set that they were made from, or --fit captions."
        )
    evidence = Evidence(manifest.classes)
    if fit == "relations":
        return evidence, _add_stored(evidence, train)
    if fit == "captions":
        return evidence, _add_captions(evidence, train)
    return evidence, _add_visual_genome(evidence, Path(fit).expanduser())


def _name_file(path: Path) -> str:
    return f"{path.name} ({hash_file(path).sha256[:16]})"


def _divide(train: Split) -> np.ndarray:
    """Return the fold of each image of the training split."""
    return np.arange(len(train.images)) % FOLDS


def _iterate_blocks(train: Split, description: str) -> Iterator[tuple[np.ndarray, RegionBlock, np.ndarray]]:
    """Yield indices of images in the split, their regions and their folds."""
    folds = _divide(train)
    for start in show_progress(range(0, len(train.images), BLOCK), description):
        indices = np.arange(start, min(start + BLOCK, len(train.images)))
        yield indices, read_block(train.dataset, train.images[indices].tolist()), folds[indices]


def _add_stored(evidence: Evidence, train: Split) -> int:
    """Add the relations of the training split, and return their number."""
    if not train.relation_counts.any():
        raise DataError(f"{train.dataset.folder}: split '{train.name}' has no relations. Use --fit captions.")
    names, count = train.dataset.manifest.predicates, 0
    for indices, block, folds in _iterate_blocks(train, "fit the prior"):
        layouts = [train.dataset.layout(row) for row in train.images[indices].tolist()]
        images = np.repeat(np.arange(len(indices)), [len(each.relations) for each in layouts])
        relations = np.concatenate([each.relations for each in layouts])
        rows = np.column_stack([images, relations[:, 0], relations[:, 2]])
        predicates = [names[number] for number in relations[:, 1].tolist()]
        count += evidence.add(block, rows, predicates, np.ones(len(rows)), folds)
    return count


def _add_captions(evidence: Evidence, train: Split) -> int:
    """Add the relations that the training captions name, and return their number.

    A relation between two classes with several regions counts once, divided over all their pairs.
    """
    lexicon, finder = learn_words(train.texts), ClassFinder(evidence.classes)
    captions = np.split(
        np.argsort(train.owner, kind="stable"), np.cumsum(np.bincount(train.owner, minlength=len(train.images)))[:-1]
    )
    count = 0
    for indices, block, folds in _iterate_blocks(train, "fit the prior"):
        rows: list[tuple[int, int, int]] = []
        predicates: list[str] = []
        weights: list[float] = []
        for image, index in enumerate(indices.tolist()):
            for caption in captions[index].tolist():
                for subjects, predicate, objects in find_named_relations(train.texts[caption], lexicon, finder):
                    pairs = _list_pairs(block, image, subjects, objects)
                    rows += [(image, *pair) for pair in pairs]
                    predicates += [predicate] * len(pairs)
                    weights += [1 / max(len(pairs), 1)] * len(pairs)
        count += evidence.add(block, np.array(rows), predicates, np.array(weights), folds)
    return count


def find_named_relations(
    text: str, lexicon: CaptionNegatives, finder: ClassFinder
) -> list[tuple[tuple[int, ...], str, tuple[int, ...]]]:
    """Return the relations of a caption between two phrases that name classes: classes, predicate, classes."""
    words = [word.lower() for word in split_words(text)]
    found = []
    for one, two in find_relations(words, find_noun_phrases(words, lexicon)):
        between = words[one.last + 1 : two.first]
        predicate = " ".join(between[between[0] in AUXILIARIES :])
        subjects, objects = (finder.find(words[phrase.first : phrase.last + 1]) for phrase in (one, two))
        if subjects and objects and is_predicate(predicate.split()):
            found.append((subjects, predicate, objects))
    return found


def _list_pairs(
    block: RegionBlock, image: int, subjects: Sequence[int], objects: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the pairs of different regions of an image with one of these classes each."""
    classes = np.where(block.related[image], block.classes[image], -1)
    first, second = (np.flatnonzero(np.isin(classes, ids)).tolist() for ids in (subjects, objects))
    return [(i, j) for i in first for j in second if i != j]


def _add_visual_genome(evidence: Evidence, path: Path) -> int:
    """Add the relationships between objects whose names are classes, and return their number."""
    if not path.is_file():
        raise DataError(
            f"--fit {path}: no such file. Expected relations, captions, or Visual Genome's relationships.json."
        )
    finder, count = ClassFinder(evidence.classes), 0
    for value, where in show_progress(iterate_vg(path), "fit the prior"):
        regions: dict[tuple[int, tuple[float, ...]], int] = {}
        rows, predicates = [], []
        for relation in parse_relationships(value["relationships"], where):
            found = [finder.find(name.split()) for name in relation.names]
            if all(found):
                ends = [
                    regions.setdefault((ids[0], box), len(regions))
                    for ids, box in zip(found, relation.boxes, strict=True)
                ]
                rows.append((0, *ends))
                predicates.append(relation.predicate)
        if rows:
            boxes = np.array([box for _, box in regions])[None]
            classes = np.array([[number for number, _ in regions]])
            block = RegionBlock(boxes, classes, np.ones(classes.shape), np.ones(classes.shape, bool))
            count += evidence.add(block, np.array(rows), predicates, np.ones(len(rows)), np.zeros(1, np.int64))
    return count

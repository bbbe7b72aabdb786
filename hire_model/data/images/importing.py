"""Import a folder of pictures with captions: extract regions, divide into splits, write the data set."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hire_model.data.images.captions import read_picture_captions
from hire_model.data.images.extraction import MakeExtractor, extract_pictures
from hire_model.data.images.extractors import open_extractor
from hire_model.data.images.recorded import describe_extractor
from hire_model.data.images.shards import ShardStore
from hire_model.data.images.splits import Shares, assign_splits, group_near_duplicates
from hire_model.data.importers.base import Notes, PictureFinder, Source, Target, write_dataset
from hire_model.data.importers.captions import CaptionedImage
from hire_model.data.relations.geometry import GeometryRules
from hire_model.data.relations.making import relate_source
from hire_model.data.schema import Manifest, name_with_digest
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError
from hire_model.files import write_text
from hire_model.workers import THIS_PROCESS, Workers

_LISTED = 20  # skipped pictures that a message names


@dataclass(frozen=True)
class ImageImport:
    """What to import.

    captions_format  "auto" or one of captions.FORMATS
    detector         ONNX file of a YOLOX detector, or a checkpoint; None for grid regions
    shares, seed     of the splits, if the captions file has none
    strict           refuse the import if a picture is missing or unusable, instead of leaving it out
    backbone, tower  checkpoint of the features, and whether to append its embedding; see `CheckpointExtractor`
    classes          names that an open-vocabulary detector looks for
    relations        relate the regions by geometry rules
    """

    folder: Path
    captions: Path
    captions_format: str = "auto"
    detector: str | Path | None = None
    shares: Shares = field(default_factory=Shares)
    seed: int = 0
    workers: Workers = THIS_PROCESS
    strict: bool = False
    backbone: str = ""
    tower: bool = False
    classes: tuple[str, ...] = ()
    relations: bool = False


@dataclass(frozen=True)
class _Found:
    """A picture with captions, the path of its file below the folder, and the digest of the file."""

    image: CaptionedImage
    path: str
    digest: str


def import_images(
    job: ImageImport, target: Target, make_extractor: MakeExtractor | None = None
) -> tuple[Manifest, Notes]:
    """Write the data set and return its manifest and notes for the user. `make_extractor` replaces the usual one.

    Extracted regions are kept in the folder `OUT.regions` beside the data set: after an interruption the same command
    continues, and a later import extracts only new pictures.

    Raises:
        DataError: the captions or the folder cannot be used, no picture is usable, or `strict` and one is not.
    """
    notes = Notes()
    if not job.folder.expanduser().is_dir():
        raise DataError(f"{job.folder}: no such folder. Expected one with pictures.")
    _check_target(target)
    if job.relations and not job.detector:
        raise DataError("--relations needs --detector: the cells of a grid are not related.")
    images = read_picture_captions(job.captions, job.captions_format, notes)
    files, skipped = _find_files(images, job.folder)
    _refuse_skipped(skipped, len(images), job)
    make_extractor = make_extractor or functools.partial(
        open_extractor, job.detector, job.backbone, job.tower, job.classes
    )
    extractor = make_extractor()
    store = ShardStore(_make_cache(target, extractor.digest))
    paths = {job.folder.expanduser() / path: name for name, path in files.items()}
    digests, failed = extract_pictures(list(paths), make_extractor, store, job.workers)
    skipped.update({paths[path]: reason for path, reason in failed.items()})
    _refuse_skipped(skipped, len(images), job)
    found = [
        _Found(image, files[image.image_id], digests[job.folder.expanduser() / files[image.image_id]])
        for image in images
        if image.image_id not in skipped
    ]
    _divide(found, store, job, notes)
    _note_skipped(skipped, store.folder, notes)

    def records(notes: Notes) -> Iterator[ImageRecord]:
        for item in found:
            yield _make_record(item, store)

    description = f"pictures, folder {job.folder.resolve().name}, captions {job.captions.name}"
    source = Source(
        description, extractor.feature_dim, len(found), records, extractor.classes, notes=notes,
        extractor=describe_extractor(extractor), extractor_file=extractor.file,
    )  # fmt: skip
    if job.relations:
        source = relate_source(source, GeometryRules())
    name = name_with_digest(extractor.name, extractor.digest)
    full = Target(
        target.out, target.name, name, "float16", target.licence, pictures=job.folder, overwrite=target.overwrite
    )
    return write_dataset(source, full), notes


def _check_target(target: Target) -> None:
    """Raise DataError before the long work if the data set could not be written at its end."""
    DatasetWriter(target.out, name="", feature_dim=1, feature_extractor="", overwrite=target.overwrite)


def _make_cache(target: Target, digest: str) -> Path:
    """Return the folder for the regions of one extractor, beside the data set."""
    out = target.out.expanduser()
    folder = out.parent / f"{out.name}.regions" / digest[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}. Choose another --out.") from error
    return folder


def _find_files(images: Sequence[CaptionedImage], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the path below the folder of each picture, and the reason for each that has no file."""
    finder = PictureFinder(folder)
    files: dict[str, str] = {}
    skipped: dict[str, str] = {}
    owners: dict[str, str] = {}
    for image in images:
        path = finder.find(image.image_id, image.split)
        if path is None:
            skipped[image.image_id] = "no such file in the folder or in a folder right below it"
        elif owners.setdefault(path, image.image_id) != image.image_id:
            raise DataError(
                f"pictures '{owners[path]}' and '{image.image_id}' of the captions file are the same file {path} of "
                f"{folder}. Expected a file for each; write their names as they are in the folder."
            )
        else:
            files[image.image_id] = path
    return files, skipped


def _refuse_skipped(skipped: dict[str, str], total: int, job: ImageImport) -> None:
    if skipped and (job.strict or len(skipped) == total):
        listed = "".join(f"\n  {line}" for line in _list_skipped(skipped))
        advice = "Repair or remove them, or leave out --strict." if job.strict else "Check FOLDER and the file's names."
        raise DataError(f"{job.folder}: {len(skipped):,} of {total:,} pictures cannot be used. {advice}{listed}")


def _list_skipped(skipped: dict[str, str]) -> list[str]:
    lines = [f"'{name}': {reason}" for name, reason in skipped.items()]
    return lines[:_LISTED] + ([f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else [])


def _note_skipped(skipped: dict[str, str], cache: Path, notes: Notes) -> None:
    """Note the first skipped pictures, and write all of them to a file in the folder of the regions."""
    path = cache.parent / "skipped.tsv"
    write_text("".join(f"{name}\t{reason}\n" for name, reason in skipped.items()), path)
    for line in _list_skipped(skipped):
        notes.add(f"skipped {line}")
    if skipped:
        notes.add(f"{len(skipped):,} pictures skipped; all are listed in {path}")


def _divide(found: Sequence[_Found], store: ShardStore, job: ImageImport, notes: Notes) -> None:
    """Give each picture a split if the captions file has none; note near-duplicates in any case."""
    groups = group_near_duplicates(*store.read_fingerprints([item.digest for item in found]))
    names = [item.image.image_id for item in found]
    if not found[0].image.split:
        splits = assign_splits(names, groups, job.shares, job.seed)
        for item, split in zip(found, splits, strict=True):
            item.image.split = split
    for index in np.flatnonzero(groups != np.arange(len(groups))).tolist():
        pair = f"'{names[index]}' and '{names[groups[index]]}'"
        notes.count("near-duplicate pictures", pair)
        if found[index].image.split != found[groups[index]].image.split:
            notes.count("near-duplicate pictures in different splits of the captions file", pair)


def _make_record(item: _Found, store: ShardStore) -> ImageRecord:
    extraction = store.read(item.digest)
    regions = extraction.regions
    return ImageRecord(
        image_id=item.image.image_id,
        split=item.image.split,
        features=regions.features,
        captions=item.image.captions,
        caption_ids=item.image.caption_ids,
        width=extraction.width,
        height=extraction.height,
        boxes=regions.boxes,
        classes=regions.classes,
        scores=regions.scores,
        picture=item.path,
    )

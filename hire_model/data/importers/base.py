"""Code shared by all importers: sources of images, notes for the user, pictures, and writing the data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hire_model.data.schema import ExtractorFacts, MakerFacts, Manifest
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError
from hire_model.progress import show_progress


class Notes:
    """What an importer assumed or corrected: sentences, and counts with the place of the first case."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._counts: dict[str, tuple[int, str]] = {}

    def add(self, sentence: str) -> None:
        """Add a sentence, unless it was added before."""
        if sentence not in self._sentences:
            self._sentences.append(sentence)

    def count(self, what: str, where: str, times: int = 1) -> None:
        """Add `times` to the count of `what`. `where` is kept as the first place if it is the first case."""
        count, first = self._counts.get(what, (0, where))
        self._counts[what] = (count + times, first)

    def sentences(self) -> list[str]:
        """Return all notes as they are printed."""
        return self._sentences + [f"{n:,} {what} (first: {where})" for what, (n, where) in self._counts.items()]


@dataclass(frozen=True)
class Source:
    """The images of one published layout, ready to be written.

    description  layout and folder name, for the manifest
    images       maximum number of images that `records` yields, for the progress bar
    records      yields the images one by one; called once; `picture` is the file name that --pictures searches for
    predicates   empty if the source has no relations
    named        whether the images have names; if not, they have only numbers
    extractor    what extracted the regions, if this can be repeated; extractor_file: its weights, to be copied
    relation_maker  what made the relations, if known; relation_prior: content of its file
    """

    description: str
    feature_dim: int
    images: int
    records: Callable[[Notes], Iterator[ImageRecord]]
    classes: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    notes: Notes = field(default_factory=Notes)
    named: bool = True
    extractor: ExtractorFacts | None = None
    extractor_file: Path | None = None
    relation_maker: MakerFacts | None = None
    relation_prior: bytes | None = None


@dataclass(frozen=True)
class Target:
    """Where and how to write the data set.

    extractor  description of the detector or encoder that made the features; part of the version of the data set
    """

    out: Path
    name: str = ""
    extractor: str = "unknown"
    dtype: Literal["float16", "float32"] = "float16"
    licence: str = ""
    pictures: Path | None = None
    overwrite: bool = False


class PictureFinder:
    """Find picture files by name in a folder and its direct subfolders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()
        if not self.folder.is_dir():
            raise DataError(f"--pictures {folder}: no such folder.")
        self._paths: dict[str, list[str]] = {}
        subfolders = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        for subfolder in ["", *subfolders]:
            for entry in os.scandir(self.folder / subfolder):
                if entry.is_file():
                    self._paths.setdefault(entry.name, []).append(os.path.join(subfolder, entry.name))

    def find(self, name: str, split: str) -> str | None:
        """Return the path of picture `name` relative to the folder, None if there is no such file.

        If several subfolders have the file, the one whose name ends with the name of the split is used.
        """
        paths = self._paths.get(os.path.basename(name), [])
        if name in paths:
            return name
        matching = (path for path in paths if os.path.dirname(path).endswith(split))
        return next(matching, paths[0]) if paths else None


def write_dataset(source: Source, target: Target) -> Manifest:
    """Write all images of `source` into a data set and return its manifest. Memory does not grow with the source."""
    writer = DatasetWriter(
        target.out,
        name=target.name or target.out.name,
        feature_dim=source.feature_dim,
        feature_extractor=target.extractor,
        classes=source.classes,
        predicates=source.predicates,
        dtype=target.dtype,
        source=source.description,
        licence=target.licence,
        overwrite=target.overwrite,
    )
    pictures = PictureFinder(target.pictures) if target.pictures else None
    with writer:
        if source.extractor:
            writer.record_extractor(source.extractor, source.extractor_file)
        if source.relation_maker:
            writer.record_relation_maker(source.relation_maker, source.relation_prior)
        records = source.records(source.notes)
        if pictures:
            writer.link_pictures(pictures.folder)
            records = _add_pictures(records, pictures, source.notes)
        else:
            records = _remove_pictures(records)
        for record in show_progress(records, "importing images", source.images):
            writer.add(record)
    assert writer.manifest is not None
    return writer.manifest


def _add_pictures(records: Iterable[ImageRecord], pictures: PictureFinder, notes: Notes) -> Iterator[ImageRecord]:
    with_picture = images = 0
    for record in records:
        images += 1
        path = pictures.find(record.picture, record.split) if record.picture else None
        with_picture += path is not None
        if path is None:
            notes.count("images without a picture", f"image '{record.image_id}'")
        yield dataclasses.replace(record, picture=path)
    if images and not with_picture:
        raise DataError(
            f"--pictures {pictures.folder}: no picture found for any of {images:,} images, neither there nor in a "
            "direct subfolder. Expected files named after the images. Correct the folder, or omit the option."
        )


def _remove_pictures(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """Set `picture` to None: without --pictures there are no files for the names in the source."""
    return (dataclasses.replace(record, picture=None) for record in records)


def select_splits(wanted: Sequence[str], found: Iterable[str], where: str) -> list[str]:
    """Return the splits to import: `wanted`, or all of `found` if `wanted` is empty.

    Raise DataError if a wanted split does not exist.
    """
    existing = list(found)
    for name in wanted:
        if name not in existing:
            raise DataError(f"{where}: no split '{name}'. Existing splits: {', '.join(existing)}. Correct --split.")
    return [name for name in existing if name in wanted] if wanted else existing

"""What all importers share: a source of images, notes on what was changed, pictures, and writing the data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hire_model.data.schema import Manifest
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError
from hire_model.progress import show_progress


class Notes:
    """What an importer decided or mended, for the user to read: sentences, and counts with their first place."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._counts: dict[str, tuple[int, str]] = {}

    def add(self, sentence: str) -> None:
        """Keep one sentence, once."""
        if sentence not in self._sentences:
            self._sentences.append(sentence)

    def count(self, what: str, where: str, times: int = 1) -> None:
        """Count `times` more of `what`; the first place is kept."""
        before, first = self._counts.get(what, (0, where))
        self._counts[what] = (before + times, first)

    def sentences(self) -> list[str]:
        """All notes, as they are printed."""
        return self._sentences + [f"{n:,} {what} (first: {where})" for what, (n, where) in self._counts.items()]


@dataclass(frozen=True)
class Source:
    """What an importer found, before anything is written.

    description  the layout and the folder's name, for the manifest
    images       how many images `records` gives at most, for the progress bar
    records      gives the images one by one; it is called once; `picture` is the name that --pictures looks for
    predicates   empty if the source has no relations
    named        whether images have names of their own; else a number is all that is known of them
    """

    description: str
    feature_dim: int
    images: int
    records: Callable[[Notes], Iterator[ImageRecord]]
    classes: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    notes: Notes = field(default_factory=Notes)
    named: bool = True


@dataclass(frozen=True)
class Target:
    """Where and how the data set is written.

    extractor  the detector or encoder that made the features, in words; it is part of the data set's version
    """

    out: Path
    name: str = ""
    extractor: str = "unknown"
    dtype: Literal["float16", "float32"] = "float16"
    licence: str = ""
    pictures: Path | None = None
    overwrite: bool = False


class PictureFinder:
    """Finds picture files by name in a folder or in the folders right below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()
        if not self.folder.is_dir():
            raise DataError(f"--pictures {folder}: no such folder.")
        self.places: dict[str, list[str]] = {}
        below = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        for place in ["", *below]:
            for entry in os.scandir(self.folder / place):
                if entry.is_file():
                    self.places.setdefault(entry.name, []).append(os.path.join(place, entry.name))

    def find(self, name: str, split: str) -> str | None:
        """Path of picture `name` below the folder; of several, the one whose folder's name ends in the split's."""
        found = self.places.get(os.path.basename(name), [])
        if name in found or len(found) < 2:
            return name if name in found else next(iter(found), None)
        return next((path for path in found if os.path.dirname(path).endswith(split)), found[0])


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
        found = source.records(source.notes)
        if pictures:
            writer.link_pictures(pictures.folder)
            records = _add_pictures(found, pictures, source.notes)
        else:  # what the source names is not there
            records = (dataclasses.replace(record, picture=None) for record in found)
        for record in show_progress(records, "importing images", source.images):
            writer.add(record)
    assert writer.manifest is not None
    return writer.manifest


def _add_pictures(records: Iterable[ImageRecord], pictures: PictureFinder, notes: Notes) -> Iterator[ImageRecord]:
    found = images = 0
    for record in records:
        images += 1
        path = pictures.find(record.picture, record.split) if record.picture else None
        found += path is not None
        if path is None:
            notes.count("images without a picture", f"image '{record.image_id}'")
        yield dataclasses.replace(record, picture=path)
    if images and not found:
        raise DataError(
            f"--pictures {pictures.folder}: not one of {images:,} images has a file of its name there or in a folder "
            "right below. Name the folder that holds the pictures, or leave the option out."
        )


def select_splits(wanted: Sequence[str], found: Iterable[str], where: str) -> list[str]:
    """The splits to import: all that were found, or those asked for. Raises DataError for one that is not there."""
    known = list(found)
    for name in wanted:
        if name not in known:
            raise DataError(f"{where}: no split '{name}'; it has {', '.join(known)}. Mend --split.")
    return [name for name in known if name in wanted] if wanted else known

"""A gallery: images, and captions if asked for, encoded once by one model and searched many times.

    manifest.json                    what it is: digests of model and data, sizes, SHA-256 of each file
    images.parquet, regions.parquet, relations.parquet
                                     the images' rows of the data set's tables: ids, boxes, classes, relations
    images-00000.npy, ...            float32: the records of one shard's images, one after the other; a record holds an
                                     image's regions [R, P], and its edges [K, R, R] where the model matches relations
    images-lengths.npy               [N] int32, regions of each image
    images-summary.npy               [N, D] float32 unit vectors of the global head
    images.faiss                     index of the summaries, where a scan of them would take too long (see index.py)
    captions.parquet, captions-...   the same for captions: words [L, P], and their roles [L, 2Kd]
    pictures/                        a link to the data set's pictures

Records and summaries are mapped from disk, never held. The data set itself is not needed for a search: only the
pictures stay where they are. `building.build` writes a gallery; nothing in it is ever changed afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hire_model.batch import EncodedImages
from hire_model.data.schema import MANIFEST, FileFacts, Manifest, hash_file
from hire_model.data.store import Dataset, ImageRegions
from hire_model.errors import HireError
from hire_model.gallery.store import CaptionShelf, ImageShelf, ShelfFacts, shelf_files
from hire_model.model import artifact
from hire_model.model.hire import Hire

FORMAT: Final = 1
IMAGES, CAPTIONS = "images", "captions"


class GalleryManifest(BaseModel):
    """What a gallery is. `key` is what another build must have in common to be the same gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    model: str = Field(description="hire_model.model.artifact.digest of the model that encoded it")
    address: str = Field(description="that model as the user named it, such as models:/hire@champion")
    data: Manifest
    split: str = Field(description="empty for all splits")
    dim: int = Field(description="D, numbers per summary")
    images: ShelfFacts
    captions: ShelfFacts | None
    files: dict[str, FileFacts]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.files) != set(file_names(self.images, self.captions)):
            raise ValueError("files: not those of this gallery")  # what is opened is what was checked
        return self

    @property
    def key(self) -> dict[str, str]:
        """What was encoded, and by what."""
        return key_of(self.model, self.data, self.split, self.captions is not None)

    @classmethod
    def read(cls, folder: Path) -> GalleryManifest:
        """The manifest of the gallery in `folder`. Raises HireError where there is none."""
        path = folder / MANIFEST
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HireError(
                f"{folder}: no gallery here ({MANIFEST} is missing). Make one with 'hire gallery build DATASET --out "
                f"{folder}'."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise HireError(f"{path}: not the manifest of a gallery of format {FORMAT}.") from error


def key_of(model: str, data: Manifest, split: str, captions: bool) -> dict[str, str]:
    """What makes a gallery the one that it is, by the names that a message uses."""
    return {"model": model, "data set": data.digest, "split": split or "all", "captions": "yes" if captions else "no"}


class Gallery:
    """A gallery, opened for searching. Open it with `Gallery.open`; it only reads, from any number of threads."""

    def __init__(self, folder: Path, manifest: GalleryManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.images = ImageShelf(folder, IMAGES, manifest.images)
        self.captions = CaptionShelf(folder, CAPTIONS, manifest.captions) if manifest.captions else None
        self._tables = Dataset(folder, manifest.data)
        self._model: Hire | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Gallery:
        """The gallery in `folder`. Raises HireError where there is none, or a file's SHA-256 is not the manifest's.

        Every byte is read once for that; afterwards the system's page cache holds what fits.
        """
        folder = Path(folder).expanduser()
        manifest = GalleryManifest.read(folder)
        for name, facts in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise HireError(
                    f"{path}: missing from the gallery. Build it again: hire gallery build DATASET --overwrite."
                )
            if path.stat().st_size != facts.bytes or hash_file(path) != facts:
                raise HireError(
                    f"{path}: its SHA-256 is not the one in {MANIFEST}: damaged or exchanged. Build the gallery again: "
                    "hire gallery build DATASET --overwrite."
                )
        return cls(folder, manifest)

    def __len__(self) -> int:
        """Images."""
        return len(self.images)

    @cached_property
    def ids(self) -> np.ndarray:
        """[N] str, the images' ids."""
        return self._tables.image_ids

    @cached_property
    def caption_texts(self) -> np.ndarray:
        """[M] str, the captions; needs a gallery built with captions."""
        return self._tables.caption_texts

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids.tolist())}

    def find(self, image_id: str) -> int | None:
        """The row of the image called `image_id`, None where there is none."""
        return self._places.get(image_id)

    def encoded(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """The images `rows`, as the model encoded them, on the CPU, padded to the longest of them."""
        return self.images.rows(rows)

    def picture(self, row: int) -> Path | None:
        """The picture of image `row`, if it has one and the data set is where it was."""
        return self._tables.picture(row)

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of image `row` in pixels, 0 where unknown."""
        width, height = self._tables.image_sizes[row].tolist()
        return width, height

    def layout(self, row: int) -> ImageRegions:
        """Boxes, classes and relations of image `row`, to draw and name; features [r, 0], as a gallery has none."""
        return self._tables.layout(row)

    def check_model(self, model: Hire) -> None:
        """Raise HireError unless `model` is the one that encoded this gallery: scores of others would be noise."""
        if self._model is model:
            return
        found = artifact.digest(model)
        if found != self.manifest.model:
            raise HireError(
                f"{self.folder}: encoded by model {self.manifest.model[:12]} ({self.manifest.address}), but this one "
                f"is {found[:12]}. Build the gallery again with this model (hire gallery build DATASET --overwrite), "
                "or search with the one that encoded it."
            )
        self._model = model


def file_names(images: ShelfFacts, captions: ShelfFacts | None) -> list[str]:
    """All files of a gallery but its manifest."""
    names = ["images.parquet", "regions.parquet", "relations.parquet", *shelf_files(IMAGES, images)]
    return names if captions is None else [*names, "captions.parquet", *shelf_files(CAPTIONS, captions)]

"""The files of a gallery: images, and optionally captions, encoded once by one model and searched many times.

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

A search does not need the data set; only the pictures stay there. `building.build` writes a gallery, `store.Gallery`
opens it. A gallery never changes after it was built.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hire_model.data.schema import MANIFEST, FileFacts, Manifest
from hire_model.errors import HireError
from hire_model.gallery.index import Kind

FORMAT: Final = 1
IMAGES, CAPTIONS = "images", "captions"


class StoreFacts(BaseModel):
    """The sizes of one store, the images or the captions of a gallery, and the kind of its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(description="N")
    fragments: int = Field(description="regions, or word pieces, of all items together")
    size: int = Field(description="P, numbers per fragment")
    relations: int = Field(description="K of images, 2Kd of captions; 0 where the model does not match relations")
    shard: int = Field(description="items per shard")
    index: Kind


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
    images: StoreFacts
    captions: StoreFacts | None
    files: dict[str, FileFacts]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.files) != set(list_files(self.images, self.captions)):
            raise ValueError("files: not those of this gallery")  # what is opened is what was checked
        return self

    @property
    def key(self) -> dict[str, str]:
        """What was encoded, and by what."""
        return make_key(self.model, self.data, self.split, self.captions is not None)

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


def make_key(model: str, data: Manifest, split: str, captions: bool) -> dict[str, str]:
    """Return what identifies a gallery, by the names that messages use."""
    return {"model": model, "data set": data.digest, "split": split or "all", "captions": "yes" if captions else "no"}


def list_files(images: StoreFacts, captions: StoreFacts | None) -> list[str]:
    """List all files of a gallery except its manifest."""
    names = ["images.parquet", "regions.parquet", "relations.parquet", *list_store_files(IMAGES, images)]
    return names if captions is None else [*names, "captions.parquet", *list_store_files(CAPTIONS, captions)]


def list_store_files(name: str, facts: StoreFacts) -> list[str]:
    """List the files of the store `name`."""
    indexed = [index_name(name)] if facts.index != "flat" else []
    shards = [path.name for path in shard_paths(Path(), name, facts.items, facts.shard)]
    return [*shards, lengths_name(name), summary_name(name), *indexed]


def shard_paths(folder: Path, name: str, items: int, shard: int) -> list[Path]:
    """List the files of a store's records, in order."""
    return [folder / f"{name}-{number:05d}.npy" for number in range(-(-items // shard))]


def lengths_name(name: str) -> str:
    """Return the name of the file with the number of fragments per item."""
    return f"{name}-lengths.npy"


def summary_name(name: str) -> str:
    """Return the name of the file with the items' summaries."""
    return f"{name}-summary.npy"


def index_name(name: str) -> str:
    """Return the name of the index file."""
    return f"{name}.faiss"

"""The files of a gallery: images, and optionally captions, encoded once by one model and searched many times.

    manifest.json                    digests of model and data, sizes, SHA-256 of each file
    images.parquet, regions.parquet, relations.parquet
                                     the images' rows of the data set's tables: ids, boxes, classes, relations
    images-00000.npy, ...            float32: the records of a shard's images, one after the other. A record contains
                                     the regions [R, P], and the edges [K, R, R] if the model matches relations
    images-lengths.npy               [N] int32, regions of each image
    images-summary.npy               [N, D] float32 unit vectors of the global head
    images.faiss                     index of the summaries, if there are too many to scan (see index.py)
    captions.parquet, captions-...   the same for captions: words [L, P], and their roles [L, 2Kd]
    pictures/                        a link to the data set's picture files

A search does not need the data set, except to show the picture files. `building.build` writes a gallery,
`store.Gallery` opens it. A finished gallery never changes.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hire_model.data.schema import MANIFEST, PICTURES, FileFacts, Manifest
from hire_model.errors import DataError, HireError
from hire_model.files import recover_folder
from hire_model.gallery.index import Kind

FORMAT: Final = 1
IMAGES, CAPTIONS = "images", "captions"


class StoreFacts(BaseModel):
    """The sizes of one store, the images or the captions of a gallery, and the kind of its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(description="N")
    fragments: int = Field(description="regions, or word pieces, of all items together")
    size: int = Field(description="P, numbers per fragment")
    relations: int = Field(description="K for images, 2Kd for captions; 0 if the model does not match relations")
    shard: int = Field(description="items per shard")
    index: Kind


class GalleryManifest(BaseModel):
    """What was encoded, by which model, and the files of the gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    model: str = Field(description="hire_model.model.artifact.digest of the model that encoded the gallery")
    address: str = Field(description="address of that model, such as models:/hire/3, or its folder")
    data: Manifest
    split: str = Field(description="empty for all splits")
    dim: int = Field(description="D, numbers per summary")
    images: StoreFacts
    captions: StoreFacts | None
    files: dict[str, FileFacts]

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        """Refuse other file names, so that every file that is opened has a digest to check."""
        if set(self.files) != set(list_files(self.images, self.captions)):
            raise ValueError("files: expected the files of this gallery")
        return self

    @property
    def key(self) -> dict[str, str]:
        """The identity of the gallery; see `make_key`."""
        return make_key(self.model, self.data, self.split, self.captions is not None)

    @classmethod
    def read(cls, folder: Path) -> GalleryManifest:
        """Read the manifest of the gallery in `folder`. Raises HireError if there is none or it is not valid."""
        path = folder / MANIFEST
        recover_folder(folder)
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
    """Return what identifies a gallery. Two builds with equal keys give the same gallery; messages use the names."""
    return {"model": model, "data set": data.digest, "split": split or "all", "captions": "yes" if captions else "no"}


def format_rebuild_command(gallery: Path, model: str) -> str:
    """Return the command that builds the gallery in folder `gallery` again with `model`, with the same options.

    The data set is `DATASET` if its folder is not known; only the link to its pictures names it.
    """
    data, options = "DATASET", []
    try:
        manifest = GalleryManifest.read(gallery)
        options = ["--split", manifest.split] * bool(manifest.split) + ["--captions"] * (manifest.captions is not None)
        source = (gallery / PICTURES).resolve().parent
        if Manifest.read(source).digest == manifest.data.digest:
            data = str(source)
    except (DataError, HireError, OSError):
        pass
    command = ["hire", "gallery", "build", data, "--model", model, "--out", str(gallery), "--overwrite", *options]
    return shlex.join(command)


def list_files(images: StoreFacts, captions: StoreFacts | None) -> list[str]:
    """List all files of a gallery except its manifest."""
    names = ["images.parquet", "regions.parquet", "relations.parquet", *_list_store_files(IMAGES, images)]
    return names if captions is None else [*names, "captions.parquet", *_list_store_files(CAPTIONS, captions)]


def _list_store_files(name: str, facts: StoreFacts) -> list[str]:
    index = [get_index_name(name)] if facts.index != "flat" else []
    shards = [path.name for path in list_shards(Path(), name, facts.items, facts.shard)]
    return [*shards, get_lengths_name(name), get_summary_name(name), *index]


def list_shards(folder: Path, name: str, items: int, shard: int) -> list[Path]:
    """List the paths of a store's shards, in order."""
    return [folder / f"{name}-{number:05d}.npy" for number in range(-(-items // shard))]


def get_lengths_name(name: str) -> str:
    """Return the name of the file with the number of fragments per item."""
    return f"{name}-lengths.npy"


def get_summary_name(name: str) -> str:
    """Return the name of the file with the items' summaries."""
    return f"{name}-summary.npy"


def get_index_name(name: str) -> str:
    """Return the name of the index file."""
    return f"{name}.faiss"

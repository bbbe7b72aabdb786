"""The files of a gallery: images, and optionally captions, encoded once by one model and searched many times.

    manifest.json            generation, digests of model and data; per segment: sizes, removed rows, SHA-256 of files
    segments/000001/         images that were written together; the folder never changes
        images.parquet, regions.parquet, relations.parquet
                             the images' rows of the data set's tables: ids, boxes, classes, relations
        metadata.parquet     one row per image: a JSON object as text
        images.npy           float16: the records of the images, one after the other. A record contains the regions
                             [R, P], and the edges [K, R, R] if the model matches relations
        images-lengths.npy   [N] int32, regions of each image
        images-summary.npy   [N, D] float16, unit vectors of the global head
        images-vectors.npy, anchors.safetensors
                             only with anchors: [N, D'] float16, vectors for the shortlist; the anchors and their maps
        captions.parquet, captions.npy, captions-...
                             the same for captions: words [L, P], and their roles [L, 2Kd]
        pictures/            links to the picture files of the data sets

A search does not need the data set, except to show the picture files. `building.build` writes a gallery, `changing.add`
and `changing.remove` change it, `store.Gallery` opens it. A change writes new segments and then replaces the manifest,
so a reader sees the old or the new state.
"""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hire_model.data.schema import MANIFEST, PICTURES, FileFacts, Manifest
from hire_model.errors import DataError, HireError
from hire_model.files import recover_folder

FORMAT: Final = 2
IMAGES, CAPTIONS = "images", "captions"
SEGMENTS, METADATA = "segments", "metadata.parquet"
ANCHORS, VECTORS = "anchors.safetensors", "images-vectors.npy"
REBUILD = "Build it again: hire gallery build DATASET --overwrite."


class StoreFacts(BaseModel):
    """The sizes of one store: the images or the captions of a segment, or of the whole gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(description="N")
    fragments: int = Field(description="regions, or word pieces, of all items together")
    size: int = Field(description="P, numbers per fragment")
    relations: int = Field(description="K for images, 2Kd for captions; 0 if the model does not match relations")
    shares: bool = Field(False, description="whether a share of each region is stored (model.region_weights)")


class SegmentFacts(BaseModel):
    """One segment: its folder below segments/, its sizes and files, and the rows that were removed or replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9]{6,}$")
    images: StoreFacts
    captions: StoreFacts | None
    files: dict[str, FileFacts]
    vector_size: int = Field(
        0, exclude_if=lambda size: size == 0, description="numbers per vector for the shortlist; 0 without anchors"
    )
    removed: tuple[int, ...] = Field((), description="rows of images that no longer belong to the gallery, ascending")

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        """Refuse other file names, so that every file that is opened has a digest to check."""
        if set(self.files) != set(list_files(self.captions is not None, self.vector_size > 0)):
            raise ValueError("files: expected the files of this segment")
        if any(not 0 <= row < self.images.items for row in self.removed):
            raise ValueError("removed: expected rows of this segment")
        return self

    @property
    def kept(self) -> int:
        """Number of images without the removed ones."""
        return self.images.items - len(self.removed)


class GalleryManifest(BaseModel):
    """What was encoded, by which model, and the segments of the gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = FORMAT
    generation: int = Field(1, ge=1, description="increases with each change; readers open the gallery again")
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    model: str = Field(description="hire_model.model.artifact.digest of the model that encoded the gallery")
    address: str = Field(description="address of that model, such as models:/hire/3, or its folder")
    data: Manifest = Field(description="the data set of the build; classes and predicates of later ones are the same")
    split: str = Field(description="empty for all splits")
    metadata: str = Field("none", description="SHA-256 of the metadata file of the build, or none")
    anchor_digest: str = Field(
        "none",
        exclude_if=lambda digest: digest == "none",  # earlier versions open galleries without anchors
        description="SHA-256 of the captions that the anchors were chosen from, or none",
    )
    changed: bool = Field(False, description="whether images were added or removed since the build")
    dim: int = Field(description="D, numbers per summary")
    captioned: bool = Field(description="whether captions are encoded too")
    segments: tuple[SegmentFacts, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_segments(self) -> Self:
        names = [segment.name for segment in self.segments]
        if len(set(names)) < len(names):
            raise ValueError("segments: a name occurs twice")
        if any((segment.captions is not None) != self.captioned for segment in self.segments):
            raise ValueError("segments: expected captions in all segments or in none")
        if len({(segment.vector_size, segment.files.get(ANCHORS)) for segment in self.segments}) > 1:
            raise ValueError("segments: expected the same anchors in all segments")
        if (self.anchor_digest == "none") == any(segment.vector_size for segment in self.segments):
            raise ValueError("anchor_digest: expected segments with anchors if a digest names them")
        return self

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(segment.kept for segment in self.segments)

    @property
    def captions(self) -> int:
        """Number of captions, those of removed images included."""
        return sum(segment.captions.items for segment in self.segments if segment.captions)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(facts.bytes for segment in self.segments for facts in segment.files.values())

    @property
    def key(self) -> dict[str, str]:
        """The identity of the gallery; see `make_key`."""
        key = make_key(self.model, self.data, self.split, self.captioned, self.metadata, self.anchor_digest)
        return key | {"changes": "images were added or removed"} if self.changed else key

    @classmethod
    def read(cls, folder: Path) -> GalleryManifest:
        """Read the manifest of the gallery in `folder`. Raises HireError if there is none or it is not valid."""
        path = folder / MANIFEST
        recover_folder(folder)
        try:
            text = path.read_text("utf-8")
            return cls.model_validate_json(text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HireError(
                f"{folder}: no gallery here ({MANIFEST} is missing). Make one with 'hire gallery build DATASET --out "
                f"{folder}'."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            if is_old(folder):
                raise HireError(
                    f"{folder}: a gallery of format 1. This release reads format {FORMAT}. {REBUILD}"
                ) from error
            raise HireError(f"{path}: not the manifest of a gallery of format {FORMAT}.") from error


def is_old(folder: Path) -> bool:
    """Return whether `folder` is a gallery of format 1, which `build` may replace but nothing reads."""
    try:
        facts = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("format") == 1 and {"model", "dim", "images"} <= set(facts)


def make_key(
    model: str, data: Manifest, split: str, captions: bool, metadata: str, anchor_digest: str
) -> dict[str, str]:
    """Return what identifies a gallery. Builds with equal keys give the same gallery; messages use the names."""
    return {
        "model": model, "data set": data.digest, "split": split or "all", "captions": "yes" if captions else "no",
        "metadata": metadata, "anchors": anchor_digest, "changes": "none",
    }  # fmt: skip


def format_rebuild_command(gallery: Path, model: str) -> str:
    """Return the command that builds the gallery in folder `gallery` again with `model`, with the same options.

    The data set is `DATASET` if its folder is not known; only the link to its pictures names it.
    """
    data, options = "DATASET", []
    try:
        manifest = GalleryManifest.read(gallery)
        options = ["--split", manifest.split] * bool(manifest.split) + ["--captions"] * manifest.captioned
        options += ["--anchors", "CAPTIONED_DATASET"] * (manifest.anchor_digest != "none")
        for link in sorted((gallery / SEGMENTS).glob(f"*/{PICTURES}/*")):
            source = link.resolve().parent
            if Manifest.read(source).digest == manifest.data.digest:
                data = str(source)
    except (DataError, HireError, OSError):
        pass
    command = ["hire", "gallery", "build", data, "--model", model, "--out", str(gallery), "--overwrite", *options]
    return shlex.join(command)


def list_files(captions: bool, anchors: bool) -> list[str]:
    """List the files of a segment."""
    names = ["images.parquet", "regions.parquet", "relations.parquet", METADATA, *list_store_files(IMAGES)]
    names += [ANCHORS, VECTORS] * anchors
    return [*names, "captions.parquet", *list_store_files(CAPTIONS)] if captions else names


def list_store_files(name: str) -> tuple[str, str, str]:
    """Return the names of a store's files: records, lengths and summaries."""
    return f"{name}.npy", f"{name}-lengths.npy", f"{name}-summary.npy"

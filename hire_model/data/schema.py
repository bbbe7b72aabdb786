"""The project's own data format: five files in a folder, described once here and written nowhere else.

    manifest.json      what the data set is: counts, vocabularies, extractor, SHA-256 of each file, digest
    images.parquet     a row per image
    captions.parquet   a row per caption
    regions.parquet    a row per region, in the order of features.npy
    relations.parquet  a row per relation
    features.npy       [regions, F] float16 or float32, memory-mapped, never read whole
    pictures/          the pictures themselves (a folder or a link), if there are any; not part of the digest

Rows of one image are contiguous in regions and relations, and images keep the order they were written in.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hire_model.errors import DataError

FORMAT: Final = 1
MANIFEST = "manifest.json"
FEATURES = "features.npy"
PICTURES = "pictures"

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # the source's own name, unique within the data set
        ("split", pa.string()),
        ("width", pa.int32()),  # pixels; 0 where unknown
        ("height", pa.int32()),
        ("first_region", pa.int64()),  # row of the image's first region in regions.parquet and features.npy
        ("n_regions", pa.int32()),
        ("first_relation", pa.int64()),
        ("n_relations", pa.int32()),
        ("picture", pa.string()),  # file below pictures/, null if there is none
    ]
)
CAPTIONS = pa.schema([("caption_id", pa.string()), ("image", pa.int64()), ("text", pa.string())])
REGIONS = pa.schema(
    [
        ("x1", pa.float32()),  # fractions of the width and height in 0-1; NaN where the region has no box
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("class_id", pa.int32()),  # index into manifest.classes, -1 where unknown
        ("score", pa.float32()),  # the detector's confidence in 0-1, NaN where unknown
    ]
)
RELATIONS = pa.schema(
    [
        ("subject", pa.int32()),  # region index within the image
        ("predicate", pa.int32()),  # index into manifest.predicates
        ("object", pa.int32()),
        ("score", pa.float32()),
    ]
)
TABLES = {"images": IMAGES, "captions": CAPTIONS, "regions": REGIONS, "relations": RELATIONS}


class SplitCounts(BaseModel):
    """How much one split holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = 0
    captions: int = 0
    regions: int = 0
    relations: int = 0


class FileFacts(BaseModel):
    """Size and SHA-256 of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a data set is. `digest` is its version: of its files' bytes and its vocabularies.

    Another version of pyarrow may write other bytes for the same content, and so gives another digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    name: str
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    source: str = ""  # how it was made, in words; not part of the digest
    licence: str = ""
    feature_extractor: str
    feature_dim: int
    feature_dtype: Literal["float16", "float32"] = "float16"
    classes: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    splits: dict[str, SplitCounts]
    files: dict[str, FileFacts]

    @property
    def digest(self) -> str:
        """SHA-256 over everything but name, time, source and licence, in canonical JSON."""
        facts = self.model_dump(exclude={"name", "created", "source", "licence"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of `folder`. Raises DataError where there is none or it is not one of ours."""
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(
                f"{folder}: no data set here ({MANIFEST} is missing). Make one with 'hire data synth --out {folder}' "
                f"or 'hire data import scan SOURCE --out {folder}'."
            )
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a manifest of format {FORMAT}: {error}") from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "the whole"
            raise DataError(f"{path}: not a manifest of format {FORMAT}: {where}: {fault['msg']}.") from error


def hash_file(path: Path) -> FileFacts:
    """Return size and SHA-256 of a file, which is read as a stream."""
    with path.open("rb") as file:
        return FileFacts(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())

"""The data format: the files in the folder of a data set.

    manifest.json      counts, vocabularies, feature extractor, SHA-256 of each file and of blocks of it
    images.parquet     one row per image
    captions.parquet   one row per caption
    regions.parquet    one row per region, in the order of features.npy
    relations.parquet  one row per relation
    features.npy       [regions, F] float16 or float32, memory-mapped, never loaded as a whole
    extractor.onnx     optional: weights of the extractor, if it took them from a file
    relation_prior.safetensors  optional: the learned prior that made the relations
    pictures/          optional: the pictures (a folder or a link to one); not part of the digest

The rows of one image are contiguous in regions and relations. Images keep the order in which they were written.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from hire_model.data.blocks import BlockDigests
from hire_model.errors import DataError
from hire_model.files import recover_folder

FORMAT: Final = 1
MANIFEST = "manifest.json"
FEATURES = "features.npy"
PICTURES = "pictures"
EXTRACTOR = "extractor.onnx"
_DIGEST_DIGITS = 16
RELATION_PRIOR = "relation_prior.safetensors"

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # name of the image in the source, unique in the data set
        ("split", pa.string()),
        ("width", pa.int32()),  # pixels; 0 if unknown
        ("height", pa.int32()),
        ("first_region", pa.int64()),  # row of the image's first region in regions.parquet and features.npy
        ("n_regions", pa.int32()),
        ("first_relation", pa.int64()),
        ("n_relations", pa.int32()),
        ("picture", pa.string()),  # path below pictures/, null without a picture
    ]
)
CAPTIONS = pa.schema([("caption_id", pa.string()), ("image", pa.int64()), ("text", pa.string())])
REGIONS = pa.schema(
    [
        ("x1", pa.float32()),  # fractions of width and height, 0 to 1; NaN if the region has no box
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("class_id", pa.int32()),  # index into manifest.classes, -1 if unknown
        ("score", pa.float32()),  # confidence of the detector, 0 to 1, NaN if unknown
    ]
)
RELATIONS = pa.schema(
    [
        ("subject", pa.int32()),  # index of the region within the image
        ("predicate", pa.int32()),  # index into manifest.predicates
        ("object", pa.int32()),
        ("score", pa.float32()),
    ]
)
TABLES = {"images": IMAGES, "captions": CAPTIONS, "regions": REGIONS, "relations": RELATIONS}


class SplitCounts(BaseModel):
    """Number of images, captions, regions and relations of one split."""

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


class Maker(Protocol):
    """What `MakerFacts` record of an extractor or a relation maker."""

    kind: str
    name: str
    digest: str
    options: dict[str, JsonValue]


class MakerFacts(BaseModel):
    """What made a part of a data set or of a model's training data, so that new pictures get the same.

    kind     names the class
    name     method and network, for people
    digest   SHA-256 of the weights and of all that changes the result
    options  further arguments of the class
    file     whether its weights are in a file beside this description
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    digest: str
    options: dict[str, JsonValue] = {}
    file: bool = False

    @classmethod
    def record(cls, maker: Maker, file: bool) -> Self:
        """Record what is needed to open `maker` again."""
        return cls(kind=maker.kind, name=maker.name, digest=maker.digest, options=maker.options, file=file)


FROM_FILE = "file"
"""Kind of relations that were imported, which nothing can make for a new picture."""


class ExtractorFacts(MakerFacts):
    """What extracted the regions; a file is extractor.onnx. `hire_model.data.images.recorded` opens it again."""


class Manifest(BaseModel):
    """Description of a data set. `digest` is its version.

    Two versions of pyarrow can write different bytes for the same content; then the digests differ too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    name: str
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    source: str = ""  # free text: how the data set was made; not part of the digest
    licence: str = ""
    feature_extractor: str
    feature_dim: int
    feature_dtype: Literal["float16", "float32"] = "float16"
    classes: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    splits: dict[str, SplitCounts]
    files: dict[str, FileFacts]
    # By file. Not part of the digest: `files` has the SHA-256 of the same bytes. Not written if empty, as in a gallery,
    # so that earlier releases open it.
    blocks: dict[str, BlockDigests] = Field(default={}, exclude_if=lambda blocks: not blocks)
    # Only of data sets imported from pictures. Not part of the digest: `feature_extractor` has name and digest.
    extractor: ExtractorFacts | None = Field(default=None, exclude_if=lambda extractor: extractor is None)
    # What made the relations, if known; part of the digest. `hire_model.data.relations.recorded` opens it again.
    relation_maker: MakerFacts | None = Field(default=None, exclude_if=lambda maker: maker is None)

    @property
    def has_made_relations(self) -> bool:
        """Whether rules or a prior made the relations, not people or another program."""
        return self.relation_maker is not None and self.relation_maker.kind != FROM_FILE

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest without name, time, source, licence, blocks and extractor, as canonical JSON."""
        facts = self.model_dump(exclude={"name", "created", "source", "licence", "blocks", "extractor"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of `folder`. Raise DataError if it is missing or invalid."""
        path = folder / MANIFEST
        recover_folder(folder)
        if not path.is_file():
            raise DataError(
                f"{folder}: no data set here ({MANIFEST} is missing). Create one with 'hire data synth --out {folder}' "
                f"or 'hire data import scan SOURCE --out {folder}'."
            )
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a manifest of format {FORMAT}: {error}") from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "top level"
            raise DataError(f"{path}: not a manifest of format {FORMAT}: {where}: {fault['msg']}.") from error


def name_with_digest(name: str, digest: str) -> str:
    """Return name and digest of what made a part of a data set; an extractor's for `Manifest.feature_extractor`."""
    return f"{name}, sha256 {digest[:_DIGEST_DIGITS]}"


def find_digest(feature_extractor: str) -> str:
    """Return the digest in a name that `name_with_digest` made, empty for free text."""
    match = re.search(rf", sha256 ([0-9a-f]{{{_DIGEST_DIGITS}}})$", feature_extractor)
    return match[1] if match else ""


def hash_file(path: Path) -> FileFacts:
    """Return size and SHA-256 of a file. The file is read in blocks."""
    with path.open("rb") as file:
        return FileFacts(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())

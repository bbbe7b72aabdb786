"""Build a gallery: encode every item once, shard by shard. An interrupted build continues where it stopped.

Shards are written atomically into a hidden folder beside the gallery, and the complete folder is renamed. The folder
has a key of model, data set and split, so that shards of another model are never reused.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank
from hire_model.data.schema import MANIFEST, PICTURES, TABLES, hash_file
from hire_model.data.store import Split
from hire_model.data.writer import replace_folder
from hire_model.errors import DataError, HireError
from hire_model.files import atomic_write
from hire_model.gallery import index
from hire_model.gallery.format import (
    CAPTIONS,
    IMAGES,
    GalleryManifest,
    StoreFacts,
    index_name,
    lengths_name,
    list_files,
    make_key,
    shard_paths,
    summary_name,
)
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, split_into_blocks

log = logging.getLogger(__name__)
SHARD = 1024
"""Items in a shard: what an interruption costs at most."""

_KEY, _PARTS = "key.json", "parts"
_Items = EncodedImages | EncodedTexts


@dataclass(frozen=True)
class _StoreSource:
    """The items of a store: how to encode blocks of their rows, and the sizes for StoreFacts."""

    name: str
    items: int
    sizes: dict[str, int]
    encode: Callable[[Iterable[range]], Iterator[_Items]]


@dataclass(frozen=True)
class BuildResult:
    """The manifest of the gallery, and how many items this build encoded (0 if the gallery was complete)."""

    manifest: GalleryManifest
    encoded: int


@torch.inference_mode()
def build(
    model: Hire,
    split: Split,
    out: str | Path,
    *,
    address: str = "",
    captions: bool = False,
    overwrite: bool = False,
    shard: int = SHARD,
) -> BuildResult:
    """Encode the images of `split`, and its captions if asked for, into the gallery folder `out`.

    address: the model as the user named it. A gallery of the same model, data and split that is there already is left
    as it is. Raises HireError where `out` holds something else, unless it is a gallery and `overwrite` is said.
    """
    out = Path(out).expanduser()
    if captions and not len(split.captions):
        raise DataError(f"{split.dataset.folder}: split '{split.name}' has no captions to encode.")
    key = make_key(artifact.digest(model), split.dataset.manifest, split.name, captions)
    if out.exists() and (found := _check_existing(out, key, overwrite)):
        return BuildResult(found, 0)
    model.eval()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _build_folder(model, split, out, key, address, captions, shard)
    except Timeout as error:
        raise HireError(f"{out}: another process is building it. Wait until it is there, or name another.") from error
    except OSError as error:
        raise HireError(
            f"{out}: building stopped: {error}. When that is mended, the same command goes on where it was."
        ) from error


def _build_folder(
    model: Hire, split: Split, out: Path, key: dict[str, str], address: str, captions: bool, shard: int
) -> BuildResult:
    folder = _open_partial_folder(out, key | {"shard": str(shard)})
    images, encoded = _write_store(folder, _make_image_source(model, split), shard)
    texts, more = _write_store(folder, _make_caption_source(model, split), shard) if captions else (None, 0)
    _write_tables(split, folder, captions)
    manifest = GalleryManifest(
        model=key["model"],
        address=address,
        data=split.dataset.manifest,
        split=split.name,
        dim=model.settings.dim,
        images=images,
        captions=texts,
        files={name: hash_file(folder / name) for name in show_progress(list_files(images, texts), "digests")},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(folder, out)
    for left in (out / _KEY, out / _PARTS):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return BuildResult(manifest, encoded + more)


def _check_existing(out: Path, key: dict[str, str], overwrite: bool) -> GalleryManifest | None:
    """Return the manifest of the gallery at `out` if it has this `key`, or None if it is to be replaced."""
    try:
        found = GalleryManifest.read(out)
    except HireError as error:
        raise HireError(f"{out} exists and is no gallery; it is left alone. Name another folder with --out.") from error
    if overwrite:
        return None
    differing = [name for name in key if key[name] != found.key[name]]
    if not differing:
        return found
    told = "; ".join(f"{name} {found.key[name][:12]} there, {key[name][:12]} asked for" for name in differing)
    raise HireError(f"{out} holds another gallery: {told}. --overwrite replaces it, or name another folder with --out.")


def _open_partial_folder(out: Path, key: dict[str, str]) -> Path:
    """Return the folder of an unfinished build with this key, or an empty one. A build of another key is deleted."""
    folder = out.with_name(f".{out.name}.partial")
    if folder.exists():
        if (folder / _KEY).is_file() and json.loads((folder / _KEY).read_text("utf-8")) == key:
            log.info("An interrupted build of this gallery goes on.")
            return folder
        log.info("%s is of another model, data set or split, and begins anew.", folder)
        shutil.rmtree(folder)
    (folder / _PARTS).mkdir(parents=True)
    (folder / _PARTS / _KEY).write_text(json.dumps(key, indent=1) + "\n", "utf-8")
    os.replace(folder / _PARTS / _KEY, folder / _KEY)
    return folder


def _make_image_source(model: Hire, split: Split) -> _StoreSource:
    match = model.interaction.relations
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": match.kinds if match else 0}
    return _StoreSource(IMAGES, len(split.images), sizes, partial(encode_image_blocks, model, split))


def _make_caption_source(model: Hire, split: Split) -> _StoreSource:
    roles, bank = model.roles, CaptionBank.from_lists(model.vocabulary.encode(split.texts))
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": roles.width if roles else 0}
    return _StoreSource(CAPTIONS, len(split.captions), sizes, partial(encode_text_blocks, model, bank))


def _write_store(folder: Path, source: _StoreSource, shard: int) -> tuple[StoreFacts, int]:
    """Encode the missing shards, then write one file each of lengths, summaries and index."""
    name, items = source.name, source.items
    paths = shard_paths(folder, name, items, shard)
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    spans = [range(number * shard, min((number + 1) * shard, items)) for number in missing]
    blocks = [block for span in spans for block in split_into_blocks(span)]
    parts: list[_Items] = []
    for part, block in zip(source.encode(show_progress(blocks, f"encode {name}")), blocks, strict=True):
        parts.append(part)
        if block.stop % shard == 0 or block.stop == items:
            _write_shard(folder, paths[block.start // shard], parts)
            parts = []
    lengths = _join_shards(folder, paths, lengths_name)
    summary = _join_shards(folder, paths, summary_name)
    np.save(folder / lengths_name(name), lengths)
    np.save(folder / summary_name(name), summary)
    kind = index.choose_kind(items)
    if kind != "flat":
        index.write(summary, folder / index_name(name))
    facts = StoreFacts(items=items, fragments=int(lengths.sum()), shard=shard, index=kind, **source.sizes)
    return facts, sum(map(len, spans))


def _write_shard(folder: Path, path: Path, parts: list[_Items]) -> None:
    """Write one shard. The records come last, because their file marks the shard as complete."""
    kept = folder / _PARTS
    arrays = {
        kept / lengths_name(path.stem): torch.cat([part.mask.sum(dim=1) for part in parts]).int(),
        kept / summary_name(path.stem): torch.cat([part.summary for part in parts]),
        path: torch.cat([_flatten(part.extract(row)) for part in parts for row in range(len(part))]),
    }
    for place, tensor in arrays.items():
        with atomic_write(place) as partial:
            np.save(partial, tensor.cpu().numpy())


def _flatten(item: _Items) -> Tensor:
    """Flatten one item, without padding, into one row of numbers; the stores' `rows` reverses this."""
    pieces = (item.regions, item.edges) if isinstance(item, EncodedImages) else (item.words, item.roles)
    return torch.cat([piece.flatten() for piece in pieces if piece is not None])


def _join_shards(folder: Path, paths: list[Path], name: Callable[[str], str]) -> np.ndarray:
    return np.concatenate([np.load(folder / _PARTS / name(path.stem), allow_pickle=False) for path in paths])


def _write_tables(split: Split, folder: Path, captions: bool) -> None:
    """Write the split's rows of the data set's tables, and a link to its pictures."""
    source = split.dataset.folder
    images = pq.read_table(source / "images.parquet", schema=TABLES["images"]).take(pa.array(split.images))
    for name, first, count in (
        ("regions", "first_region", "n_regions"),
        ("relations", "first_relation", "n_relations"),
    ):
        firsts, counts = images[first].to_numpy(), images[count].to_numpy().astype(np.int64)
        moved = np.cumsum(counts) - counts
        rows = np.repeat(firsts - moved, counts) + np.arange(counts.sum())
        table = pq.read_table(source / f"{name}.parquet", schema=TABLES[name])
        pq.write_table(table.take(pa.array(rows)), folder / f"{name}.parquet", compression="zstd")
        place = images.schema.get_field_index(first)
        images = images.set_column(place, images.schema.field(place), pa.array(moved))
    pq.write_table(images, folder / "images.parquet", compression="zstd")
    if captions:
        table = pq.read_table(source / "captions.parquet", schema=TABLES["captions"]).take(pa.array(split.captions))
        table = table.set_column(1, table.schema.field(1), pa.array(split.owner))
        pq.write_table(table, folder / "captions.parquet", compression="zstd")
    if (source / PICTURES).is_dir() and not (folder / PICTURES).exists():
        (folder / PICTURES).symlink_to((source / PICTURES).resolve(), target_is_directory=True)

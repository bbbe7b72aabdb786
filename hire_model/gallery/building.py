"""Build a gallery: encode every item once, shard by shard. An interrupted build continues where it stopped.

Shards are written atomically into a hidden folder beside the gallery. The complete folder is renamed. It contains a key
of model, data set and split, so that a build never reuses shards of another model.
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
from hire_model.errors import DataError, HireError
from hire_model.files import atomic_write, recover_folder, replace_folder
from hire_model.gallery import index
from hire_model.gallery.format import (
    CAPTIONS,
    IMAGES,
    GalleryManifest,
    StoreFacts,
    get_index_name,
    get_lengths_name,
    get_summary_name,
    list_files,
    list_shards,
    make_key,
)
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, split_into_blocks

log = logging.getLogger(__name__)
SHARD = 1024
"""Items in a shard: the most that an interruption makes the next build encode again."""

_KEY, _PARTS = "key.json", "parts"
_Items = EncodedImages | EncodedTexts


@dataclass(frozen=True)
class _StoreSource:
    """The items of a store: a function that encodes blocks of rows, and the sizes for StoreFacts."""

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
    """Encode the images of `split` into the gallery folder `out`. If `out` is this gallery already, do nothing.

    Args:
        model: encodes the items.
        split: the images.
        out: the gallery's folder.
        address: the model as the user named it.
        captions: also encode the captions.
        overwrite: replace another gallery in `out`.
        shard: items per shard.

    Raises:
        HireError: if `out` is not a gallery, or is another gallery and `overwrite` is False.
    """
    out = Path(out).expanduser()
    if captions and not len(split.captions):
        raise DataError(f"{split.dataset.folder}: split '{split.name}' has no captions to encode.")
    key = make_key(artifact.digest(model), split.dataset.manifest, split.name, captions)
    recover_folder(out)
    if out.exists() and (existing := _check_existing(out, key, overwrite)):
        return BuildResult(existing, 0)
    model.eval()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _build_folder(model, split, out, key, address, captions, shard)
    except Timeout as error:
        raise HireError(
            f"{out}: another process is building this gallery. Wait until it finishes, or name another folder."
        ) from error
    except OSError as error:
        raise HireError(
            f"{out}: building stopped: {error}. Fix this, then repeat the command; it continues where it stopped."
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
        data=split.dataset.manifest.model_copy(update={"blocks": {}}),  # a gallery has no features.npy
        split=split.name,
        dim=model.summary_dim,
        images=images,
        captions=texts,
        files={name: hash_file(folder / name) for name in show_progress(list_files(images, texts), "digests")},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(folder, out)
    shutil.rmtree(out / _PARTS)
    (out / _KEY).unlink()
    return BuildResult(manifest, encoded + more)


def _check_existing(out: Path, key: dict[str, str], overwrite: bool) -> GalleryManifest | None:
    """Return the manifest of the gallery in `out` if it has this `key`, or None if it must be replaced."""
    try:
        existing = GalleryManifest.read(out)
    except HireError as error:
        raise HireError(
            f"{out} exists, but is not a gallery. Nothing was changed. Name another folder with --out."
        ) from error
    if overwrite:
        return None
    differing = [name for name in key if key[name] != existing.key[name]]
    if not differing:
        return existing
    details = "; ".join(f"{name} is {existing.key[name][:12]}, expected {key[name][:12]}" for name in differing)
    raise HireError(
        f"{out} is another gallery: {details}. Replace it with --overwrite, or name another folder with --out."
    )


def _open_partial_folder(out: Path, key: dict[str, str]) -> Path:
    """Return the folder of an unfinished build with this key, or a new one. A build with another key is deleted."""
    folder = out.with_name(f".{out.name}.partial")
    if folder.exists():
        if (folder / _KEY).is_file() and json.loads((folder / _KEY).read_text("utf-8")) == key:
            log.info("Continuing an interrupted build of this gallery.")
            return folder
        log.info("%s belongs to another model, data set or split; starting again.", folder)
        shutil.rmtree(folder)
    (folder / _PARTS).mkdir(parents=True)
    (folder / _PARTS / _KEY).write_text(json.dumps(key, indent=1) + "\n", "utf-8")
    os.replace(folder / _PARTS / _KEY, folder / _KEY)
    return folder


def _make_image_source(model: Hire, split: Split) -> _StoreSource:
    relations = model.interaction.relations
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": relations.kinds if relations else 0}
    return _StoreSource(IMAGES, len(split.images), sizes, partial(encode_image_blocks, model, split))


def _make_caption_source(model: Hire, split: Split) -> _StoreSource:
    roles, bank = model.roles, CaptionBank.from_lists(model.vocabulary.encode(split.texts))
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": roles.width if roles else 0}
    return _StoreSource(CAPTIONS, len(split.captions), sizes, partial(encode_text_blocks, model, bank))


def _write_store(folder: Path, source: _StoreSource, shard: int) -> tuple[StoreFacts, int]:
    """Encode the missing shards, then write a file for the lengths, one for the summaries, and one for the index."""
    name, items = source.name, source.items
    paths = list_shards(folder, name, items, shard)
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    spans = [range(number * shard, min((number + 1) * shard, items)) for number in missing]
    blocks = [block for span in spans for block in split_into_blocks(span)]
    parts: list[_Items] = []
    for part, block in zip(source.encode(show_progress(blocks, f"encode {name}")), blocks, strict=True):
        parts.append(part)
        if block.stop % shard == 0 or block.stop == items:
            _write_shard(folder, paths[block.start // shard], parts)
            parts = []
    lengths = _join_shards(folder, paths, get_lengths_name)
    summary = _join_shards(folder, paths, get_summary_name)
    np.save(folder / get_lengths_name(name), lengths)
    np.save(folder / get_summary_name(name), summary)
    kind = index.choose_kind(items)
    if kind != "flat":
        index.write(summary, folder / get_index_name(name))
    facts = StoreFacts(items=items, fragments=int(lengths.sum()), shard=shard, index=kind, **source.sizes)
    return facts, sum(map(len, spans))


def _write_shard(folder: Path, path: Path, parts: list[_Items]) -> None:
    """Write one shard. The records come last, because their file marks the shard as complete."""
    side_folder = folder / _PARTS
    arrays = {
        side_folder / get_lengths_name(path.stem): torch.cat([part.mask.sum(dim=1) for part in parts]).int(),
        side_folder / get_summary_name(path.stem): torch.cat([part.summary for part in parts]),
        path: torch.cat([_flatten(part.extract(row)) for part in parts for row in range(len(part))]),
    }
    for target, tensor in arrays.items():
        with atomic_write(target) as partial:
            np.save(partial, tensor.cpu().numpy())


def _flatten(item: _Items) -> Tensor:
    """Flatten one item, without padding, into its record; `read_rows` of the stores reverses this."""
    pieces = (item.regions, item.edges) if isinstance(item, EncodedImages) else (item.words, item.roles)
    return torch.cat([piece.flatten() for piece in pieces if piece is not None])


def _join_shards(folder: Path, paths: list[Path], name: Callable[[str], str]) -> np.ndarray:
    return np.concatenate([np.load(folder / _PARTS / name(path.stem), allow_pickle=False) for path in paths])


def _write_tables(split: Split, folder: Path, captions: bool) -> None:
    """Write the split's rows of the data set's tables, and a link to the picture files."""
    source = split.dataset.folder
    images = pq.read_table(source / "images.parquet", schema=TABLES["images"]).take(pa.array(split.images))
    for name, first, count in (
        ("regions", "first_region", "n_regions"),
        ("relations", "first_relation", "n_relations"),
    ):
        firsts, counts = images[first].to_numpy(), images[count].to_numpy().astype(np.int64)
        new_firsts = np.cumsum(counts) - counts
        rows = np.repeat(firsts - new_firsts, counts) + np.arange(counts.sum())
        table = pq.read_table(source / f"{name}.parquet", schema=TABLES[name])
        pq.write_table(table.take(pa.array(rows)), folder / f"{name}.parquet", compression="zstd")
        column = images.schema.get_field_index(first)
        images = images.set_column(column, images.schema.field(column), pa.array(new_firsts))
    pq.write_table(images, folder / "images.parquet", compression="zstd")
    if captions:
        table = pq.read_table(source / "captions.parquet", schema=TABLES["captions"]).take(pa.array(split.captions))
        table = table.set_column(1, table.schema.field(1), pa.array(split.owner))
        pq.write_table(table, folder / "captions.parquet", compression="zstd")
    if (source / PICTURES).is_dir() and not (folder / PICTURES).exists():
        (folder / PICTURES).symlink_to((source / PICTURES).resolve(), target_is_directory=True)

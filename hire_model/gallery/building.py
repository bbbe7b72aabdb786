"""Building a gallery: every item is encoded once, shard by shard; an interrupted build goes on where it was.

The shards are written into a hidden folder beside the gallery, each whole or not at all, and the folder becomes the
gallery when everything is there. Its key says what was encoded by what, so that no shard of another model gets in.
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
from hire_model.gallery.format import CAPTIONS, IMAGES, GalleryManifest, file_names, key_of
from hire_model.gallery.store import ShelfFacts, index_name, lengths_name, shard_paths, summary_name
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encoding_blocks, image_blocks, text_blocks

log = logging.getLogger(__name__)
SHARD = 1024
"""Items in a shard: what an interruption costs at most."""

_KEY, _PARTS = "key.json", "parts"
_Items = EncodedImages | EncodedTexts


@dataclass(frozen=True)
class _Side:
    """What a shelf is made of: blocks of rows -> these items encoded, and the sizes that ShelfFacts names."""

    name: str
    items: int
    sizes: dict[str, int]
    encode: Callable[[Iterable[range]], Iterator[_Items]]


@dataclass(frozen=True)
class Built:
    """A gallery that is there now: its manifest, and how many items were encoded for it just now."""

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
) -> Built:
    """Encode the images of `split`, and its captions if asked for, into the gallery folder `out`.

    address: the model as the user named it. A gallery of the same model, data and split that is there already is left
    as it is. Raises HireError where `out` holds something else, unless it is a gallery and `overwrite` is said.
    """
    out = Path(out).expanduser()
    if captions and not len(split.captions):
        raise DataError(f"{split.dataset.folder}: split '{split.name}' has no captions to encode.")
    key = key_of(artifact.digest(model), split.dataset.manifest, split.name, captions)
    if out.exists() and (found := _standing(out, key, overwrite)):
        return Built(found, 0)
    model.eval()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _built(model, split, out, key, address, captions, shard)
    except Timeout as error:
        raise HireError(f"{out}: another process is building it. Wait until it is there, or name another.") from error
    except OSError as error:
        raise HireError(
            f"{out}: building stopped: {error}. When that is mended, the same command goes on where it was."
        ) from error


def _built(
    model: Hire, split: Split, out: Path, key: dict[str, str], address: str, captions: bool, shard: int
) -> Built:
    folder = _unfinished(out, key | {"shard": str(shard)})
    images, encoded = _shelf(folder, _image_side(model, split), shard)
    texts, more = _shelf(folder, _caption_side(model, split), shard) if captions else (None, 0)
    _write_tables(split, folder, captions)
    manifest = GalleryManifest(
        model=key["model"],
        address=address,
        data=split.dataset.manifest,
        split=split.name,
        dim=model.settings.dim,
        images=images,
        captions=texts,
        files={name: hash_file(folder / name) for name in show_progress(file_names(images, texts), "digests")},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(folder, out)
    for left in (out / _KEY, out / _PARTS):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return Built(manifest, encoded + more)


def _standing(out: Path, key: dict[str, str], overwrite: bool) -> GalleryManifest | None:
    """The manifest of the gallery at `out` if it is the one that `key` asks for, None if it is to be replaced."""
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


def _unfinished(out: Path, key: dict[str, str]) -> Path:
    """The folder of an unfinished build of this key, empty where there is none; one of another key is deleted."""
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


def _image_side(model: Hire, split: Split) -> _Side:
    match = model.interaction.relations
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": match.kinds if match else 0}
    return _Side(IMAGES, len(split.images), sizes, partial(image_blocks, model, split))


def _caption_side(model: Hire, split: Split) -> _Side:
    roles, bank = model.roles, CaptionBank.from_lists(model.vocabulary.encode(split.texts))
    sizes = {"size": model.settings.pair_dim or model.settings.dim, "relations": roles.width if roles else 0}
    return _Side(CAPTIONS, len(split.captions), sizes, partial(text_blocks, model, bank))


def _shelf(folder: Path, side: _Side, shard: int) -> tuple[ShelfFacts, int]:
    """Encode the shards that are missing, and join what is kept in one file each: lengths, summaries, index."""
    name, items = side.name, side.items
    paths = shard_paths(folder, name, items, shard)
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    spans = [range(number * shard, min((number + 1) * shard, items)) for number in missing]
    blocks = [block for span in spans for block in encoding_blocks(span)]
    parts: list[_Items] = []
    for part, block in zip(side.encode(show_progress(blocks, f"encode {name}")), blocks, strict=True):
        parts.append(part)
        if block.stop % shard == 0 or block.stop == items:
            _write_shard(folder, paths[block.start // shard], parts)
            parts = []
    lengths = _joined(folder, paths, lengths_name)
    summary = _joined(folder, paths, summary_name)
    np.save(folder / lengths_name(name), lengths)
    np.save(folder / summary_name(name), summary)
    kind = index.kind_for(items)
    if kind != "flat":
        index.write(summary, folder / index_name(name))
    facts = ShelfFacts(items=items, fragments=int(lengths.sum()), shard=shard, index=kind, **side.sizes)
    return facts, sum(map(len, spans))


def _write_shard(folder: Path, path: Path, parts: list[_Items]) -> None:
    """One shard: its records last, as their file says that the shard is complete."""
    kept = folder / _PARTS
    arrays = {
        kept / lengths_name(path.stem): torch.cat([part.mask.sum(dim=1) for part in parts]).int(),
        kept / summary_name(path.stem): torch.cat([part.summary for part in parts]),
        path: torch.cat([_record(part.extract(row)) for part in parts for row in range(len(part))]),
    }
    for place, tensor in arrays.items():
        with atomic_write(place) as partial:
            np.save(partial, tensor.cpu().numpy())


def _record(item: _Items) -> Tensor:
    """One item without padding as one row of numbers; see the shelves' `rows` for the way back."""
    pieces = (item.regions, item.edges) if isinstance(item, EncodedImages) else (item.words, item.roles)
    return torch.cat([piece.flatten() for piece in pieces if piece is not None])


def _joined(folder: Path, paths: list[Path], name: Callable[[str], str]) -> np.ndarray:
    return np.concatenate([np.load(folder / _PARTS / name(path.stem), allow_pickle=False) for path in paths])


def _write_tables(split: Split, folder: Path, captions: bool) -> None:
    """The rows of the split in the data set's tables, and a link to its pictures."""
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

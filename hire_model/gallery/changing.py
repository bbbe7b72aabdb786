"""Change a gallery without building it again: add, replace and remove images.

A change adds one segment. It takes the place of the last segments while they are not much larger, so that a gallery of
N images has about log2(N) segments and an image is copied about log2(N) times. Nothing is encoded twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hire_model.data.schema import MakerFacts, Manifest, find_digest, name_with_digest
from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.gallery.building import check_captions, commit, lock_gallery, name_partial, name_segment
from hire_model.gallery.format import ANCHORS, GalleryManifest, SegmentFacts, make_key
from hire_model.gallery.merging import merge_segments
from hire_model.gallery.metadata import hash_metadata, load_metadata, read_metadata
from hire_model.gallery.segment import Segment
from hire_model.gallery.store import Gallery, check_model, list_kept
from hire_model.gallery.writing import SHARD, list_sources, open_partial, take_split, write_segment
from hire_model.model.hire import Hire

_GROWTH = 2  # a segment is merged with later ones until they have this share of its images
_MOST_REMOVED = 0.5  # a segment with more removed images is written again without them
_NAMED = 5  # ids in a message


@dataclass(frozen=True)
class ChangeResult:
    """The manifest of the changed gallery, and how many images were added, replaced and removed."""

    manifest: GalleryManifest
    added: int = 0
    replaced: int = 0
    removed: int = 0


@torch.inference_mode()
def add(
    model: Hire,
    split: Split,
    folder: str | Path,
    *,
    metadata: Path | None = None,
    replace: bool = False,
    shard: int = SHARD,
) -> ChangeResult:
    """Encode the images of `split`, with captions if the gallery has captions, and add them to the gallery `folder`.

    Args:
        model: the model that encoded the gallery.
        split: the images. Regions, classes and predicates must be of the same kind as those of the gallery.
        folder: the gallery.
        metadata: file with a JSON object per image (see `metadata.load_metadata`).
        replace: replace images of the gallery that have the same id; otherwise they are an error.
        shard: items per shard.

    Raises:
        HireError: if the model or the data set does not fit the gallery, or an id exists.
    """
    folder = Path(folder).expanduser()
    with lock_gallery(folder):
        gallery = Gallery.open(folder)
        manifest = gallery.manifest
        check_model(model, manifest, folder)
        check_captions(split, manifest.captioned)
        _check_data(split.dataset.manifest, manifest, folder)
        tables, pictures = take_split(split, manifest.captioned)
        ids = tables["images"]["image_id"].to_pylist()
        existing = [row for name in ids if (row := gallery.find(name)) is not None]
        if existing and not replace:
            raise HireError(
                f"{folder}: contains {_name_some(gallery.ids[existing].tolist())} already. Replace with --replace, or "
                "remove first: hire gallery remove."
            )
        texts = load_metadata(metadata, ids) if metadata else [None] * len(ids)
        work, name = name_partial(folder), name_segment(manifest.generation + 1)
        anchor_file = gallery.segments[0].folder / ANCHORS if gallery.anchors else None
        key = make_key(
            manifest.model, split.dataset.manifest, split.name, manifest.captioned, hash_metadata(metadata),
            manifest.anchor_digest,
        )  # fmt: skip
        open_partial(work, key | {"shard": str(shard), "kind": "add"})
        model.eval()
        sources = list_sources(model, split, manifest.captioned, anchor_file)
        new_folder, facts, _ = write_segment(
            work, name, sources, tables, pictures, texts, shard, anchor_file=anchor_file
        )
        new = _Part(facts, new_folder)
        changed = _commit(gallery, [*_remove_rows(gallery, np.array(existing, np.int64)), new])
    return ChangeResult(changed, len(ids) - len(existing), len(existing))


def remove(
    folder: str | Path, ids: Sequence[str] = (), where: Mapping[str, Any] | None = None, missing_ok: bool = False
) -> ChangeResult:
    """Remove images, with their captions, from the gallery `folder`.

    Args:
        folder: the gallery.
        ids: images to remove.
        where: remove all images whose metadata has these values, too.
        missing_ok: ignore ids that are not in the gallery; otherwise they are an error, and nothing is removed.

    Raises:
        HireError: if an id is unknown, or no image would be left.
    """
    folder = Path(folder).expanduser()
    with lock_gallery(folder):
        gallery = Gallery.open(folder)
        found = {name: gallery.find(name) for name in ids}
        unknown = [name for name, row in found.items() if row is None]
        if unknown and not missing_ok:
            raise HireError(f"{folder}: contains no {_name_some(unknown)}. Nothing was removed.")
        rows = np.array([row for row in found.values() if row is not None], np.int64)
        rows = np.union1d(rows, gallery.filter(where)) if where else np.unique(rows)
        if len(rows) == len(gallery):
            raise HireError(f"{folder}: no image would be left. Nothing was removed. Delete the folder instead.")
        if not len(rows):
            return ChangeResult(gallery.manifest)
        return ChangeResult(_commit(gallery, _remove_rows(gallery, rows)), removed=len(rows))


def _name_some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in ids[:_NAMED]) + more


@dataclass(frozen=True)
class _Part:
    """A segment of the new generation: its facts, and its folder if it is not in the gallery yet."""

    facts: SegmentFacts
    folder: Path | None = None


def _check_data(data: Manifest, manifest: GalleryManifest, folder: Path) -> None:
    """Raise DataError if regions of the data set are of another kind than those of the gallery."""
    for name, what in (
        ("feature_extractor", "feature extractor"),
        ("feature_dim", "feature size"),
        ("classes", "classes"),
        ("predicates", "predicates"),
        ("relation_maker", "makers of relations"),
    ):
        mine, theirs = getattr(data, name), getattr(manifest.data, name)
        if name == "relation_maker":  # a batch with relations from a file always has a file of its own
            mine, theirs = (x.relation_maker if x.has_made_relations else None for x in (data, manifest.data))
        if name == "feature_extractor" and find_digest(mine) and find_digest(mine) == find_digest(theirs):
            continue  # a checkpoint in a folder of another name
        if mine != theirs:
            details = "" if isinstance(mine, tuple) else f" ({_describe(mine)}, expected {_describe(theirs)})"
            raise DataError(
                f"The {what} of the data set differ from those of {folder}{details}. Extract its regions like those of "
                "the gallery, or build a gallery of its own."
            )


def _describe(value: object) -> object:
    return name_with_digest(value.name, value.digest) if isinstance(value, MakerFacts) else value


def _remove_rows(gallery: Gallery, rows: np.ndarray) -> list[_Part]:
    """Return the segments of the gallery without the images `rows`. A segment without images is left out."""
    parts = []
    for number, facts in enumerate(gallery.manifest.segments):
        local = gallery.images.local[rows[gallery.images.part[rows] == number]]
        removed = tuple(np.union1d(facts.removed, local).astype(int).tolist())
        if len(removed) < facts.images.items:
            parts.append(_Part(facts.model_copy(update={"removed": removed})))
    return parts


def _commit(gallery: Gallery, parts: list[_Part]) -> GalleryManifest:
    """Merge segments where that is due, write the new generation, and return its manifest."""
    manifest, generation = gallery.manifest, gallery.manifest.generation + 1
    folders = {part.facts.name: part.folder for part in parts if part.folder}
    first = _choose_merged(parts)
    work = name_partial(gallery.folder)
    if first < len(parts):
        name = name_segment(generation)
        place = work / "merged"
        shutil.rmtree(place, ignore_errors=True)  # of a killed change
        merged = _merge(gallery, parts[first:], place, name)
        parts, folders = [*parts[:first], _Part(merged)], {name: place}
    changed = manifest.model_copy(
        update={"generation": generation, "changed": True, "segments": tuple(part.facts for part in parts)}
    )
    commit(gallery.folder, GalleryManifest.model_validate(changed.model_dump()), folders)
    shutil.rmtree(work, ignore_errors=True)
    return changed


def _choose_merged(parts: list[_Part]) -> int:
    """Return the number of the first segment to merge with all later ones; the number of segments for no merge."""
    first, total = len(parts), 0
    for number in range(len(parts) - 1, -1, -1):
        facts = parts[number].facts
        shrunk = len(facts.removed) > _MOST_REMOVED * facts.images.items
        if shrunk or (number < len(parts) - 1 and facts.kept < _GROWTH * total):
            first = number
        total += facts.kept
    return first


def _merge(gallery: Gallery, parts: Sequence[_Part], folder: Path, name: str) -> SegmentFacts:
    opened = {segment.facts.name: segment for segment in gallery.segments}
    pieces: list[tuple[Segment, np.ndarray]] = []
    metadata: list[str | None] = []
    for part in parts:
        new = part.folder and Segment(part.folder, part.facts, gallery.manifest.data)
        segment = new or opened[part.facts.name]
        rows = list_kept(part.facts.images.items, part.facts.removed)
        pieces.append((segment, rows))
        metadata += read_metadata(segment.folder)[rows].tolist()
    return merge_segments(folder, name, pieces, metadata)

"""Build a gallery: encode every item once, shard by shard. An interrupted build continues where it stopped.

The build writes a hidden folder beside the gallery, which is renamed when it is complete. A gallery that exists already
gets the new segment and then the new manifest, so that its readers see the old or the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from hire_model.data.schema import MANIFEST
from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.files import atomic_write, flush_folder, recover_folder, remove_unused, replace_folder
from hire_model.gallery.anchors import draw_captions, encode_sample, fit_anchors, hash_captions
from hire_model.gallery.format import ANCHORS, SEGMENTS, GalleryManifest, is_old, make_key
from hire_model.gallery.metadata import hash_metadata, load_metadata
from hire_model.gallery.writing import SHARD, list_sources, open_partial, take_split, write_segment
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import check_features, copy_to_cpu
from hire_model.workers import THIS_PROCESS, Workers


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
    metadata: Path | None = None,
    anchor_captions: Sequence[str] | None = None,
    overwrite: bool = False,
    shard: int = SHARD,
    workers: Workers = THIS_PROCESS,
) -> BuildResult:
    """Encode the images of `split` into the gallery folder `out`. If `out` is this gallery already, do nothing.

    Args:
        model: encodes the items.
        split: the images.
        out: the gallery's folder.
        address: the model as the user named it.
        captions: also encode the captions.
        metadata: file with a JSON object per image (see `metadata.load_metadata`).
        anchor_captions: captions to choose anchors from, for a shortlist that agrees with the pair score
        overwrite: replace another gallery in `out`.
        shard: items per shard.
        workers: where items are encoded.

    Raises:
        HireError: if `out` is not a gallery, or is another gallery and `overwrite` is False, or the features are not
            those that the model was trained on.
    """
    out = Path(out).expanduser()
    check_captions(split, captions)
    check_features(model, split)
    if anchor_captions is not None and not model.settings.global_head:
        raise HireError(
            "The model has no global head, so a search scores every image. Build the gallery without anchors."
        )
    data = split.dataset.manifest.model_copy(update={"blocks": {}})  # a gallery has no features.npy
    digest = artifact.digest(model)
    key = make_key(digest, data, split.name, captions, hash_metadata(metadata), hash_captions(anchor_captions))
    recover_folder(out)
    if out.exists() and (existing := _check_existing(out, key, overwrite)):
        return BuildResult(existing, 0)
    model.eval()
    with lock_gallery(out):
        generation = _read_generation(out) + 1
        name, work = name_segment(generation), name_partial(out)
        open_partial(work, key | {"shard": str(shard)})
        tables, pictures = take_split(split, captions)
        texts = (
            load_metadata(metadata, tables["images"]["image_id"].to_pylist())
            if metadata
            else [None] * len(split.images)
        )
        model = copy_to_cpu(model) if workers.parallel else model
        anchor_file = _fit_anchors(work, model, split, anchor_captions)
        sources = list_sources(model, split, captions, anchor_file)
        folder, segment, encoded = write_segment(
            work, name, sources, tables, pictures, texts, shard, workers, anchor_file
        )
        manifest = GalleryManifest(
            generation=generation, model=digest, address=address, data=data, split=split.name,
            metadata=key["metadata"], anchor_digest=key["anchors"], dim=model.summary_dim, captioned=captions,
            segments=(segment,),
        )  # fmt: skip
        install(folder, out, manifest)
        shutil.rmtree(work)
    return BuildResult(manifest, encoded)


def _fit_anchors(work: Path, model: Hire, split: Split, captions: Sequence[str] | None) -> Path | None:
    """Return the file of the anchors, which an interrupted build may have written. None for None."""
    if captions is None:
        return None
    path = work / ANCHORS
    if not path.is_file():
        drawn = draw_captions(captions)  # refuses too few before the images are encoded
        fit_anchors(model, encode_sample(model, split), drawn).save(path)
    return path


def check_captions(split: Split, captions: bool) -> None:
    """Raise DataError if captions are wanted and the split has none."""
    if captions and not len(split.captions):
        raise DataError(f"{split.dataset.folder}: split '{split.name}' has no captions to encode.")


@contextmanager
def lock_gallery(out: Path) -> Iterator[None]:
    """Let one process at a time write the gallery `out`. Raises HireError if another one does, or if the disk fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise HireError(
            f"{out}: another process is building or changing this gallery. Wait until it finishes."
        ) from error
    except OSError as error:
        raise HireError(
            f"{out}: writing stopped: {error}. Fix this, then repeat the command; it continues where it stopped."
        ) from error


def name_partial(out: Path) -> Path:
    """Return the folder of an unfinished segment of the gallery `out`."""
    return out.with_name(f".{out.name}.partial")


def name_segment(generation: int) -> str:
    """Return the name of the segment that a generation adds."""
    return f"{generation:06d}"


def _read_generation(out: Path) -> int:
    """Return the generation of the gallery `out`, 0 if there is none or it has an old format."""
    try:
        return GalleryManifest.read(out).generation
    except HireError:
        return 0


def install(folder: Path, out: Path, manifest: GalleryManifest) -> None:
    """Make the segment in `folder` the gallery `out`, with `manifest`."""
    if manifest.generation > 1:
        commit(out, manifest, {manifest.segments[0].name: folder})
        return
    gallery = folder.with_name("gallery")
    shutil.rmtree(gallery, ignore_errors=True)  # of a killed build
    (gallery / SEGMENTS).mkdir(parents=True)
    os.replace(folder, gallery / SEGMENTS / manifest.segments[0].name)
    (gallery / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(gallery, out)


def commit(out: Path, manifest: GalleryManifest, folders: dict[str, Path]) -> None:
    """Add segments to the gallery `out`, then replace its manifest: the moment of the change.

    Segments that no manifest names are deleted, unless a reader has them open; then a later change deletes them.

    Args:
        out: the gallery, locked by the caller.
        manifest: the new manifest.
        folders: the complete folders of new segments, by name.
    """
    for name, folder in folders.items():
        place = out / SEGMENTS / name
        if place.exists():  # a change was killed before it replaced the manifest
            shutil.rmtree(place)
        flush_folder(folder)
        os.replace(folder, place)
    with atomic_write(out / MANIFEST) as partial:
        partial.write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    used = {segment.name for segment in manifest.segments}
    for place in (out / SEGMENTS).iterdir():
        if place.name not in used:
            remove_unused(place)


def _check_existing(out: Path, key: dict[str, str], overwrite: bool) -> GalleryManifest | None:
    """Return the manifest of the gallery in `out` if it has this `key`, or None if it must be replaced."""
    if overwrite and is_old(out):
        return None
    try:
        existing = GalleryManifest.read(out)
    except HireError as error:
        if is_old(out):
            raise
        raise HireError(
            f"{out} exists, but is not a gallery. Nothing was changed. Name another folder with --out."
        ) from error
    if overwrite:
        return None
    differing = [name for name in key if key[name] != existing.key[name]]
    if not differing:
        return existing
    details = "; ".join(f"{name} is {_cut(existing.key[name])}, expected {_cut(key[name])}" for name in differing)
    raise HireError(
        f"{out} is another gallery: {details}. Replace it with --overwrite, or name another folder with --out."
    )


def _cut(value: str) -> str:
    return value[:12] if len(value) == 64 else value  # a digest

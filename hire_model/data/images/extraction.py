"""Extract the regions of many pictures, shard by shard; finished shards survive any interruption."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from hire_model.data.images.extractors import Extractor
from hire_model.data.images.pictures import PictureError, compute_fingerprint, decode_picture
from hire_model.data.images.shards import Extraction, ShardStore, write_shard
from hire_model.data.schema import hash_file
from hire_model.progress import show_progress
from hire_model.workers import Workers

MakeExtractor = Callable[[], Extractor]  # called once in each process, so it must be picklable
_PER_SHARD = 16  # a killed run loses at most this many pictures per process
_Result = tuple[Path | None, dict[Path, str]]  # path of the shard, reasons of pictures without regions


def extract_pictures(
    paths: Sequence[Path], make_extractor: MakeExtractor, store: ShardStore, workers: Workers
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Extract all pictures that the store lacks.

    Args:
        paths: the picture files, each once
        make_extractor: returns the extractor
        store: receives the new shards
        workers: where the pictures are extracted

    Returns:
        The digest of each picture that has regions now, and the reason for each that has none.
    """
    digests: dict[Path, str] = {}
    failed: dict[Path, str] = {}
    for path in show_progress(paths, "reading pictures"):
        try:
            digests[path] = hash_file(path).sha256
        except OSError as error:
            failed[path] = f"cannot be read: {error.strerror}"
    first = {digest: path for path, digest in reversed(digests.items()) if digest not in store}
    missing = list(reversed(first.values()))
    shards = [missing[start : start + _PER_SHARD] for start in range(0, len(missing), _PER_SHARD)]
    unusable: dict[str, str] = {}
    work = functools.partial(_extract_shard, folder=store.folder)
    workers = replace(workers, processes=min(workers.processes, len(shards)))
    results = workers.run(make_extractor, work, shards) if shards else iter(())
    with _limit_threads():
        for shard, reasons in _show_pictures(results, len(missing)):
            if shard is not None:
                store.add(shard)
            unusable.update({digests[path]: reason for path, reason in reasons.items()})
    for path, digest in digests.items():
        if digest not in store:
            failed[path] = unusable.get(digest, "the file was changed during the import")
    return {path: digest for path, digest in digests.items() if digest in store}, failed


@contextmanager
def _limit_threads() -> Iterator[None]:
    """Use one torch thread, as the other processes do, so that their number does not change the regions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _show_pictures(results: Iterator[tuple[list[Path], _Result]], total: int) -> Iterator[_Result]:
    """Yield the results of shards and show a progress that counts pictures."""

    def spread() -> Iterator[_Result | None]:
        for shard, result in results:
            yield result
            yield from [None] * (len(shard) - 1)

    for result in show_progress(spread(), "extracting regions", total):
        if result is not None:
            yield result


def _extract_shard(extractor: Extractor, paths: Sequence[Path], folder: Path) -> _Result:
    """Extract pictures and write their shard into `folder`."""
    items: list[Extraction] = []
    reasons: dict[Path, str] = {}
    for path in paths:
        try:
            data = path.read_bytes()
            picture = decode_picture(data)
        except OSError as error:
            reasons[path] = f"cannot be read: {error.strerror}"
        except PictureError as error:
            reasons[path] = str(error)
        else:
            digest = hashlib.sha256(data).hexdigest()
            marks = compute_fingerprint(picture.image)
            items.append(Extraction(digest, picture.width, picture.height, *marks, extractor.extract(picture.image)))
    return (write_shard(folder, items) if items else None), reasons

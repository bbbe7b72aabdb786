"""Extract the regions of many pictures in several processes; finished shards survive any interruption."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from hire_model.data.images.extractors import Extractor
from hire_model.data.images.pictures import PictureError, compute_fingerprint, decode_picture
from hire_model.data.images.shards import Extraction, ShardStore, write_shard
from hire_model.data.schema import hash_file
from hire_model.errors import DataError
from hire_model.progress import show_progress

MakeExtractor = Callable[[], Extractor]  # called once in each process, so it must be picklable
_PER_SHARD = 16  # a killed run loses at most this many pictures per process
_Result = tuple[Path | None, dict[Path, str]]  # path of the shard, reasons of pictures without regions


def extract_pictures(
    paths: Sequence[Path], make_extractor: MakeExtractor, store: ShardStore, workers: int
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Extract all pictures that the store lacks.

    Args:
        paths: the picture files, each once
        make_extractor: returns the extractor
        store: receives the new shards
        workers: number of processes; with 1, or few pictures, this process does the work itself

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
    done = _extract_shards(shards, make_extractor, store.folder, min(workers, len(shards)))
    for shard, reasons in _show_pictures(done, len(missing)):
        if shard is not None:
            store.add(shard)
        unusable.update({digests[path]: reason for path, reason in reasons.items()})
    for path, digest in digests.items():
        if digest not in store:
            failed[path] = unusable.get(digest, "the file was changed during the import")
    return {path: digest for path, digest in digests.items() if digest in store}, failed


def _show_pictures(results: Iterator[tuple[int, _Result]], total: int) -> Iterator[_Result]:
    """Yield the results of shards and show a progress that counts pictures."""

    def spread() -> Iterator[_Result | None]:
        for count, result in results:
            yield result
            yield from [None] * (count - 1)

    for result in show_progress(spread(), "extracting regions", total):
        if result is not None:
            yield result


def _extract_shards(
    shards: Sequence[list[Path]], make_extractor: MakeExtractor, folder: Path, workers: int
) -> Iterator[tuple[int, _Result]]:
    """Yield (number of pictures, result) of each shard as it is finished."""
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            extractor = make_extractor() if shards else None
            for shard in shards:
                assert extractor is not None
                yield len(shard), _extract_shard(extractor, shard, folder)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (make_extractor,))
    try:
        futures = {pool.submit(_work, shard, folder): len(shard) for shard in shards}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process of the import ended unexpectedly; perhaps memory ran out. Finished pictures are kept: "
            "run the same command again, with a smaller --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_extractor: Extractor | None = None  # of this worker process


def _start_worker(make_extractor: MakeExtractor) -> None:
    global _extractor
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent ends the workers in order
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _extractor = make_extractor()


def _exit_with_parent() -> None:
    """End this process when its parent is gone. A pool's workers would wait for work forever after a kill -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(shard: list[Path], folder: Path) -> _Result:
    assert _extractor is not None
    return _extract_shard(_extractor, shard, folder)


def _extract_shard(extractor: Extractor, paths: Sequence[Path], folder: Path) -> _Result:
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

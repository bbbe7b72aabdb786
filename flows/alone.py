"""One retrain at a time, with or without a server: a lock on the folder of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from hire_model.errors import HireError
from hire_model.settings import Settings

LOCK = "retrain.lock"


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the lock beside train.out; within one process it may be taken again. A process that dies gives it back.

    Raises HireError where another process trains. A deployment's runs queue before it comes to that (prefect.yaml).
    """
    place = settings.train.out.resolve().parent
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise HireError(
            f"{place / LOCK}: another retrain is at work in {place}. Wait until it has ended, or name another folder: "
            "train.out=runs2/latest."
        ) from error
    try:
        yield
    finally:
        lock.release()

"""Write and read the journal of a server: a JSON line of measurements per scored pair, for the monitor. Off by default.

    journal-20261123T160000123456-4711.jsonl     a part of the journal; each process writes its own parts

The journal is a sample of the requests. A line has no text (unless enabled), no picture and no features. A background
thread measures and writes; the request only adds references to a queue. If the queue is full or writing fails, the
request is not recorded.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.batch import EncodedImages
from hire_model.errors import HireError
from hire_model.model.vocabulary import UNKNOWN, Vocabulary
from hire_model.service.contract import MatrixRequest, ModelFacts, RerankRequest, SearchRequest
from hire_model.service.parsing import ParsedRequest, RequestImage

log = logging.getLogger(__name__)
FOLDER, SHARE, TEXT = "HIRE_JOURNAL", "HIRE_JOURNAL_SHARE", "HIRE_JOURNAL_TEXT"
PAIRS = 8  # maximum lines per request, so that large requests do not dominate the sample
PART_BYTES, PARTS = 8 << 20, 32  # at 256 MB per folder, about 700,000 lines, the oldest part is deleted
_QUEUE = 8  # requests waiting to be written; each holds its regions: 0.3 MB with 36 regions of 2048 numbers
_PAUSE_S = 60.0  # after an error, nothing is written or logged for this time
_PATTERN = "journal-*.jsonl"
_Scored = tuple[RequestImage | None, str | None, float | None]


@dataclass(frozen=True)
class JournalSettings:
    """The journal's folder, the share of requests to record, and whether to record texts."""

    folder: Path
    share: float = 0.1
    text: bool = False

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables for a server's workers; `from_environment` reads them."""
        return {FOLDER: str(self.folder.resolve()), SHARE: str(self.share), TEXT: str(int(self.text))}

    @classmethod
    def from_environment(cls) -> Self | None:
        """Read the settings from the environment; None without a folder. Raises HireError for an invalid share."""
        folder, share = os.environ.get(FOLDER), os.environ.get(SHARE, "0.1")
        if not folder:
            return None
        try:
            settings = cls(Path(folder), float(share), os.environ.get(TEXT) == "1")
        except ValueError:
            settings = cls(Path(folder), -1.0)
        if not 0 < settings.share <= 1:
            raise HireError(f"{SHARE}={share}: expected the share of requests to record, above 0 and at most 1.")
        return settings


class Line(BaseModel):
    """The measurements of one scored pair.

    weights                    SHA-256 of the model's weights
    score                      None for a search, as its hits are the best of many pairs
    words                      number of words of the text, split at white space
    unknown                    share of its word pieces outside the vocabulary
    regions                    number of regions of the image
    norm, norm_low, norm_high  of the regions' features: mean, 10th and 90th percentile, rounded to three digits; None
                               for an image of a gallery, which stores only encoded regions
    classes                    number of regions per class id

    A search has only its query: either the text or the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str = ""
    version: str = ""
    weights: str = ""
    kind: Literal["pairs", "matrix", "search"] = "pairs"
    score: float | None = None
    words: int | None = None
    unknown: float | None = None
    source: Literal["upload", "gallery"] | None = None
    regions: int | None = None
    norm: float | None = None
    norm_low: float | None = None
    norm_high: float | None = None
    classes: dict[int, int] | None = None
    text: str | None = None


class Journal:
    """Records scored pairs. `note` never raises and never waits."""

    def __init__(self, settings: JournalSettings, facts: ModelFacts, vocabulary: Vocabulary) -> None:
        """Create a journal for the model with these facts and vocabulary; the first `note` starts thread and file."""
        self.settings, self.facts, self.vocabulary = settings, facts, vocabulary
        self._queue: Queue[tuple[str, list[_Scored]] | None] = Queue(_QUEUE)
        self._lock = Lock()
        self._thread: Thread | None = None
        self._parts = _Parts(settings.folder)
        self._paused_until = 0.0

    def note(self, request: ParsedRequest, scores: np.ndarray | None) -> None:
        """Record a sample of the pairs of `request`. scores: [K], None for a search."""
        try:
            if request.probe or random.random() >= self.settings.share or time.monotonic() < self._paused_until:
                return
            self._start()
            self._queue.put_nowait((_name_request(request), _sample_pairs(request, scores)))
        except Full:
            return  # writing is slower than the requests
        except Exception as error:
            self._pause(error)

    def close(self) -> None:
        """Write the queued lines. Also runs when the process exits normally."""
        if self._thread is not None:
            with suppress(Full):  # a hanging disk must not keep the process from exiting
                self._queue.put(None, timeout=10)
                self._thread.join(10)
            self._thread = None

    def _start(self) -> None:
        """Start the thread unless it runs. Not done in the constructor, as a server may fork after it."""
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._write, name="journal", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if time.monotonic() < self._paused_until:
                continue
            try:
                kind, pairs = item
                self._parts.write(
                    "".join(f"{self._measure(kind, pair).model_dump_json()}\n" for pair in pairs).encode()
                )
            except Exception as error:
                self._pause(error)

    def _measure(self, kind: str, pair: _Scored) -> Line:
        image, text, score = pair
        fields: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": self.facts.version,
            "weights": self.facts.weights_sha256,
            "kind": kind,
        }
        if image is not None:
            fields |= measure_image(image)
        if text is not None:
            fields |= measure_text(text, self.vocabulary) | ({"text": text} if self.settings.text else {})
        return Line(score=score, **fields)

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        log.warning("Journal %s: nothing is recorded for a minute: %s", self.settings.folder, error)


class _Parts:
    """Writes the parts of this process. When a part is full, starts a new one and deletes the oldest in the folder.

    logging's RotatingFileHandler is no alternative: it renames files while they are read, and rotates per process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: FileIO | None = None

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError."""
        if self._file is None or not Path(self._file.name).exists() or self._file.tell() >= PART_BYTES:
            self._file = self._start_part()
        self._file.write(lines)

    def _start_part(self) -> FileIO:
        if self._file is not None:
            self._file.close()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"journal-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}.jsonl"
        file = FileIO(path, "x", opener=_open_private)
        for old in list_parts(self.folder)[:-PARTS]:
            old.unlink(missing_ok=True)
        return file


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def measure_text(text: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """Measure a text; return fields of `Line`."""
    pieces, tokenizer = vocabulary.encode([text])[0], vocabulary.tokenizer
    unknown = sum(piece == tokenizer.token_to_id(UNKNOWN) for piece in pieces)
    special = tokenizer.num_special_tokens_to_add(False)
    return {"words": len(text.split()), "unknown": unknown / max(1, len(pieces) - special)}


def measure_image(image: RequestImage) -> dict[str, Any]:
    """Measure an image; return fields of `Line`."""
    ids, counts = np.unique(image.classes, return_counts=True)
    fields: dict[str, Any] = {"classes": dict(zip(ids.tolist(), counts.tolist(), strict=True))}
    if isinstance(image.content, EncodedImages):
        return fields | {"source": "gallery", "regions": len(image.classes)}
    norms = np.linalg.norm(image.content.features.astype(np.float64), axis=1)
    spread = {"norm": norms.mean(), "norm_low": np.quantile(norms, 0.1), "norm_high": np.quantile(norms, 0.9)}
    # data sets store float16; the same features sent as JSON numbers differ in the fourth digit
    rounded = {name: float(f"{value:.3g}") for name, value in spread.items()}
    return fields | {"source": "upload", "regions": len(norms)} | rounded


def list_parts(folder: Path) -> list[Path]:
    """List the parts of the journal in `folder`, the oldest first."""
    return sorted(folder.glob(_PATTERN))


def read_lines(folder: Path) -> Iterator[Line]:
    """Read the journal's lines, part by part. Incomplete lines, left by a killed process, are skipped.

    Raises HireError if there is no journal.
    """
    folder = folder.expanduser()
    if not list_parts(folder):
        raise HireError(
            f"{folder}: no journal here ({_PATTERN}). Start a server that writes one: hire serve --journal {folder}"
        )
    for part in list_parts(folder):
        with part.open("rb") as file:
            for line in file:
                try:
                    yield Line.model_validate_json(line)
                except ValidationError:
                    continue


def _name_request(request: ParsedRequest) -> str:
    kinds: Mapping[type, str] = {SearchRequest: "search", MatrixRequest: "matrix", RerankRequest: "matrix"}
    return kinds.get(type(request.body), "pairs")


def _sample_pairs(request: ParsedRequest, scores: np.ndarray | None) -> list[_Scored]:
    """Sample up to PAIRS pairs, no two with the same image or text, as these would be measured twice."""
    if scores is None:
        queries: list[_Scored] = [(None, text, None) for text in request.texts]
        queries += [(image, None, None) for image in request.images]
        return random.sample(queries, min(PAIRS, len(queries)))
    chosen: list[_Scored] = []
    images, texts = set[int](), set[str]()
    for k in random.sample(range(len(scores)), min(len(scores), 8 * PAIRS)):
        image, text = int(request.image_index[k]), request.texts[int(request.text_index[k])]
        if image not in images and text not in texts and len(chosen) < PAIRS:
            chosen.append((request.images[image], text, float(scores[k])))
            images.add(image)
            texts.add(text)
    return chosen

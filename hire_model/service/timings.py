"""What a service measures of its work: the time of each stage, and counts for metrics and traces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hire_model.service.encoding import CacheCounts

_COUNTED = ("decode", "encode", "score")


@dataclass(frozen=True)
class Stage:
    """A stage of the work, with start and end in nanoseconds since 1970."""

    name: str
    start: int
    end: int


@dataclass
class Timings:
    """Measurements of a request, or of a call of `Service.answer`.

    stages: decode, encode and score (for a search, the search), and within decode one extract per picture.
    kind: what the request asks for, such as "pairs" or "search"; "" if it is malformed, and for a call.
    """

    stages: list[Stage] = field(default_factory=list)
    images: CacheCounts = field(default_factory=CacheCounts)
    texts: CacheCounts = field(default_factory=CacheCounts)
    pairs: int = 0
    refused: int = 0
    kind: str = ""

    @property
    def ms(self) -> dict[str, float]:
        """Milliseconds per stage."""
        return {name: sum(s.end - s.start for s in self.stages if s.name == name) / 1e6 for name in _COUNTED}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the run of the `with` block to the stages."""
        start, clock = time.time_ns(), time.perf_counter_ns()
        try:
            yield
        finally:
            self.stages.append(Stage(stage, start, start + time.perf_counter_ns() - clock))

    def add(self, other: Timings) -> None:
        """Add the measurements of another part of the work."""
        self.stages += other.stages
        for counts, more in ((self.images, other.images), (self.texts, other.texts)):
            counts.items += more.items
            counts.hits += more.hits
        self.pairs += other.pairs
        self.refused += other.refused

    def to_counters(self) -> dict[str, float]:
        """Return what a server adds to its counters, by the names of serving/config/metrics.yaml."""
        counts = {
            "HirePairs": self.pairs, "HireRefusals": self.refused,
            "HireImages": self.images.items, "HireImageCacheHits": self.images.hits,
            "HireTexts": self.texts.items, "HireTextCacheHits": self.texts.hits,
        }  # fmt: skip
        return counts | {f"Hire{stage.capitalize()}Milliseconds": round(ms, 3) for stage, ms in self.ms.items()}

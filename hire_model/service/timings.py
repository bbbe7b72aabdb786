"""What a service measures of its work: the time of each stage, and counts for metrics and traces."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hire_model.service.encoding import CacheCounts

_COUNTED = ("decode", "encode", "score")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the work, with start and end in nanoseconds since 1970."""

    name: str
    start: int
    end: int


class _Measurement:
    """Adds the run of a `with` block to `stages`. `contextmanager` of contextlib takes twice as long."""

    def __init__(self, stages: list[Stage], name: str) -> None:
        self.stages, self.name = stages, name

    def __enter__(self) -> None:
        self.start, self.clock = time.time_ns(), time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self.stages.append(Stage(self.name, self.start, self.start + time.perf_counter_ns() - self.clock))


@dataclass(slots=True)
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
        spent = dict.fromkeys(_COUNTED, 0.0)
        for stage in self.stages:
            if stage.name in spent:
                spent[stage.name] += (stage.end - stage.start) / 1e6
        return spent

    def measure(self, stage: str) -> _Measurement:
        """Add the run of the `with` block to the stages."""
        return _Measurement(self.stages, stage)

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

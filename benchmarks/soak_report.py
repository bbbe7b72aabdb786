"""Judge a run of soak.py, and write its results as JSON, a Markdown table and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from soak_load import Tally

from hire_model.files import write_text

GROWTH, GROWTH_MB = 0.1, 10.0  # of the last quarter over the largest of the others
PARTS = ("total", "front", "server", "workers")
BIN_S = 10.0


@dataclass(frozen=True)
class Sample:
    """Memory at one time, in MB. steady: one server runs, with all its workers."""

    seconds: float
    front: float
    server: float
    workers: float
    front_files: int
    steady: bool

    @property
    def total(self) -> float:
        """All processes."""
        return self.front + self.server + self.workers


def measure_growth(samples: Sequence[Sample], part: str) -> dict[str, float]:
    """Return the slope in MB per minute after the first quarter, and the 90th percentile of quarters.

    "earlier" is the largest of the first three quarters, "last" that of the last. A change of the version starts a new
    server, and a JVM grows to its plateau in the minutes after: what counts is whether the plateau rises.
    """
    steady = [sample for sample in samples if sample.steady]
    if len(steady) < 8:
        raise SystemExit(f"Only {len(steady)} measurements of memory while one server ran: the run is too short.")
    quarter = len(steady) // 4
    values = np.array([getattr(sample, part) for sample in steady])
    minutes = np.array([sample.seconds / 60 for sample in steady])
    slope = float(np.polyfit(minutes[quarter:], values[quarter:], 1)[0])
    *earlier, last = (float(np.percentile(each, 90)) for each in np.array_split(values, 4))
    return {"mb_per_minute": slope, "earlier": max(earlier), "last": last}


def report(
    out: Path, facts: dict[str, Any], tally: Tally, samples: Sequence[Sample], start: float, problems: list[str]
) -> list[str]:
    """Write soak.json, soak.md and soak.png into `out`, print the table, and return all problems.

    Args:
        out: folder.
        facts: what was done: server, minutes, capacity, times of the events.
        tally: what the clients got.
        samples: memory.
        start: start of the run, in the time of `tally.latencies`.
        problems: found already.
    """
    growth = {part: measure_growth(samples, part) for part in PARTS}
    problems = [*problems, *tally.lost, *tally.wrong]
    for part, found in growth.items():
        if found["last"] > (1 + GROWTH) * found["earlier"] + GROWTH_MB:
            problems.append(f"memory of {part}: {found['earlier']:.0f} to {found['last']:.0f} MB")
    times = np.array([ms for _, ms in tally.latencies] or [np.nan])
    p50, p95, p99 = (float(each) for each in np.percentile(times, [50, 95, 99]))
    files = [sample.front_files for sample in samples]
    lasted = facts["minutes"] * 60
    rows = {
        "requests": f"{tally.sent:,}, {len(tally.latencies) / lasted:.0f}/s "
        f"(capacity {facts['capacity']:.0f}/s), and {tally.hostile:,} hostile ones",
        "lost": f"{len(tally.lost)}",
        "wrong": f"{len(tally.wrong)}",
        "tries by status": _format_counts(tally.statuses),
        "hostile requests by status": _format_counts(tally.hostile_statuses),
        "p50, p95, p99, slowest": f"{p50:.0f}, {p95:.0f}, {p99:.0f}, {times.max():.0f} ms",
        "workers killed": f"{len(facts['kills'])}; ended otherwise: {facts['unplanned']}",
        "changes of version, of gallery": f"{len(facts['versions'])}, {len(facts['galleries'])}",
        "memory, largest earlier and last quarter": "; ".join(
            _format_growth(part, found) for part, found in growth.items()
        ),
        "open files of the front, first and last": f"{files[0]} and {files[-1]}",
        "lines in the journal": f"{facts['journal']:,}",
    }
    table = f"| {facts['server']}, {facts['minutes']:.0f} minutes | |\n|---|---|\n"
    table += "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    print(table, *problems[:20], sep="\n", flush=True)
    found = facts | {"growth": growth, "p50": p50, "p95": p95, "p99": p99, "problems": problems}
    found |= {name: value for name, value in vars(tally).items() if name != "latencies"}
    write_text(
        json.dumps(found | {"samples": [asdict(sample) for sample in samples]}, indent=1) + "\n", out / "soak.json"
    )
    write_text(table, out / "soak.md")
    _draw(out / "soak.png", facts, tally, samples, start)
    return problems


def _format_growth(part: str, found: dict[str, float]) -> str:
    quarters = f"{found['earlier']:.0f} and {found['last']:.0f} MB"
    return f"{part} {quarters} ({found['mb_per_minute']:+.2f} MB/min)"


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(counts.items()))


def _draw(path: Path, facts: dict[str, Any], tally: Tally, samples: Sequence[Sample], start: float) -> None:
    """Draw latencies and memory over time, with a line for each event."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, constrained_layout=True)
    at = np.array([(time - start) / 60 for time, _ in tally.latencies])
    times = np.array([ms for _, ms in tally.latencies])
    bins = (at * 60 // BIN_S).astype(int)
    places = np.unique(bins)
    for share in (50, 99):
        above.plot(
            places * BIN_S / 60, [np.percentile(times[bins == each], share) for each in places], label=f"p{share}"
        )
    above.set(yscale="log", ylabel="ms")
    above.legend(loc="upper right")
    minutes = [sample.seconds / 60 for sample in samples]
    below.stackplot(
        minutes, *([getattr(each, part) for each in samples] for part in PARTS[1:]), labels=PARTS[1:], alpha=0.8
    )
    below.set(xlabel="minutes", ylabel="MB")
    below.legend(loc="lower right")
    for axes in (above, below):
        for name, color in (("kills", "0.8"), ("versions", "tab:red"), ("galleries", "tab:green")):
            for event in facts[name]:
                axes.axvline(event / 60, color=color, linewidth=0.6, zorder=0)
    figure.savefig(path, dpi=100)
    plt.close(figure)

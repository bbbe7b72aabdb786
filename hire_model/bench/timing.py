"""Time methods alternately, so that other processes slow all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from hire_model.model.fused import library

_SIZES = ((256, 256, 256), (4096, 128, 128), (512, 2048, 512))  # rows, inner size and columns of the products


def alternate(methods: Mapping[str, Callable[[], object]], runs: int, warm: int = 1) -> dict[str, float]:
    """Run the methods in turn, `runs` times; return the median CPU seconds of each, over all threads."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for run in range(runs + warm):
        for name, method in methods.items():
            before = time.process_time()
            method()
            if run >= warm:
                seconds[name].append(time.process_time() - before)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure_peak(runs: int = 20) -> float:
    """Measure the float32 operations per CPU second of matrix products in the cache.

    The largest of several sizes, with torch and with the compiled kernel's product.
    """
    rates = []
    for rows, inner, columns in _SIZES:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        seconds = []
        for _ in range(runs):
            before = time.process_time()
            for _ in range(5):
                a @ b
            seconds.append((time.process_time() - before) / 5)
        rates.append(2 * rows * inner * columns / min(seconds))
    if kernel := library.load():
        before = time.process_time()
        operations = kernel.multiply(_SIZES[1][1], 5_000)
        rates.append(operations / (time.process_time() - before))
    return max(rates)

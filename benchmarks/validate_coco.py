"""Measure time and memory of `hire data validate` on a data set of COCO's size.

    python benchmarks/coco_size.py make DATASET       # 123,287 images, 4.4 million regions, 18 GB
    python benchmarks/validate_coco.py DATASET

Prints the seconds of each step, the peak of resident memory so far, and regions per second in total. On a busy machine
compare the CPU seconds. The captions are random words, so the suite correctly reports that they are not English.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from expectations import check, tables
from hire_model.data.schema import FEATURES, Manifest


def patch_with_timer(module: object, name: str, label: str) -> None:
    function = getattr(module, name)

    def wrapper(*args: object, **kwargs: object) -> object:
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            print(f"{label:<42}{seconds:8.1f} s, {cpu:6.1f} s of CPU{read_peak_mib():8.0f} MiB", flush=True)

    setattr(module, name, wrapper)


def read_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    dataset = parser.parse_args().dataset
    for module, name, label in (
        (tables, "verify", "digests, columns, references"),
        (tables, "measure_features", "one pass over the features"),
        (tables, "find_nearest", "nearest images of other splits"),
        (tables, "find_near_copies", "images that occur twice"),
        (tables, "build_frame", "suite meaning: sample and reference model"),
    ):
        patch_with_timer(module, name, label)
    start, cpu_start = time.perf_counter(), time.process_time()
    validation = check.validate(dataset)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    regions = sum(counts.regions for counts in Manifest.read(dataset).splits.values())
    print(validation.summary())
    size = (dataset / FEATURES).stat().st_size / 1e9
    print(f"{regions:,} regions, {size:.1f} GB of features: {seconds:.0f} s, {regions / seconds:,.0f} regions/s; ")
    print(f"{cpu:.0f} s of CPU, {regions / cpu:,.0f} regions per second of CPU")
    print(f"peak of resident memory {read_peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()

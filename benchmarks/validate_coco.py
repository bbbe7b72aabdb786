"""Time and memory of `hire data validate` on a data set of COCO's size.

    python benchmarks/coco_size.py make DATASET       # 123,287 images, 4.4 million regions, 18 GB
    python benchmarks/validate_coco.py DATASET

validates it and prints, for each step, its seconds and the peak of resident memory so far, and in the end regions per
second. On a machine that is busy otherwise look at the seconds of CPU. The captions there are random words: the suite
rightly says that they are no English.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from expectations import check, tables
from hire_model.data.schema import FEATURES, Manifest


def timed(module: object, name: str, label: str) -> None:
    function = getattr(module, name)

    def wrapper(*args: object, **kwargs: object) -> object:
        started, worked = time.perf_counter(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds, cpu = time.perf_counter() - started, time.process_time() - worked
            print(f"{label:<42}{seconds:8.1f} s, {cpu:6.1f} s of CPU{peak():8.0f} MiB", flush=True)

    setattr(module, name, wrapper)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    dataset = parser.parse_args().dataset
    for module, name, label in (
        (tables, "verify", "digests, columns, what points where"),
        (tables, "measure_features", "one pass over the features"),
        (tables, "find_nearest", "nearest images of other splits"),
    ):
        timed(module, name, label)
    started, worked = time.perf_counter(), time.process_time()
    found = check.validate(dataset)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    regions = sum(counts.regions for counts in Manifest.read(dataset).splits.values())
    print(found.summary())
    size = (dataset / FEATURES).stat().st_size / 1e9
    print(f"{regions:,} regions, {size:.1f} GB of features: {seconds:.0f} s, {regions / seconds:,.0f} regions/s; ")
    print(f"{cpu:.0f} s of CPU, {regions / cpu:,.0f} regions per second of CPU")
    print(f"peak of resident memory {peak():.0f} MiB")


if __name__ == "__main__":
    main()

"""Measure the memory of training and evaluation on a data set of COCO's size: 113,287 + 5,000 + 5,000 images.

    python benchmarks/coco_size.py make DATASET
    python benchmarks/coco_size.py measure DATASET --recipe flickr8k_mini [--steps 30] [--images 50] [--set ...]
    python benchmarks/coco_size.py measure DATASET --whole --set model.object_word=false ...

`make` writes the data set, about 18 GB: random features (2048 numbers; 10 to 100 regions per image, 36 on average),
boxes, 50 relations and five captions per image. `measure` trains `--steps` steps in a separate process, including all
preparation, and then scores `--images` images of the dev split against its 25,000 captions, as after an epoch. With
`--whole` another process runs `hire evaluate --protocol coco-5k` with a report; `coco_evaluation.py` measures its time.

Prints for each process the peak of resident memory, and the peak without file-backed pages, which the system can drop
when memory is short. The states of a frozen text encoder are computed as the recipe states, which takes half an hour on
two cores; `--made-up-states` writes a random file of the same size instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

IMAGES = {"train": 113_287, "dev": 5_000, "test": 5_000}
FEATURES, POOL, RELATIONS, CAPTIONS = 2048, 32_768, 50, 5
CLASSES, PREDICATES, WORDS = 1600, 50, 12_000
SAMPLE_SECONDS = 0.05
TIMED_CAPTIONS = 256


def make(out: Path, images: dict[str, int]) -> None:
    """Write a data set with this number of images in each split."""
    from hire_model.data.writer import DatasetWriter
    from hire_model.progress import show_progress

    random = np.random.default_rng(0)
    pool = np.abs(random.standard_normal((POOL, FEATURES), np.float32)).astype(np.float16)
    words, names = _load_words(), [f"thing {i}" for i in range(CLASSES)]
    facts: dict[str, Any] = {"feature_dim": FEATURES, "feature_extractor": "random", "classes": names}
    with DatasetWriter(out, name="coco-size", predicates=[f"does {i}" for i in range(PREDICATES)], **facts) as writer:
        for record in show_progress(_draw_records(random, pool, words, images), "images", sum(images.values())):
            writer.add(record)


def _load_words() -> list[str]:
    """Return English words of MiniLM's vocabulary, so that captions have a realistic number of word pieces."""
    from hire_model.model.vocabulary import load_vocabulary
    from hire_model.settings import TextSettings

    vocabulary = load_vocabulary(TextSettings()).tokenizer.get_vocab()
    return sorted(word for word in vocabulary if word.isascii() and word.isalpha())[:WORDS]


def _draw_records(
    random: np.random.Generator, pool: np.ndarray, words: list[str], images: dict[str, int]
) -> Iterator[Any]:
    from hire_model.data.writer import ImageRecord

    frequency = 1 / np.arange(10, len(words) + 10)
    frequency /= frequency.sum()
    for split, count in images.items():
        for index in range(count):
            regions = int(np.clip(random.gamma(6, 6), 10, 100))
            lengths = np.minimum(7 + random.geometric(0.25, CAPTIONS), 49)
            drawn = random.choice(len(words), lengths.sum(), p=frequency)
            captions = [" ".join(words[i] for i in part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
            corner = random.uniform(0, 0.6, (regions, 2)).astype(np.float32)
            ends = random.integers(0, regions, (RELATIONS, 2)).tolist()
            labels, scores = random.integers(0, PREDICATES, RELATIONS).tolist(), random.random(RELATIONS).tolist()
            yield ImageRecord(
                image_id=f"COCO_{split}_{index:012d}.jpg",
                split=split,
                features=pool[random.integers(0, POOL, regions)],
                captions=captions,
                width=640,
                height=480,
                boxes=np.concatenate([corner, corner + 0.3], axis=1),
                classes=random.integers(0, CLASSES, regions).astype(np.int32),
                scores=random.random(regions).astype(np.float32),
                relations=[(s, p, o, c) for (s, o), p, c in zip(ends, labels, scores, strict=True)],
            )


def train(args: argparse.Namespace) -> None:
    """Train like `hire train` up to step `args.steps`, score a part of dev, and save the model in `args.out`."""
    from hire_model.data.splits import open_dataset, open_splits
    from hire_model.model import artifact, captions
    from hire_model.model.build import build_model
    from hire_model.model.captions import build_caption_bank
    from hire_model.model.warm_start import warm_start
    from hire_model.settings import resolve
    from hire_model.training.loop import fit

    out = args.out
    settings = resolve(args.recipe, [f"data.path={args.data}", f"train.out={out}", *args.set]).settings
    if args.made_up_states:
        captions._write_states = _write_random_states
    splits = open_splits(open_dataset(settings.data), settings.data)
    model = _run_stage("statistics", lambda: build_model(settings.model, splits.train))
    bank = _run_stage("train captions", lambda: build_caption_bank(model, splits.train.texts))
    dev_bank = _run_stage("dev captions", lambda: build_caption_bank(model, splits.dev.texts))
    if settings.train.warm_start:
        _run_stage("warm start", lambda: warm_start(model, splits.train, bank, settings.train))

    def on_step(step: int) -> None:
        if step == args.steps:
            raise _StopError

    try:
        _run_stage("steps", lambda: fit(model, splits.train, bank, settings, dev=lambda _: {}, out=out, digest="",
                                    on_step=on_step))  # fmt: skip
    except _StopError:
        _print_memory("steps")
    _run_stage("dev", lambda: _score_dev(model, splits.dev, dev_bank, args.images, settings.evaluate.budget_mb << 20))
    artifact.save(model, out / "model")


class _StopError(Exception):
    """Stops the training after the given number of steps."""


def _write_random_states(text: Any, bank: Any, path: Path, shape: tuple[int, int]) -> None:
    """Write a file of the same size as the real one, in a minute instead of an hour."""
    rows = np.random.default_rng(0).standard_normal((4096, shape[1]), np.float32).astype(np.float16)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for start in range(0, shape[0], len(rows)):
            file.write(rows[: shape[0] - start].tobytes())


def _score_dev(model: Any, split: Any, bank: Any, images: int, budget: int) -> None:
    """Encode all images, allocate the whole matrix, and fill its first `images` rows."""
    from hire_model.scoring.matrix import compute_similarity, encode_images, encode_text_blocks, score_matrix

    whole = np.zeros((len(split.images), len(bank)), np.float32)
    whole += 1  # makes the system allocate its pages
    compute_similarity(model, split.dataset.split(split.name, images), bank, budget, whole[:images])
    with torch.inference_mode():
        encoded = encode_images(model.eval(), split)
        texts = next(encode_text_blocks(model, bank, [np.arange(TIMED_CAPTIONS)]))
        before = time.monotonic()
        score_matrix(model, encoded[slice(0, images)], texts, budget)
    rate = images * TIMED_CAPTIONS / (time.monotonic() - before)
    print(f"{rate:,.0f} pairs/s: {len(encoded)} x {len(bank)} take {whole.size / rate / 3600:.1f} h", flush=True)


def _run_stage(name: str, work: Any) -> Any:
    result = work()
    _print_memory(name)
    return result


def _print_memory(name: str) -> None:
    now = read_memory("self")
    print(f"after {name:15} resident {now['VmRSS']:.2f} GB, without files {now['RssAnon']:.2f} GB", flush=True)


def read_memory(process: int | str) -> dict[str, float]:
    """Return the sizes in /proc/PID/status, in GB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {key: int(value.split()[0]) * 1024 / 1e9 for key, _, value in (line.partition(":") for line in lines)
            if value.strip().endswith(" kB")}  # fmt: skip


def run_and_watch(name: str, command: list[str], stop: Callable[[], bool] = lambda: False) -> float:
    """Run `command`, print its time and memory peaks, and return its CPU seconds. If `stop` returns True, kill it."""
    start, before, process = time.monotonic(), os.times(), subprocess.Popen(command)
    peaks = {"VmRSS": 0.0, "RssAnon": 0.0}
    while process.poll() is None:
        try:
            now = read_memory(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
        peaks = {key: max(peak, now.get(key, 0.0)) for key, peak in peaks.items()}
        if stop():
            process.kill()
        time.sleep(SAMPLE_SECONDS)
    status, after = process.wait(), os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    peak = f"peak resident {peaks['VmRSS']:.2f} GB, without files {peaks['RssAnon']:.2f} GB"
    print(f"{name}: exit status {status}, {time.monotonic() - start:.0f} s, {seconds:.0f} CPU s, {peak}", flush=True)
    return seconds


def measure(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = [str(args.data), "--recipe", args.recipe, "--steps", str(args.steps), "--images", str(args.images)]
        options += ["--made-up-states"] * args.made_up_states
        options += [part for item in args.set for part in ("--set", item)]
        run_and_watch("train", [sys.executable, __file__, "train", *options, "--out", folder])
        if args.whole:
            options = ["--model", f"{folder}/model", "--data", str(args.data), "--split", "test"]
            options += ["--protocol", "coco-5k", "--report", f"{folder}/report.html"]
            run_and_watch("evaluate", [sys.executable, "-m", "hire_model", "evaluate", *options])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "train"), help="'train' is used internally by 'measure'")
    parser.add_argument("data", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="make: share of the images to write")
    parser.add_argument("--recipe", default="flickr8k_mini")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--made-up-states", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "make":
        make(args.data, {split: int(count * args.share) for split, count in IMAGES.items()})
    elif args.what == "train":
        train(args)
    else:
        measure(args)


if __name__ == "__main__":
    main()

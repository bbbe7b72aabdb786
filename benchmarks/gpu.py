"""Check a CUDA machine with one command, in at most eight minutes: tests, training, bf16, 5,000 × 25,000 scores.

    python benchmarks/gpu.py [--out docs/results/gpu] [--minutes 8] [--short]

It runs from the checkout and needs no data set and no download. docs/performance.md lists the packages that a bare
machine with Python 3.12 and torch lacks. --short uses small sizes, also on a CPU, to rehearse. Writes NAME.json and
NAME.md, where NAME is the device; a part that fails or has no time left is reported, and the others still run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hire_model  # noqa: E402, F401, I001  # before torch, because it sets the spin count of OpenMP
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from hire_model.batch import Batch, EncodedImages, EncodedTexts, Regions, Tokens  # noqa: E402
from hire_model.data.store import Dataset  # noqa: E402
from hire_model.data.synthetic import generate  # noqa: E402
from hire_model.evaluation.ranks import compute_recall, rank_matrix  # noqa: E402
from hire_model.model.build import build_model  # noqa: E402
from hire_model.model.captions import build_caption_bank  # noqa: E402
from hire_model.model.hire import Hire  # noqa: E402
from hire_model.model.vocabulary import learn_vocabulary  # noqa: E402
from hire_model.scoring.matrix import compute_similarity, score_matrix  # noqa: E402
from hire_model.settings import Settings, resolve  # noqa: E402
from hire_model.training.batches import Augment, BatchPlan, CaptionSampler, Loader, PlannedBatches  # noqa: E402
from hire_model.training.distributed import launch_fabric, seed_everything  # noqa: E402
from hire_model.training.loop import train_step  # noqa: E402
from hire_model.training.train_state import TrainState  # noqa: E402

BERT_BASE = {"model_type": "bert", "vocab_size": 30522}  # all other values are BERT base's
MINILM = {
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536,
}  # fmt: skip
TINY_BERT = MINILM | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BUDGET = 8 << 30  # bytes for scoring blocks on a GPU


@dataclass(frozen=True)
class Shape:
    """A made-up training: recipe, overrides, regions of an image, feature size, encoder, predicates."""

    recipe: str
    overrides: tuple[str, ...]
    regions: int
    features: int
    encoder: dict[str, Any] | None
    predicates: int


SHAPES = {
    "synthetic": Shape("synthetic", (), 13, 128, None, 11),
    "flickr8k": Shape("flickr8k_mini", (), 36, 2048, MINILM, 0),
    "paper": Shape("paper", (), 36, 2048, BERT_BASE, 20),
}
SMALL = ("train.batch=8", "train.precision=bf16")
SHORT_SHAPES = {
    "synthetic": Shape("synthetic", SMALL, 7, 16, None, 11),
    "flickr8k": Shape("flickr8k_mini", (*SMALL, "model.dim=32"), 9, 32, TINY_BERT, 0),
    "paper": Shape("paper", (*SMALL, "model.dim=32", "model.implicit_heads=4"), 9, 32, TINY_BERT, 5),
}


def make_batch(settings: Settings, shape: Shape, states: int, generator: torch.Generator) -> Batch:
    """Return a batch of random images and captions; `states` is the size of precomputed token states, or 0."""
    count, r = settings.train.batch, shape.regions
    corner = torch.rand(count, r, 2, generator=generator) * 0.6
    words = torch.randint(6, 22, (count,), generator=generator)
    mask = torch.arange(int(words.max())) < words[:, None]
    edges = 8 * count if shape.predicates else 0
    ends = torch.randint(0, r, (edges, 2), generator=generator)
    relations = torch.stack(
        [torch.arange(edges) // 8, ends[:, 0], torch.randint(0, max(1, shape.predicates), (edges,)), ends[:, 1]], dim=1
    )
    regions = Regions(
        features=torch.randn(count, r, shape.features, generator=generator),
        boxes=torch.cat([corner, corner + 0.3], dim=-1),
        mask=torch.ones(count, r, dtype=torch.bool),
        boxed=torch.ones(count, r, dtype=torch.bool),
        classes=torch.full((count, r), -1),
        relations=relations,
        relation_scores=torch.ones(edges),
    )
    ids = torch.randint(4, 30, mask.shape, generator=generator) * mask
    return Batch(regions, Tokens(ids, mask, torch.randn(*mask.shape, states, generator=generator) if states else None))


def measure_training(shape: Shape, steps: int, peak: float) -> dict[str, Any]:
    """Measure training steps on one made-up batch: samples per second, memory, model FLOP utilisation."""
    settings = resolve(shape.recipe, shape.overrides, {}).settings
    seed_everything(0)
    names = [f"p{number}" for number in range(shape.predicates)]
    words = " ".join(f"w{number}" for number in range(40))
    vocabulary = learn_vocabulary([words], settings.model.text)
    model = Hire(settings.model, shape.features, names, vocabulary, shape.encoder)
    frozen = shape.encoder is not None and not settings.model.text.tuned
    states = int(shape.encoder["hidden_size"]) if frozen and shape.encoder else 0
    batch = make_batch(settings, shape, states, torch.Generator().manual_seed(0))
    fabric, plan = launch_fabric(settings.train), BatchPlan(0, 0, np.arange(len(batch)), (len(batch),))
    reset_memory()
    with tempfile.TemporaryDirectory() as out:
        state = TrainState(model, settings, fabric, Path(out), "", steps + 3)
        flop = count_forward(model, batch.to(fabric.device))
        seconds = []
        for _ in range(steps + 3):
            synchronize()
            before = time.perf_counter()
            train_step(state, plan, batch, hardest=False)
            synchronize()
            seconds.append(time.perf_counter() - before)
    median = float(np.median(seconds[3:]))
    return {
        "batch": len(batch),
        "dim": settings.model.dim,
        "precision": str(fabric.strategy.precision.precision),
        "step_ms": 1000 * median,
        "samples_per_second": len(batch) / median,
        "peak_gb": read_memory(),
        "flop_per_step": 3 * flop,
        "utilisation": 3 * flop / median / peak,
    }


def count_forward(model: Hire, batch: Batch) -> float:
    """Count the operations of a forward pass without recurrent layers; backward takes twice as many."""
    model.train()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.score(model.encode_image(batch.regions), model.encode_text(batch.tokens))
    return float(counter.get_total_flops())


def measure_bf16(scenes: int, tests: int, epochs: int) -> dict[str, Any]:
    """Train `synthetic` on generated scenes and compare the recall of float32 and bf16 scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "scenes", train=scenes, dev=0, test=tests, seed=0)
        data = Dataset.open(folder / "scenes")
        train, test = data.split("train"), data.split("test")
        settings = resolve("synthetic", ["train.warm_start=false"], {}).settings
        seed_everything(0)
        model = build_model(settings.model, train)
        sampler = CaptionSampler(train.owner, settings.train.batch, 0)
        loader = Loader(sampler, PlannedBatches(train, build_caption_bank(model, train.texts), Augment(0)))
        fabric = launch_fabric(settings.train)
        state = TrainState(model, settings, fabric, folder, "", len(sampler.draw_batches(0)))
        for epoch in range(epochs):
            for plan, batch in loader.load_epoch(epoch):
                train_step(state, plan, batch, hardest=False)
        bank = build_caption_bank(model, test.texts)
        result: dict[str, Any] = {"images": len(test.images), "captions": len(test.captions)}
        scores = {"fp32": compute_similarity(model, test, bank)}
        with torch.autocast(fabric.device.type, torch.bfloat16):
            scores["bf16"] = compute_similarity(model, test, bank)
    for kind, matrix in scores.items():
        by_image, by_caption = rank_matrix(matrix, test.owner)
        result[kind] = {
            f"{direction}_r{k}": compute_recall(ranks, k)
            for direction, ranks in (("i2t", by_image), ("t2i", by_caption))
            for k in (1, 5, 10)
        }
    result["largest_difference"] = float(np.abs(scores["fp32"] - scores["bf16"]).max())
    result["rsum_difference"] = sum(result["bf16"].values()) - sum(result["fp32"].values())
    return result


@torch.inference_mode()
def measure_matrix(images: int, captions: int) -> dict[str, Any]:
    """Score all pairs of made-up encoded items of recipe `flickr8k_mini` (t2i, P = 128, 36 regions)."""
    settings = resolve("flickr8k_mini").settings.model
    model = Hire(settings, 16, (), learn_vocabulary(["a dog"], settings.text), TINY_BERT).eval().to(get_device())
    words, size = torch.randint(6, 22, (captions,)).sort().values, settings.pair_dim or settings.dim
    reset_memory()
    before = time.perf_counter()
    v = EncodedImages(torch.randn(images, 36, size), torch.ones(images, 36).bool(), torch.randn(images, settings.dim))
    v, out = v.to(get_device()), np.empty((images, captions), np.float32)
    for start in range(0, captions, 512):
        lengths = words[start : start + 512]
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        t = EncodedTexts(torch.randn(*mask.shape, size), mask, torch.randn(len(lengths), settings.dim))
        out[:, start : start + 512] = score_matrix(model, v, t.to(get_device()), BUDGET)
    seconds = time.perf_counter() - before
    return {
        "images": images, "captions": captions, "seconds": seconds, "pairs_per_second": images * captions / seconds,
        "peak_gb": read_memory(), "finite": bool(np.isfinite(out).all()),
    }  # fmt: skip


def run_tests() -> dict[str, Any]:
    """Run the tests that compare devices."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/model/test_devices.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-500:])
    return {"result": done.stdout.strip().splitlines()[-1]}


def measure_peak() -> float:
    """Measure the operations per second of a bf16 product on a GPU, of a float32 product on a CPU."""
    on_gpu = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a = torch.randn(size, size, device=get_device(), dtype=dtype)
    seconds = []
    for _ in range(8):
        synchronize()
        before = time.perf_counter()
        a @ a
        synchronize()
        seconds.append(time.perf_counter() - before)
    return 2 * size**3 / min(seconds)


def get_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def read_memory() -> float | None:
    """Return the peak memory of the GPU in GB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def make_parts(short: bool, peak: float) -> dict[str, Callable[[], dict[str, Any]]]:
    shapes, steps = (SHORT_SHAPES, 2) if short else (SHAPES, 20)
    scenes, tests, epochs = (80, 30, 1) if short else (1500, 500, 2)
    images, captions = (40, 200) if short else (5000, 25000)
    trainings = {
        f"train {name}": (lambda shape=shape: measure_training(shape, steps, peak)) for name, shape in shapes.items()
    }
    return {
        "tests": run_tests,
        **trainings,
        "score 5K x 25K": lambda: measure_matrix(images, captions),
        "bf16": lambda: measure_bf16(scenes, tests, epochs),
    }


def format_markdown(found: dict[str, Any]) -> str:
    """Return the figures as Markdown tables."""
    parts, machine = found["parts"], found["machine"]
    lines = [
        f"# {machine['device']}", "",
        f"torch {machine['torch']}, Python {machine['python']}; measured peak {found['peak_tflops']:.3g} TFLOP/s. "
        f"Command: `python benchmarks/gpu.py{' --short' if found['short'] else ''}`, seed 0, made-up data.", "",
        "| Training | batch | D | precision | ms per step | samples/s | peak GB | utilisation |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name, part in parts.items():
        if name.startswith("train ") and "error" not in part:
            memory = "" if part["peak_gb"] is None else f"{part['peak_gb']:.1f}"
            lines.append(
                f"| {name.removeprefix('train ')} | {part['batch']} | {part['dim']} | {part['precision']} | "
                f"{part['step_ms']:.1f} | {part['samples_per_second']:,.0f} | {memory} | {part['utilisation']:.0%} |"
            )
    lines += ["", "| Check | Result |", "|---|---|"]
    for name, part in parts.items():
        if "error" in part:
            lines.append(f"| {name} | not measured: {part['error'].splitlines()[-1][:150]} |")
        elif name == "tests":
            lines.append(f"| tests/model/test_devices.py | {part['result']} |")
        elif name == "bf16":
            lines.append(f"| rSum of bf16 less that of float32 | {part['rsum_difference']:+.2f} |")
        elif name.startswith("score"):
            size = f"{part['images']:,} × {part['captions']:,}"
            lines.append(f"| {size} scores | {part['seconds']:.1f} s, {part['pairs_per_second']:,.0f} pairs/s |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/gpu")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = measure_peak()
    found: dict[str, Any] = {
        "machine": {"device": name, "torch": torch.__version__, "python": sys.version.split()[0]},
        "short": args.short,
        "peak_tflops": peak / 1e12,
        "parts": {},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / name.lower().replace(" ", "-")
    for part, measure in make_parts(args.short, peak).items():
        before = time.monotonic()
        try:
            found["parts"][part] = measure() if before < end else {"error": f"{args.minutes} minutes were over"}
        except Exception as error:  # the other parts still run
            traceback.print_exc()
            found["parts"][part] = {"error": f"{type(error).__name__}: {error}"}
        found["parts"][part]["took_s"] = round(time.monotonic() - before, 1)
        print(part, json.dumps(found["parts"][part]), flush=True)
        path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        path.with_suffix(".md").write_text(format_markdown(found))
    print(format_markdown(found))
    return int(any("error" in part for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())

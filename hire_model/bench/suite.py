"""Run all measurements for one recipe."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hire_model import __version__
from hire_model.bench.scoring import measure_rerank, measure_scoring
from hire_model.bench.search import measure_search
from hire_model.bench.training import make_bank, make_model, measure_training
from hire_model.data.store import Dataset, Split
from hire_model.data.synthetic import generate
from hire_model.errors import DataError
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, split_into_blocks
from hire_model.settings import Settings
from hire_model.storage import localize

_FULL = {"scenes": 2000, "images": 200, "captions": 500, "runs": 5, "steps": 15, "queries": 300}
_SHORT = {"scenes": 400, "images": 60, "captions": 120, "runs": 2, "steps": 4, "queries": 100}
NOT_SERVED = (
    "not measured: needs Java 11 and a packaged version; run 'python benchmarks/serving_load.py' with --json FILE and "
    "pass --serving FILE"
)

Figures = dict[str, Any]


def run_suite(
    settings: Settings,
    recipe: str,
    data: str = "",
    short: bool = False,
    serving: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Figures:
    """Measure scoring, re-ranking, training and search with one thread; return the figures by group and name.

    Args:
        settings: of the recipe.
        recipe: its name, for the result.
        data: data set folder; empty for generated scenes.
        short: use fewer items and runs.
        serving: JSON of benchmarks/serving_load.py; without it the serving figure is None, with a reason.
        tell: receives a line before each measurement.

    Raises:
        DataError: the data set is too small, or `serving` is not such a file.
    """
    sizes = _SHORT if short else _FULL
    share, reason = (None, NOT_SERVED) if serving is None else (read_share_of_ceiling(serving), "")
    with tempfile.TemporaryDirectory() as name, _use_one_thread():
        tell("data set")
        split = _open_split(data, sizes["scenes"], settings, Path(name) / "scenes")
        model = make_model(settings, split).eval()
        with torch.inference_mode():
            images = next(
                encode_image_blocks(model, split, split_into_blocks(range(min(sizes["images"], len(split.images)))))
            )
            bank = make_bank(settings, split)
            rows = split_into_blocks(range(min(sizes["captions"], len(bank))))
            texts = next(encode_text_blocks(model, bank, rows))
        tell("scoring")
        scoring = measure_scoring(model, images, texts, sizes["runs"])
        tell("re-ranking")
        rerank = measure_rerank(model, images, texts, 5 * sizes["runs"])
        tell("training")
        training = measure_training(settings, split, sizes["steps"], Path(name) / "run")
        tell("search")
        search = measure_search(model, split, sizes["queries"], Path(name) / "gallery")
    return {
        "recipe": recipe,
        "data": data or "generated scenes",
        "short": short,
        "machine": describe_machine(),
        "scoring": scoring,
        "rerank": rerank,
        "training": training,
        "search": search,
        "serving": {"share_of_ceiling": share, **({"reason": reason} if reason else {})},
    }


def read_share_of_ceiling(path: Path) -> float:
    """Return the requests per second of one pair by id, one client, as a share of the handler that does nothing."""
    try:
        rows = json.loads(path.read_text())["rows"]
        rates = {row["what"]: row["per_second"] for row in rows if row["pairs"] == 1 and row["clients"] == 1}
        return float(rates["ids"] / rates["nothing, ids"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the JSON of benchmarks/serving_load.py, with rows 'ids' and 'nothing, ids'. {error!r}"
        ) from error


def describe_machine() -> Figures:
    """Return the processor, the number of cores and the versions."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "hire": __version__,
    }


def _open_split(data: str, scenes: int, settings: Settings, folder: Path) -> Split:
    if not data:
        generate(folder, train=scenes, dev=0, test=0, seed=0)
    split = Dataset.open(localize(data) if data else folder).split(settings.data.train if data else "train")
    if len(split.images) < settings.train.batch:
        raise DataError(f"{data}: {len(split.images)} training images; a batch needs {settings.train.batch}.")
    return split


@contextmanager
def _use_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""ECCV Caption and CxC on COCO's 5,000 test images: recall with the matches that COCO's captions leave out.

COCO counts only an image's own five captions as right, although others describe it too. ECCV Caption (Chun et al. 2022)
and CxC (Parekh et al. 2021) add such pairs. The package `eccv-caption` has the pairs and computes the metrics; install
it with `pip install 'hire-model[eccv]'`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from hire_model.data.importers.captions import derive_image_keys
from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.evaluation.result import KS, EccvResult

_NAMES: Final = ("eccv_map_at_r", "eccv_rprecision", "eccv_r1")


def load_metrics() -> Any:
    """Return the `Metrics` of eccv-caption. Raises HireError if the package is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that the optional package ujson is missing
            return importlib.import_module("eccv_caption").Metrics()
    except ImportError as error:
        raise HireError("--eccv needs the package eccv-caption: pip install 'hire-model[eccv]'.") from error


def find_coco_ids(metrics: Any, split: Split) -> tuple[list[int], list[int]]:
    """Return COCO's ids of the images [N] and of the captions [M] of `split`.

    The split must hold the images of Karpathy's test split with five captions each, in the published order, as the
    metrics know captions only by their ids in that order.

    Raises:
        DataError: other numbers of images or captions, or another image where its id names a COCO image.
    """
    captions = [int(number) for number in metrics.coco_ids]
    images = list(dict.fromkeys(metrics.coco_gts["t2i"][caption][0] for caption in captions))
    owner = np.arange(len(images)).repeat(len(captions) // len(images))
    where = f"{split.dataset.folder}: split '{split.name}'"
    if len(split.images) != len(images) or not np.array_equal(split.owner, owner):
        raise DataError(
            f"{where} has {len(split.images):,} images and {len(split.owner):,} captions. ECCV Caption and CxC expect "
            f"COCO's {len(images):,} test images with {len(captions) // len(images)} captions each, in the published "
            "order."
        )
    for row, image in enumerate(images):
        number = derive_image_keys(split.image_id(row))[-1]
        if number.isdigit() and len(number) > len(str(len(captions))) and int(number) != image:
            raise DataError(f"{where}: image {row} is '{split.image_id(row)}', expected COCO's image {image}.")
    return images, captions


def measure_eccv(metrics: Any, matrix: np.ndarray, images: Sequence[int], captions: Sequence[int]) -> EccvResult:
    """Compute the metrics of the scores `matrix` [N, M] of COCO's `images` and `captions`.

    Only the best items of each query are passed on: as many as the longest list of matches, so the result equals that
    of the full rankings.
    """
    retrieved = {
        "i2t": _rank(matrix, images, captions, metrics, "i2t"),
        "t2i": _rank(matrix.T, captions, images, metrics, "t2i"),
    }
    values = {name: figures for name, figures in metrics.eccv_metrics(retrieved, "all").items() if name in _NAMES}
    values |= {f"cxc_r{k}": metrics.cxc_recalls(retrieved, "all", K=k) for k in KS}
    sides = {side: {name: 100 * float(figures[side]) for name, figures in values.items()} for side in retrieved}
    return EccvResult(**sides)


def _rank(
    matrix: np.ndarray, queries: Sequence[int], items: Sequence[int], metrics: Any, side: str
) -> Mapping[int, list[int]]:
    """Return the ids of the best items of each query, best first."""
    used = [*metrics.eccv_gts[side].values(), *metrics.cxc_gts[side].values()]
    count = min(max(max(KS), *map(len, used)), len(items))
    ids, ranking = np.array(items), {}
    for row, query in enumerate(queries):
        nearest = np.argpartition(-matrix[row], count - 1)[:count] if count < len(items) else np.arange(len(items))
        ranking[query] = ids[nearest[np.argsort(-matrix[row, nearest], kind="stable")]].tolist()
    return ranking

"""The slowest requests within the limits, for a model of the default settings on one thread.

Prints the times for docs/security.md:  python -m pytest tests/serving/test_slowest.py -s
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hire_model.data.store import ImageRegions, Split
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.service.parsing import Limits, Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from hire_model.settings import resolve

pytestmark = pytest.mark.slow

LIMITS = Limits()
MOST_SLOWDOWN = 8  # by one large image, in multiples of the time for the small pairs. One padded batch had over 50


@pytest.fixture(scope="module")
def service(scenes: Split, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An untrained model of the default settings and its gallery 'scenes', on one thread as in a worker."""
    folder, threads = tmp_path_factory.mktemp("slowest"), torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model(resolve(environ={}).settings.model, scenes).eval()
    build(model, scenes, folder / "galleries" / "scenes", captions=True)
    yield Service.load(artifact.save(model, folder / "model"), galleries=folder / "galleries")
    torch.set_num_threads(threads)


def _make_large_image(random: np.random.Generator, split: Split) -> dict[str, Any]:
    """Return an image with the maximum number of regions and relations."""
    small, count, edges = split.regions(0), LIMITS.regions, LIMITS.relations
    corners = random.uniform(0, 0.5, (count, 2))
    ends = [random.integers(0, limit, edges) for limit in (count, len(split.dataset.manifest.predicates), count)]
    image = dataclasses.replace(
        small,
        features=random.standard_normal((count, small.features.shape[1])).astype(np.float16),
        boxes=np.concatenate([corners, corners + 0.3], axis=1).astype(np.float32),
        classes=np.full(count, -1, np.int32),
        scores=np.full(count, np.nan, np.float32),
        relations=np.stack(ends, axis=1).astype(np.int32),
        relation_scores=random.uniform(0.2, 1, edges).astype(np.float32),
    )
    assert isinstance(image, ImageRegions)
    return json.loads(serialize_image(image))


def _generate_slowest(split: Split) -> Iterator[tuple[str, dict[str, Any], bool]]:
    random = np.random.default_rng(0)
    images = [_make_large_image(random, split) for _ in range(LIMITS.images)]
    texts = [(f"number {i} " + "a dog and " * LIMITS.characters)[: LIMITS.characters] for i in range(LIMITS.texts)]
    stored = [{"gallery": "scenes", "id": split.image_id(i)} for i in range(len(split.images))]
    few = LIMITS.pairs // LIMITS.texts
    yield f"{few} images x {len(texts)} texts", {"images": images[:few], "texts": texts}, False
    yield "64 images x 64 texts", {"images": images, "texts": texts[:64]}, False
    rest = [{"image": stored[i % len(stored)], "text": texts[i % 256]} for i in range(LIMITS.pairs - len(images))]
    sent = [{"image": image, "text": text} for image, text in zip(images, texts, strict=False)]
    yield "64 images sent, 4,032 pairs of the gallery", {"pairs": sent + rest}, False
    yield "one image sent, 4,095 pairs of one image", {"pairs": sent[:1] + _make_small_pairs(split)}, False
    yield "64 images search sentences", {"gallery": "scenes", "images": images, "shortlist": 64}, False
    yield "16 pairs explained", {"pairs": sent[: LIMITS.explained]}, True


def _make_small_pairs(split: Split) -> list[dict[str, Any]]:
    """Return one pair less than the limit, all with the same small stored image and a short text."""
    return [{"image": {"gallery": "scenes", "id": split.image_id(0)}, "text": "a dog"}] * (LIMITS.pairs - 1)


def _measure_seconds(service: Service, request: dict[str, Any], explain: bool = False) -> float:
    """Return the processor seconds of one answer."""
    body, start = json.dumps(request), time.process_time()
    [reply], _ = service.answer([Request(body, explain)])
    assert reply.status == 200, reply.body
    return time.process_time() - start


def test_the_slowest_allowed_requests_are_answered(service: Service, scenes: Split) -> None:
    for label, request, explain in _generate_slowest(scenes):
        print(f"\n{label}: {_measure_seconds(service, request, explain):.1f} s of processor time", end="")


def test_a_large_image_does_not_slow_down_small_ones_in_the_same_request(service: Service, scenes: Split) -> None:
    small = _make_small_pairs(scenes)
    large = {"image": _make_large_image(np.random.default_rng(0), scenes), "text": "a dog " * LIMITS.characters}
    large["text"] = large["text"][: LIMITS.characters]
    alone = min(_measure_seconds(service, {"pairs": small}) for _ in range(3))
    assert _measure_seconds(service, {"pairs": [large, *small]}) < MOST_SLOWDOWN * alone

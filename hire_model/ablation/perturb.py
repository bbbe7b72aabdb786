"""Evaluate a trained model on damaged images: inside a block, the model gets fewer or wrong edges."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from hire_model.batch import EncodedImages, Regions
from hire_model.model.hire import Hire
from hire_model.training.damage import Damage, Tally, damage_regions


@contextlib.contextmanager
def perturb_images(model: Hire, damage: Damage, share: float, seed: int) -> Iterator[Tally]:
    """Inside the block, `model` encodes images of which `share` (0-1) is damaged (see `damage_regions`).

    What is damaged depends only on the seed and on the image's position in the encoding order. A larger share also
    damages what a smaller one does.
    """
    encode_image, tally, seen = model.encode_image, Tally(), 0

    def encode_damaged(regions: Regions) -> EncodedImages:
        nonlocal seen
        rngs = [np.random.default_rng([seed, seen + row]) for row in range(len(regions))]
        seen += len(regions)
        regions = _keep_graph_relations(model, regions)
        return encode_image(damage_regions(regions, [damage] * len(regions), [share] * len(regions), rngs, tally))

    model.encode_image = encode_damaged  # type: ignore[method-assign]
    try:
        yield tally
    finally:
        del model.encode_image


def _keep_graph_relations(model: Hire, regions: Regions) -> Regions:
    """Keep only the relations that make an edge, so that no weaker relation replaces a dropped one."""
    if model.explicit is None or model.explicit.semantic is None:
        return regions
    rows = model.explicit.semantic.select_relations(regions).sort().values
    return dataclasses.replace(
        regions, relations=regions.relations[rows], relation_scores=regions.relation_scores[rows]
    )

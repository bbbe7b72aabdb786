"""A fresh model for a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import torch

from hire_model.data.store import Split
from hire_model.model import vocabulary
from hire_model.model.hire import Hire
from hire_model.settings import ModelSettings

log = logging.getLogger(__name__)
_STATISTICS_BLOCK = 4096


def build(settings: ModelSettings, train: Split) -> Hire:
    """A model whose word list, predicates and feature statistics come from the training split."""
    if settings.text.kind == "bert":
        words = vocabulary.of_checkpoint(settings.text)
    else:
        words = vocabulary.learn(train.texts, settings.text)
    manifest = train.dataset.manifest
    model = Hire(settings, manifest.feature_dim, manifest.predicates, words)
    if settings.feature_norm == "standardise":
        model.regions.set_statistics(*feature_statistics(train))
    _say_what_is_missing(settings, train)
    return model


def feature_statistics(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [F] over all regions of a split, read once, block by block."""
    total, squares, count = 0.0, 0.0, 0
    for block in _blocks(split):
        rows = block.astype(np.float64)
        total, squares, count = total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0), count + len(rows)
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _blocks(split: Split) -> Iterable[np.ndarray]:
    held: list[np.ndarray] = []
    size = 0
    for index in range(len(split.images)):
        held.append(split.regions(index).features)
        size += len(held[-1])
        if size >= _STATISTICS_BLOCK:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _say_what_is_missing(settings: ModelSettings, split: Split) -> None:
    for key, why in settings.inactive_stages.items():
        log.info("%s is on and does nothing, as %s.", key, why)
    if settings.graphs == "none":
        return
    if settings.graphs != "semantic" and np.isnan(split.dataset.boxes).any(axis=1).all():
        log.warning("No region has a box: the spatial graph has no edges.")
    if settings.graphs != "spatial" and not split.relation_counts.any():
        log.warning("No image has relations: the semantic graph has no edges.")

"""Build an untrained model for a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import torch

from hire_model.data.images.checkpoints import name_tower, open_checkpoint
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn_vocabulary, load_vocabulary
from hire_model.settings import ModelSettings

log = logging.getLogger(__name__)
_STATISTICS_BLOCK = 4096


def build_model(settings: ModelSettings, train: Split) -> Hire:
    """Build an untrained model for a training split.

    The vocabulary (of a BiGRU), the predicates, the classes and the feature statistics come from the split.
    """
    manifest = train.dataset.manifest
    if settings.text.is_tower:
        _check_tower(settings, train)
    bigru = settings.text.kind == "bigru"
    vocabulary = learn_vocabulary(train.texts, settings.text) if bigru else load_vocabulary(settings.text)
    model = Hire(settings, manifest.feature_dim, manifest.predicates, vocabulary, classes=manifest.classes)
    model.feature_extractor = manifest.feature_extractor
    if settings.feature_norm == "standardise":
        model.regions.set_statistics(*compute_feature_statistics(train))
    _log_missing_inputs(settings, train)
    return model


def _check_tower(settings: ModelSettings, train: Split) -> None:
    """Raise DataError if the features are not those of the vision tower that belongs to the text tower."""
    extractor, tower = train.dataset.manifest.feature_extractor, open_checkpoint(settings.text.checkpoint)
    if name_tower(tower.digest) not in extractor:
        raise DataError(
            f"{train.dataset.folder}: features of '{extractor}', but model.text.checkpoint={settings.text.checkpoint} "
            f"needs those of its own vision tower ({name_tower(tower.digest)}). Import the pictures with 'hire data "
            f"import images --backbone {settings.text.checkpoint} --tower'."
        )


def compute_feature_statistics(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation [F] over all regions of a split, reading it once in blocks."""
    total, squares, count = 0.0, 0.0, 0
    for block in _iterate_blocks(split):
        rows = block.astype(np.float64)
        total, squares, count = total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0), count + len(rows)
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _iterate_blocks(split: Split) -> Iterable[np.ndarray]:
    """Yield the features of a split in blocks of about `_STATISTICS_BLOCK` regions."""
    pending: list[np.ndarray] = []
    size = 0
    for index in range(len(split.images)):
        pending.append(split.regions(index).features)
        size += len(pending[-1])
        if size >= _STATISTICS_BLOCK:
            yield np.concatenate(pending)
            pending, size = [], 0
    if pending:
        yield np.concatenate(pending)


def _log_missing_inputs(settings: ModelSettings, split: Split) -> None:
    for key, why in settings.inactive_stages.items():
        log.info("%s is enabled but has no effect, because %s.", key, why)
    if settings.class_vectors and not (split.dataset.classes >= 0).any():
        log.warning("No region has a class: model.class_vectors has no effect.")
    if settings.graphs == "none":
        return
    if settings.graphs != "semantic" and np.isnan(split.dataset.boxes).any(axis=1).all():
        log.warning("No region has a box: the spatial graph has no edges.")
    if settings.graphs != "spatial" and not split.relation_counts.any():
        log.warning("No image has relations: the semantic graph has no edges.")

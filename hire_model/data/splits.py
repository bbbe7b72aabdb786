"""Open the data set and the splits that the settings choose."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hire_model.data.store import Dataset, Split
from hire_model.errors import DataError
from hire_model.settings import DataSettings

log = logging.getLogger(__name__)
SCENES = Path("datasets/relational-scenes")


def open_dataset(data: DataSettings) -> Dataset:
    """Open the data set of the settings; without a path the relational scenes, generated if they do not exist.

    Raises DataError if it cannot be opened, or if several processes would generate the scenes at once.
    """
    if data.path is not None:
        return Dataset.open(data.path)
    if not SCENES.exists():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise DataError(f"{SCENES} does not exist. Before several processes run: hire data synth --out {SCENES}")
        from hire_model.data.synthetic import generate

        log.info("Drawing relational scenes into %s", SCENES)
        generate(SCENES)
    return Dataset.open(SCENES)


@dataclass(frozen=True)
class Splits:
    """The splits of a training. test: what the version is evaluated on at the end; it may be `dev` itself."""

    train: Split
    dev: Split
    test: Split


def open_splits(dataset: Dataset, data: DataSettings) -> Splits:
    """Open the splits that the settings name. Raises DataError naming the setting and the splits there are."""
    dev, evaluation = _open_split(dataset, "data.dev", data.dev, data.dev_images), data.evaluation_split
    test = dev if evaluation.name == data.dev else _open_split(dataset, "data.test", *evaluation)
    return Splits(_open_split(dataset, "data.train", data.train, data.train_images), dev, test)


def _open_split(dataset: Dataset, key: str, name: str, limit: int) -> Split:
    if name not in dataset.manifest.splits:
        known = ", ".join(sorted(dataset.manifest.splits))
        raise DataError(f"{dataset.folder}: no split '{name}'; it has {known}. Choose one: --set {key}=NAME.")
    return dataset.split(name, limit)

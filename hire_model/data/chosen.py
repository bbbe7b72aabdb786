"""The data that the settings choose: a data set, and the splits of it that play the three parts."""

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
    """The data set of the settings; without a path the relational scenes, drawn where they are not there yet.

    Raises DataError where it cannot be opened, or several processes would draw the scenes at once.
    """
    if data.path is not None:
        return Dataset.open(data.path)
    if not SCENES.exists():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise DataError(f"{SCENES} is not there yet. Before several processes run: hire data synth --out {SCENES}")
        from hire_model.data.synthetic import generate

        log.info("Drawing relational scenes into %s", SCENES)
        generate(SCENES)
    return Dataset.open(SCENES)


@dataclass(frozen=True)
class Splits:
    """To learn from, to choose the best epoch by, and to judge once in the end."""

    train: Split
    dev: Split
    test: Split

    @classmethod
    def of(cls, dataset: Dataset, data: DataSettings) -> Splits:
        """The splits named in the settings; without data.test the dev split is judged in the end too."""
        dev = _split(dataset, "data.dev", data.dev, data.dev_images)
        test = dev if not data.test or data.test == data.dev else _split(dataset, "data.test", str(data.test))
        return cls(_split(dataset, "data.train", data.train, data.train_images), dev, test)


def _split(dataset: Dataset, key: str, name: str, limit: int = 0) -> Split:
    """The split that the setting `key` names."""
    if name not in dataset.manifest.splits:
        known = ", ".join(sorted(dataset.manifest.splits))
        raise DataError(f"{dataset.folder}: no split '{name}'; it has {known}. Choose one: --set {key}=NAME.")
    return dataset.split(name, limit)

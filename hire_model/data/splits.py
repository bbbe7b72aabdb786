"""Open the data set and the splits that the settings name."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hire_model.data.store import Dataset, Split
from hire_model.errors import DataError
from hire_model.settings import DataSettings
from hire_model.storage import localize

log = logging.getLogger(__name__)
SCENES = Path("datasets/relational-scenes")


def open_dataset(data: DataSettings) -> Dataset:
    """Open the data set at `data.path`, a folder or an address of `storage`.

    Without a path, open the relational scenes; generate them if needed.

    Raises:
        DataError: the data set cannot be opened, or several processes would generate the scenes at the same time.
    """
    if data.path is not None:
        return Dataset.open(localize(data.path))
    if not SCENES.exists():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise DataError(
                f"{SCENES}: does not exist, and several processes cannot generate it together. First run: "
                f"hire data synth --out {SCENES}"
            )
        from hire_model.data.synthetic import generate

        log.info("Generating relational scenes in %s", SCENES)
        generate(SCENES)
    return Dataset.open(SCENES)


@dataclass(frozen=True)
class Splits:
    """The splits of a training. `test` is used for the final evaluation; it can be the same split as `dev`."""

    train: Split
    dev: Split
    test: Split


def open_splits(dataset: Dataset, data: DataSettings) -> Splits:
    """Open the splits that the settings name. A DataError names the setting and the existing splits."""
    dev, evaluation = _open_split(dataset, "data.dev", data.dev, data.dev_images), data.evaluation_split
    test = dev if evaluation.name == data.dev else _open_split(dataset, "data.test", *evaluation)
    return Splits(_open_split(dataset, "data.train", data.train, data.train_images), dev, test)


def _open_split(dataset: Dataset, key: str, name: str, limit: int) -> Split:
    if name not in dataset.manifest.splits:
        existing = ", ".join(sorted(dataset.manifest.splits))
        raise DataError(
            f"{dataset.folder}: no split '{name}'. Existing splits: {existing}. Choose one with --set {key}=NAME."
        )
    return dataset.split(name, limit)

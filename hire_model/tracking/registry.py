"""Log a trained model to MLflow, register it, and fetch a model as a plain folder."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from hire_model.data.loading import renumber_predicates
from hire_model.data.store import ImageRegions
from hire_model.model import artifact
from hire_model.scoring.matrix import map_predicates
from hire_model.service.payload import serialize_image
from hire_model.settings import PACKAGE_FOLDER, TrackingSettings
from hire_model.tracking.connection import TrackingError, connect, first_line
from hire_model.tracking.versions import CHALLENGER, truncate

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CONFIG = "config.json"
# What a served model imports; the versions are those of the interpreter that trained it, hence of requirements.lock.
REQUIRES = (
    "cachetools", "faiss-cpu", "mlflow", "numpy", "pandas", "pyarrow", "pybase64", "pydantic", "pydantic-settings",
    "pyyaml", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class LoggedModel:
    """A model in MLflow: `uri` loads it; `version` is empty if it was logged but not registered."""

    uri: str
    version: str = ""


def log_model(
    folder: Path,
    pairs: Sequence[tuple[ImageRegions, str]],
    settings: TrackingSettings,
    tags: Mapping[str, str],
    predicates: Sequence[str] | None = None,
    card: str = "",
) -> LoggedModel:
    """Log the model folder with the active run as a pyfunc; register it and move the alias 'challenger' to it.

    pairs: a few (image, text) pairs that become the input example; predicates: what the numbers in their relations
    mean, the model's own list without it; tags: facts of the version, such as its recalls; card: its description.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    from hire_model.tracking.pyfunc_model import BODY, EXPLAIN, FOLDER, REQUEST, STATUS

    known = artifact.read_config(folder)["predicates"]
    example = build_request_table(pairs, map_predicates(known, known if predicates is None else predicates))
    signature = ModelSignature(
        Schema([ColSpec(DataType.string, REQUEST)]),
        Schema([ColSpec(DataType.long, STATUS), ColSpec(DataType.string, BODY)]),
        ParamSchema([ParamSpec(EXPLAIN, DataType.boolean, False)]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE_FOLDER / "tracking" / "pyfunc_model.py"),
            artifacts={FOLDER: str(folder)},
            code_paths=[str(PACKAGE_FOLDER)],
            pip_requirements=pin_requirements(),
            signature=signature,
            input_example=example,
            registered_model_name=settings.model_name if settings.register_model else None,
        )
    if not settings.register_model:
        return LoggedModel(info.model_uri)
    client, number = mlflow.MlflowClient(), str(info.registered_model_version)
    if card:
        client.update_model_version(settings.model_name, number, truncate(card))
    for key, value in tags.items():
        client.set_model_version_tag(settings.model_name, number, key, value)
    client.set_registered_model_alias(settings.model_name, CHALLENGER, number)
    return LoggedModel(f"models:/{settings.model_name}@{CHALLENGER}", number)


def build_request_table(pairs: Sequence[tuple[ImageRegions, str]], mapping: np.ndarray | None = None) -> pd.DataFrame:
    """The table that the pyfunc model takes, of one row: the request to score `pairs`.

    mapping: as of `scoring.matrix.map_predicates`, where the images' data set has other predicates than the model: the
    request has the model's numbers.
    """
    import pandas as pd

    from hire_model.tracking.pyfunc_model import REQUEST

    asked = []
    for image, text in pairs:
        relations, scores = renumber_predicates(image.relations, image.relation_scores, mapping)
        known = replace(image, relations=relations, relation_scores=scores)
        asked.append({"image": json.loads(serialize_image(known)), "text": text})
    return pd.DataFrame({REQUEST: [json.dumps({"pairs": asked})]})


def pin_requirements() -> list[str]:
    """Pins for a served model, without the local part (+cpu) that no index knows."""
    pins = []
    for name in REQUIRES:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            logging.getLogger(__name__).warning("%s is not installed; the model's requirements leave it out.", name)
    return pins


def fetch(model: str | Path, settings: TrackingSettings | None = None) -> Path:
    """The local folder of a model: `model` is models:/NAME@CHALLENGER, models:/NAME/VERSION, runs:/..., or a folder.

    Raises TrackingError that says what was looked for, and where.
    """
    text = str(model)
    if text.startswith(("models:/", "runs:/", "mlflow-artifacts:/")):
        return _find_model_folder(_download(text, settings or TrackingSettings()), text)
    return _find_model_folder(Path(text).expanduser(), text)


def _download(uri: str, settings: TrackingSettings) -> Path:
    where = connect(settings)
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(uri))
    except Exception as error:
        raise TrackingError(
            f"{uri} is not in {where}: {first_line(error)}. Train a model first ('hire train'), name its folder "
            "(runs/latest/model), or point MLFLOW_TRACKING_URI at the store that has it."
        ) from error


def _find_model_folder(folder: Path, named: str) -> Path:
    from_pyfunc = folder / "artifacts"
    candidates = [folder, folder / "model", *(sorted(from_pyfunc.iterdir()) if from_pyfunc.is_dir() else [])]
    for candidate in candidates:
        if (candidate / CONFIG).is_file():
            return candidate
    raise TrackingError(
        f"--model {named}: no model there ({CONFIG} is missing). Expected the folder of a trained model such as "
        "runs/latest/model, or an address such as models:/hire@challenger."
    )

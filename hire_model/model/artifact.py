"""A trained model as a folder: config.json, model.safetensors, tokenizer.json and hubs.safetensors, without pickle.

The folder is complete: it includes the tokenizer and the configuration and weights of a pretrained encoder. Optional
are the bank for hub correction, hubs.safetensors, and what reads pictures: the keys "extractor" and "relation_maker" of
config.json, and the files of these two, extractor.onnx and relation_prior.safetensors. Loading is strict: a missing or
unexpected weight is an error, because a partly loaded model scores like chance without a warning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from hire_model.data.schema import EXTRACTOR, RELATION_PRIOR, ExtractorFacts, MakerFacts, hash_file, name_with_digest
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.model.hire import Hire
from hire_model.model.hubs import HubBank
from hire_model.model.text import PretrainedEncoder
from hire_model.model.vocabulary import Vocabulary
from hire_model.settings import ModelSettings

CONFIG, WEIGHTS, TOKENIZER, HUBS = "config.json", "model.safetensors", "tokenizer.json", "hubs.safetensors"
MAKERS: Final = {"extractor": EXTRACTOR, "relation_maker": RELATION_PRIOR}
"""Keys of the configuration, which a manifest has too, and the files that belong to them."""
FORMAT = 1
Facts = TypeVar("Facts", bound=MakerFacts)
_MAX_REASON = 400  # characters of an error that are quoted


def save(
    model: Hire, folder: str | Path, facts: dict[str, Any] | None = None, trained_on: Dataset | None = None
) -> Path:
    """Write `model` into `folder`, and return the folder.

    Args:
        model: the model to save.
        folder: is created if it does not exist.
        facts: any JSON to store with the model, such as run id, data digest and recalls.
        trained_on: the data set; its extractor and what made its relations, if recorded, are stored with the model, so
            that it can read pictures.

    Raises:
        HireError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(model, folder, facts or {}, trained_on)
    except Exception as error:  # safetensors and tokenizers raise other types for a full disk
        raise HireError(
            f"{folder}: the model cannot be written: {error}. Free disk space or choose another folder."
        ) from error
    return folder


def _write(model: Hire, folder: Path, facts: dict[str, Any], trained_on: Dataset | None) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    model.vocabulary.tokenizer.save(str(folder / TOKENIZER))
    (folder / HUBS).unlink(missing_ok=True)
    if model.hubs is not None:
        model.hubs.save(folder / HUBS)
    makers: dict[str, MakerFacts | None] = {}
    for key, file in MAKERS.items():
        makers[key] = getattr(trained_on.manifest, key) if trained_on else None
        (folder / file).unlink(missing_ok=True)
        if trained_on and (maker := makers[key]) and maker.file:
            shutil.copyfile(trained_on.folder / file, folder / file)
    names = [name for name in (WEIGHTS, TOKENIZER, HUBS, *MAKERS.values()) if (folder / name).is_file()]
    config = {
        "format": FORMAT,
        "model": model.settings.model_dump(mode="json"),
        "feature_dim": model.feature_dim,
        "feature_extractor": model.feature_extractor,
        "predicates": list(model.predicates),
        "classes": list(model.classes),
        "encoder": model.text.encoder.config.to_dict() if isinstance(model.text, PretrainedEncoder) else None,
        "sha256": {name: hash_file(folder / name).sha256 for name in names},
        "facts": facts,
    }
    config |= {key: maker.model_dump(mode="json") for key, maker in makers.items() if maker}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n", "utf-8")


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the configuration of the model in `folder`. Raises HireError if there is none."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        hint = " Pass an MLflow address to hire_model.fetch, which returns a folder." if ":/" in str(folder) else ""
        raise HireError(f"{folder}: no model in this folder ({CONFIG} is missing).{hint}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HireError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise HireError(f"{path}: format {found!r}; this version reads format {FORMAT}.")
    return config


def read_extractor(folder: str | Path) -> ExtractorFacts | None:
    """Read which extractor made the regions that the model was trained on, or None if that is not recorded."""
    return _read_maker(folder, "extractor", ExtractorFacts)


def read_relation_maker(folder: str | Path) -> MakerFacts | None:
    """Read what made the relations that the model was trained on, or None if that is not recorded."""
    return _read_maker(folder, "relation_maker", MakerFacts)


def _read_maker(folder: str | Path, key: str, kind: type[Facts]) -> Facts | None:
    recorded = read_config(folder).get(key)
    try:
        return kind.model_validate(recorded) if recorded else None
    except ValidationError as error:
        raise HireError(f"{folder}: {CONFIG}: {key} cannot be read: {error.errors()[0]['msg']}.") from error


def _read_feature_extractor(config: dict[str, Any]) -> str:
    """Return what extracted the training regions. Models of earlier releases have it only if it can read pictures."""
    older = config.get("extractor")
    return str(config.get("feature_extractor") or (name_with_digest(older["name"], older["digest"]) if older else ""))


# Settings that a release has added, with the value that changes nothing: galleries of earlier models stay valid.
_ADDED = {"implicit_edges": False, "predicate_vectors": False, "class_vectors": False, "region_weights": "equal"}


def digest(model: Hire) -> str:
    """Compute the SHA-256 of settings, names, tokenizer and weights; saving and loading does not change it.

    Results computed with a model store this digest, so that they are never used with another model.
    """
    settings = model.settings.model_dump(mode="json")
    facts = [
        {name: value for name, value in settings.items() if name not in _ADDED or value != _ADDED[name]},
        model.predicates,
        model.vocabulary.tokenizer.to_str(),
        *([model.classes] if model.classes else []),
    ]
    sha256 = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        sha256.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return sha256.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of every file in a model folder. Return them by relative path, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path).sha256 for path in paths}


def digest_table(table: dict[str, str]) -> str:
    """Compute one SHA-256 of the result of `hash_files`: of the names and the contents of all files."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def load(folder: str | Path) -> Hire:
    """Load the model in `folder`, on the CPU and in evaluation mode.

    Raises HireError if a file is missing, differs from its digest, or does not fit the model.
    """
    folder = Path(folder)
    config = read_config(folder)
    digests = config.get("sha256")
    optional = [name for name in (HUBS, *MAKERS.values()) if isinstance(digests, dict) and name in digests]
    for name in (WEIGHTS, TOKENIZER, *optional):
        if not (folder / name).is_file():
            raise HireError(f"{folder / name}: missing from the model. Save or download the model again.")
        if not isinstance(digests, dict) or hash_file(folder / name).sha256 != digests.get(name):
            raise HireError(
                f"{folder / name}: its SHA-256 differs from the one in {CONFIG}: the file was damaged or replaced."
            )
    try:
        settings = ModelSettings.model_validate(config["model"])
        vocabulary = Vocabulary(Tokenizer.from_file(str(folder / TOKENIZER)), settings.text.max_words)
        classes = config.get("classes", ())  # absent from models saved before there were class vectors
        model = Hire(settings, config["feature_dim"], config["predicates"], vocabulary, config["encoder"], classes)
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
        model.feature_extractor = _read_feature_extractor(config)
        model.hubs = HubBank.load(folder / HUBS) if HUBS in optional else None
    except (ValidationError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]  # torch lists every weight on its own line
        raise HireError(f"{folder}: the model cannot be loaded: {reason}") from error
    return model.eval()

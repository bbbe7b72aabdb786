"""A trained model as a folder that loads again anywhere: config.json, model.safetensors, tokenizer.json. No pickle.

Everything is inside: the tokenizer, a pretrained encoder's configuration and its weights. Loading is strict: a weight
too many or too few is an error, as a model loaded half scores like chance without a word.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from hire_model.data.schema import hash_file
from hire_model.errors import HireError
from hire_model.model.hire import Hire
from hire_model.model.text import Pretrained
from hire_model.model.vocabulary import Vocabulary
from hire_model.settings import ModelSettings

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FORMAT = 1
_LONGEST = 400


def save(model: Hire, folder: str | Path, facts: dict[str, Any] | None = None) -> Path:
    """Write `model` into `folder`. `facts` is any JSON (run id, data digest, recall) that should travel with it.

    Raises HireError where it cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(model, folder, facts or {})
    except Exception as error:  # safetensors and tokenizers have errors of their own for a full disk
        raise HireError(f"{folder}: the model cannot be written: {error}. Make room or name another place.") from error
    return folder


def _write(model: Hire, folder: Path, facts: dict[str, Any]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    model.vocabulary.tokenizer.save(str(folder / TOKENIZER))
    config = {
        "format": FORMAT,
        "model": model.settings.model_dump(mode="json"),
        "feature_dim": model.feature_dim,
        "predicates": list(model.predicates),
        "encoder": model.text.encoder.config.to_dict() if isinstance(model.text, Pretrained) else None,
        "sha256": {name: hash_file(folder / name).sha256 for name in (WEIGHTS, TOKENIZER)},
        "facts": facts,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n", "utf-8")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the model in `folder`. Raises HireError where there is none."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        hint = " hire_model.fetch makes a folder of an address of MLflow's." if ":/" in str(folder) else ""
        raise HireError(f"{folder}: no model here ({CONFIG} is missing).{hint}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HireError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise HireError(f"{path}: format {found!r}; this version reads format {FORMAT}.")
    return config


def digest(model: Hire) -> str:
    """SHA-256 over settings, predicates, tokenizer and weights: the same for a model and for its folder loaded again.

    What was computed with a model carries it, so that it is never used with another.
    """
    facts = [model.settings.model_dump(mode="json"), model.predicates, model.vocabulary.tokenizer.to_str()]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def load(folder: str | Path) -> Hire:
    """The model in `folder`, in evaluation mode on the CPU. Raises HireError if a file is missing, changed or unfit."""
    folder = Path(folder)
    config = read_config(folder)
    digests = config.get("sha256")
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise HireError(f"{folder / name}: missing from the model. Save or download it again.")
        if not isinstance(digests, dict) or hash_file(folder / name).sha256 != digests.get(name):
            raise HireError(f"{folder / name}: its SHA-256 is not the one in {CONFIG}: damaged or exchanged.")
    try:
        settings = ModelSettings.model_validate(config["model"])
        words = Vocabulary(Tokenizer.from_file(str(folder / TOKENIZER)), settings.text.max_words)
        model = Hire(settings, config["feature_dim"], config["predicates"], words, config["encoder"])
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (ValidationError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        told = " ".join(str(error).split())[:_LONGEST]  # torch names every weight, in a line each
        raise HireError(f"{folder}: the model cannot be loaded: {told}") from error
    return model.eval()

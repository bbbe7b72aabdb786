"""Open checkpoints of transformers: a folder, or a name on the Hugging Face hub with a commit. Safetensors only.

The classes are chosen here by the checkpoint's `model_type`, so no code from a checkpoint ever runs, and no pickle is
read. HF_HUB_OFFLINE=1 forbids downloads.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hire_model.data.schema import hash_file
from hire_model.errors import DataError

_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})")
_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")  # that change a result; and the weights
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    name        as the user wrote it, without the path of a folder
    model_type  of config.json
    digest      SHA-256 of the weights, the configuration and the settings of the image processor
    """

    name: str
    folder: Path
    model_type: str
    digest: str


def open_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint and compute its digest; a hub name is downloaded if it is not in the hub's cache.

    Args:
        name: a folder, or OWNER/NAME@COMMIT with the 40 digits of a commit on the hub.

    Raises:
        DataError: there is no such checkpoint, or it lacks config.json or weights in safetensors.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _find_in_hub(name)
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text("utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{config}: not the configuration of a checkpoint: {error}. Expected the files that 'save_pretrained' of "
            "transformers writes."
        ) from error
    weights = sorted(folder.glob(_WEIGHTS))
    if not weights:
        raise DataError(
            f"{folder}: no weights in safetensors. Expected model.safetensors; pickled weights (.bin, .pt) are not "
            "read. Convert them with 'save_pretrained'."
        )
    files = [path for path in (*(folder / file for file in _FILES), *weights) if path.is_file()]
    facts = [(path.name, hash_file(path).sha256) for path in files]
    short = folder.name if Path(name).expanduser().is_dir() else name.split("@")[0]
    return Checkpoint(short, folder, str(model_type), hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def _find_in_hub(name: str) -> Path:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise DataError(
            f"{name}: no such folder. Expected a folder, or OWNER/NAME@COMMIT of the Hugging Face hub with all 40 "
            "digits of the commit, so that the weights cannot change."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    options: dict[str, Any] = {
        "revision": match["commit"],
        "allow_patterns": [*_FILES, *_TOKENIZER_FILES, _WEIGHTS, f"{_WEIGHTS}.index.json"],
    }
    try:
        folder = Path(snapshot_download(match["repo"], local_files_only=True, **options))
        if (folder / "config.json").is_file() and any(folder.glob(_WEIGHTS)):
            return folder
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(match["repo"], **options))
    except Exception as error:  # the hub's client raises OSError, ValueError and errors of its HTTP library
        raise DataError(
            f"{name}: cannot be downloaded from the hub: {str(error).strip().splitlines()[0]}. Check name, commit and "
            "network, or pass a folder with the files."
        ) from error


def locate(name: str) -> str:
    """Return the name of a checkpoint that finds it from any working directory: an absolute path, or the hub name."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name and folder.is_dir() else name


def load_model(checkpoint: Checkpoint, model_class: Any) -> Any:
    """Load a model of transformers in float32 and evaluation mode. Raises DataError if a weight is missing or damaged.

    A missing weight would be a random one, and the results would be noise without an error.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            checkpoint.folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype="float32"
        )
    except Exception as error:  # safetensors, torch and transformers raise errors of many types
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{checkpoint.folder}: cannot be loaded as {model_class.__name__}: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{checkpoint.folder}: {len(missing)} weights of {model_class.__name__} are missing, such as "
            f"'{missing[0]}'. Expected a complete checkpoint."
        )
    return model.eval().requires_grad_(False)


def load_processor(checkpoint: Checkpoint, processor_class: Any, **changes: Any) -> Any:
    """Load an image processor; `changes` replace its settings. Raises DataError if they are missing or wrong."""
    try:
        return processor_class.from_pretrained(checkpoint.folder, local_files_only=True, **changes)
    except Exception as error:  # the library raises what its parsers raise
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{checkpoint.folder}: the image processor's settings cannot be read: {reason}. Expected "
            "preprocessor_config.json."
        ) from error


def load_tokenizer(folder: Path, option: str) -> Any:
    """Load the tokenizer of a checkpoint. Raises DataError if it has none that needs no SentencePiece."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:  # as above
        tokenizer = None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise DataError(
            f"{option}: {folder} has no tokenizer that can be read. Expected tokenizer.json; a SentencePiece "
            "file alone is not enough."
        )
    return tokenizer


def choose_class(checkpoint: Checkpoint, table: dict[str, Any], option: str) -> Any:
    """Return the entry of `table` for the checkpoint's type. Raises DataError that names the types there are."""
    if checkpoint.model_type not in table:
        raise DataError(
            f"{option} {checkpoint.name}: a checkpoint of type '{checkpoint.model_type}'. Expected one of "
            f"{', '.join(table)}."
        )
    return table[checkpoint.model_type]


def name_tower(digest: str) -> str:
    """Return what the name of an extractor says about its tower; the text tower is checked against it."""
    return f"tower {digest[:16]}"

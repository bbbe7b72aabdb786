"""Small models and random batches for the tests of the model."""

from __future__ import annotations

import numpy as np
import torch

from hire_model.batch import Regions, Tokens
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import ImageRegions
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn
from hire_model.settings import ModelSettings, resolve

WORDS = [
    "a",
    "red",
    "blue",
    "dog",
    "cat",
    "man",
    "ball",
    "hat",
    "sits",
    "holds",
    "wears",
    "near",
    "under",
    "left",
    "of",
]
PREDICATES = ("holds", "wears", "near")
FEATURES = 7
ENCODER = {  # a pretrained encoder's configuration, as an artifact has it
    "model_type": "bert", "vocab_size": len(WORDS) + 4, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
}  # fmt: skip


def settings(**changes: object) -> ModelSettings:
    """The tiny preset with `changes`, its keys below model."""
    overrides = {"model.preset": "tiny", **{f"model.{key}": value for key, value in changes.items()}}
    return resolve(None, overrides, {}).settings.model


def model(**changes: object) -> Hire:
    """A tiny model whose zero-initialised parts are filled in, as a trained one's are, in evaluation mode."""
    torch.manual_seed(0)
    chosen = settings(**changes)
    encoder = ENCODER if chosen.text.kind == "bert" else None
    built = Hire(chosen, FEATURES, PREDICATES, learn([" ".join(WORDS)], chosen.text), encoder)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.numel() and not parameter.any():
                parameter.normal_(std=0.3)
    return built.eval()


def image(random: np.random.Generator, regions: int | None = None, relations: int = 4) -> ImageRegions:
    """Random regions with boxes, one of them unboxed now and then, and relations among them."""
    count = regions or int(random.integers(1, 7))
    corner = random.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.05, 0.4, (count, 2))], axis=1).astype(np.float32)
    boxes[random.random(count) < 0.1] = np.nan
    edges = np.stack([random.integers(0, high, relations) for high in (count, len(PREDICATES), count)], axis=1)
    return ImageRegions(
        random.normal(size=(count, FEATURES)).astype(np.float32),
        boxes,
        np.full(count, -1, np.int32),
        np.full(count, np.nan, np.float32),
        edges.astype(np.int32),
        random.uniform(0, 1, relations).astype(np.float32),
    )


def caption(random: np.random.Generator) -> str:
    """A random caption of 1 to 12 known words."""
    return " ".join(random.choice(WORDS, int(random.integers(1, 13))))


def tokens(hire: Hire, texts: list[str]) -> Tokens:
    """The captions as one batch."""
    return CaptionBank.from_lists(hire.vocabulary.encode(texts)).tokens(range(len(texts)))


def regions(images: list[ImageRegions]) -> Regions:
    """The images as one batch."""
    return collate_regions(images)

"""Small models and random images and captions for tests."""

from __future__ import annotations

import numpy as np
import torch

from hire_model.batch import Regions, Tokens
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import ImageRegions
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.settings import ModelSettings, resolve

WORDS = [
    "a", "red", "blue", "dog", "cat", "man", "ball", "hat", "sits", "holds", "wears", "near", "under", "left", "of",
]  # fmt: skip
PREDICATES = ("holds", "wears", "near")
CLASSES = ("dog", "cat", "man")
FEATURES = 7
ENCODER = {  # configuration of a pretrained encoder, as in a saved model's config.json
    "model_type": "bert", "vocab_size": len(WORDS) + 4, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
}  # fmt: skip


def make_settings(**changes: object) -> ModelSettings:
    """Return the tiny preset with `changes`: keys below `model`, such as graphs="none"."""
    overrides = {"model.preset": "tiny", **{f"model.{key}": value for key, value in changes.items()}}
    return resolve(None, overrides, {}).settings.model


def make_model(**changes: object) -> Hire:
    """Return a tiny model in evaluation mode. Zero-initialised weights are random, as in a trained model."""
    torch.manual_seed(0)
    chosen = make_settings(**changes)
    encoder = ENCODER if chosen.text.kind == "bert" else None
    hire = Hire(chosen, FEATURES, PREDICATES, learn_vocabulary([" ".join(WORDS)], chosen.text), encoder, CLASSES)
    with torch.no_grad():
        for parameter in hire.parameters():
            if parameter.numel() and not parameter.any():
                parameter.normal_(std=0.3)
    return hire.eval()


def make_image(random: np.random.Generator, regions: int | None = None, relations: int = 4) -> ImageRegions:
    """Return random regions with relations; about one in ten has no box, and one in four has no class."""
    count = regions or int(random.integers(1, 7))
    corner = random.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.05, 0.4, (count, 2))], axis=1).astype(np.float32)
    boxes[random.random(count) < 0.1] = np.nan
    edges = np.stack([random.integers(0, high, relations) for high in (count, len(PREDICATES), count)], axis=1)
    return ImageRegions(
        random.normal(size=(count, FEATURES)).astype(np.float32),
        boxes,
        np.arange(count, dtype=np.int32) % (len(CLASSES) + 1) - 1,
        np.full(count, np.nan, np.float32),
        edges.astype(np.int32),
        random.uniform(0, 1, relations).astype(np.float32),
    )


def make_caption(random: np.random.Generator) -> str:
    """Return a random caption of 1 to 12 known words."""
    return " ".join(random.choice(WORDS, int(random.integers(1, 13))))


def make_tokens(hire: Hire, texts: list[str]) -> Tokens:
    """Return the captions as one batch."""
    return CaptionBank.from_lists(hire.vocabulary.encode(texts)).tokens(range(len(texts)))


def make_regions(images: list[ImageRegions]) -> Regions:
    """Return the images as one batch."""
    return collate_regions(images)

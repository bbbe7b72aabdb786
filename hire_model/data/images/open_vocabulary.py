"""Detect objects of classes that the user names, with OWLv2 or Grounding DINO of transformers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hire_model.data.images.checkpoints import Checkpoint, load_model, load_processor, load_tokenizer
from hire_model.data.images.detector import WHOLE_IMAGE, Found
from hire_model.data.images.patches import PatchMap
from hire_model.data.images.queries import find_corners, rank_queries
from hire_model.data.importers.base import Notes
from hire_model.data.importers.files import read_vocabulary
from hire_model.errors import DataError


class GroundingDetector:
    """Grounding DINO: queries that read the names of the classes as one text.

    The score of a query is that of its best word, and its class is the name with this word, as in transformers'
    `post_process_grounded_object_detection`; marks between the names do not count. Names are read in lower case.

    Args:
        checkpoint: of the type grounding-dino.
        classes: the names.

    Attributes:
        feature_dim: size of a query's last state. It is what the network compares with the words.
        digest: of the checkpoint, the names and their word pieces.

    Raises:
        DataError: the checkpoint or a name cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint, classes: Sequence[str]) -> None:
        from transformers import GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil

        self.name, self.classes = checkpoint.name, tuple(classes)
        self.model = load_model(checkpoint, GroundingDinoForObjectDetection)
        self.processor = load_processor(checkpoint, GroundingDinoImageProcessorPil)
        self.feature_dim = int(self.model.config.d_model)
        if unreadable := [name for name in classes if "." in name or "?" in name]:
            raise DataError(
                f"--classes: '{unreadable[0]}' has a full stop or a question mark, which end a name for Grounding "
                "DINO. Leave it out."
            )
        text, spans = _join_names(self.classes)
        encoded = load_tokenizer(checkpoint.folder, "--detector")(
            text, return_offsets_mapping=True, return_token_type_ids=True
        )
        limit, count = int(self.model.config.max_text_len), len(encoded["input_ids"])
        if count > limit:
            raise DataError(
                f"--classes: {len(classes)} names are {count} word pieces, but {checkpoint.name} reads {limit}. Use "
                "fewer or shorter names, or an OWLv2 checkpoint."
            )
        owners = _find_owners(encoded.pop("offset_mapping"), spans)
        if unread := set(range(len(classes))) - set(owners.tolist()):
            raise DataError(
                f"--classes: {checkpoint.name} reads no word in '{classes[min(unread)]}'. Use another name."
            )
        self.columns, self.owners = np.flatnonzero(owners >= 0), owners[owners >= 0].astype(np.int32)
        self.text = {key: torch.tensor([ids]) for key, ids in encoded.items()}
        self.digest = _hash_names(checkpoint, self.classes, encoded["input_ids"])

    @torch.inference_mode()
    def detect(self, image: Image.Image, limit: int | None = None) -> Found:
        """Return the `limit` best queries of an RGB picture, with their states, best first."""
        output = self.model(**self.processor(images=image, return_tensors="pt"), **self.text)
        scores, best = output.logits[0, :, self.columns].sigmoid().max(dim=1)
        return rank_queries(output, scores, self.owners[best.numpy()], limit)


class Owlv2Detector:
    """OWLv2: each patch of the picture is a box, a score for each name, and an embedding.

    The embedding (`class_embeds`) has length 1, and the network compares it with those of the names. The states before
    it (`image_embeds`) also contain the box, which the data set has already.

    The network sees the picture in the upper left of a square, and its boxes are fractions of the square. Here they are
    fractions of the picture.

    Args:
        checkpoint: of the type owlv2.
        classes: the names, as the text tower reads them, such as "dog" or "a photo of a dog".

    Attributes:
        feature_dim: size of an embedding.
        digest: of the checkpoint, the names and their word pieces.

    Raises:
        DataError: the checkpoint or a name cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint, classes: Sequence[str]) -> None:
        from transformers import Owlv2ForObjectDetection, Owlv2ImageProcessorPil

        self.name, self.classes = checkpoint.name, tuple(classes)
        self.model = load_model(checkpoint, Owlv2ForObjectDetection)
        self.processor = load_processor(checkpoint, Owlv2ImageProcessorPil)
        text, vision = self.model.config.text_config, self.model.config.vision_config
        self.feature_dim, self.side = int(text.hidden_size), int(vision.image_size)
        tokenizer, limit = load_tokenizer(checkpoint.folder, "--detector"), int(text.max_position_embeddings)
        pieces = tokenizer(list(classes))["input_ids"]
        for name, ids in zip(classes, pieces, strict=True):
            if len(ids) > limit:
                raise DataError(
                    f"--classes: '{name}' is {len(ids)} word pieces, but {checkpoint.name} reads {limit}. Use a "
                    "shorter name."
                )
        tokens = tokenizer(list(classes), padding="max_length", max_length=limit, return_tensors="pt")
        self.digest = _hash_names(checkpoint, self.classes, pieces)
        with torch.inference_mode():
            self.names = self.model.owlv2.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output

    @torch.inference_mode()
    def detect(self, image: Image.Image, limit: int | None = None) -> Found:
        """Return the `limit` best patches of an RGB picture, with their embeddings, best first.

        Boxes outside the picture are so thin that `select_objects` drops them.
        """
        # The library blurs a large picture before it shrinks it, in some copies of 12 bytes per pixel of the square.
        image = _shrink(image, 2 * self.side)
        states, _ = self.model.image_embedder(self.processor(images=image, return_tensors="pt")["pixel_values"])
        flat = states.flatten(1, 2)
        logits, embeddings = self.model.class_predictor(flat, self.names[None])
        scores, classes = logits[0].sigmoid().max(dim=1)
        best = torch.argsort(scores, descending=True, stable=True)[:limit]
        longest = max(image.size)
        covered = image.width / longest, image.height / longest
        boxes = self.model.box_predictor(flat, states)[0, best] / torch.tensor(covered * 2)
        return Found(
            find_corners(boxes.numpy()).clip(0, 1),
            classes[best].numpy().astype(np.int32),
            scores[best].numpy(),
            embeddings[0, best].numpy(),
            PatchMap(embeddings.view(*states.shape[1:3], -1), covered),
        )


def read_classes(option: str) -> tuple[str, ...]:
    """Return the names of --classes: the lines of a file, or names between commas.

    Raises:
        DataError: the file cannot be read, or a name is empty, repeated, or has another meaning.
    """
    path = Path(option).expanduser()
    if os.path.isfile(path):  # False, and no error, for a list of names that is too long for a path
        lines: Sequence[str] = read_vocabulary(path, Notes())
    elif "," not in option and (path.suffix or len(path.parts) > 1):
        raise DataError(f"--classes {option}: no such file. Expected a file with a name per line, or 'dog, red ball'.")
    else:
        lines = option.split(",")
    names = tuple(" ".join(line.split()) for line in lines)
    for name in names:
        reason = ""
        if not name:
            reason = "is empty"
        elif sum(name.lower() == other.lower() for other in names) > 1:
            reason = "is there twice"
        elif name.lower() == WHOLE_IMAGE:
            reason = "is the class of the region that is the whole picture"
        if reason:
            raise DataError(f"--classes {option}: the name '{name}' {reason}. Expected names such as 'dog, red ball'.")
    return names


def _join_names(classes: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text that Grounding DINO reads, as its processor writes it, and where each name starts and ends."""
    text, spans = "", []
    for name in classes:
        spans.append((len(text), len(text) + len(name.lower())))
        text += f"{name.lower()}. "
    return text.strip(), spans


def _find_owners(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for each word piece [T] the index of the name that contains it, -1 for marks."""
    owners = np.full(len(offsets), -1, np.int32)
    for index, (start, end) in enumerate(spans):
        owners[[low < high and start <= low and high <= end for low, high in offsets]] = index
    return owners


def _hash_names(checkpoint: Checkpoint, classes: Sequence[str], pieces: Sequence[object]) -> str:
    facts = [checkpoint.digest, list(classes), pieces]  # the pieces stand for the tokenizer
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    """Return the picture with its longer side reduced to `longest` pixels, if it is longer."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))

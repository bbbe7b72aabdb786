"""Detect objects with D-FINE or RT-DETRv2 of transformers. Each box comes with the state of its query."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hire_model.data.images.checkpoints import Checkpoint, load_model, load_processor
from hire_model.data.images.detector import MIN_SIDE, Found

QUERY_TYPES = {"d_fine": "DFineForObjectDetection", "rt_detr_v2": "RTDetrV2ForObjectDetection"}


class QueryDetector:
    """A detector whose decoder has a fixed number of queries, each of them a box, class scores and a state.

    The image processor is the one that uses Pillow, so torchvision is not needed.

    Args:
        checkpoint: of a type in `QUERY_TYPES`.

    Attributes:
        feature_dim: size of a query's state.
        digest: of the checkpoint.

    Raises:
        DataError: the checkpoint cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        import transformers as hf

        self.model = load_model(checkpoint, getattr(hf, QUERY_TYPES[checkpoint.model_type]))
        self.processor = load_processor(checkpoint, hf.RTDetrImageProcessorPil)
        self.name, self.digest = checkpoint.name, checkpoint.digest
        self.feature_dim = int(self.model.config.d_model)
        labels = self.model.config.id2label
        self.classes = tuple(str(labels[index]) for index in range(len(labels)))

    @torch.inference_mode()
    def detect(self, image: Image.Image, limit: int | None = None) -> Found:
        """Return the `limit` best queries of an RGB picture, with their states, best first.

        The score of a query is that of its best class. transformers' `post_process_object_detection` is not used: it
        returns no query indices, so the states could not be found.
        """
        output = self.model(**self.processor(images=image, return_tensors="pt"))
        scores, classes = output.logits[0].sigmoid().max(dim=1)
        return rank_queries(output, scores, classes.numpy(), limit)


def rank_queries(output: Any, scores: Tensor, classes: np.ndarray, limit: int | None) -> Found:
    """Return the `limit` best queries of a network's output, by their scores [queries], with boxes and states."""
    best = torch.argsort(scores, descending=True, stable=True)[:limit]
    corners = find_corners(output.pred_boxes[0, best].numpy())
    low = corners[:, :2].clip(0, 1 - MIN_SIDE)
    high = np.maximum(corners[:, 2:], low + MIN_SIDE).clip(max=1)
    return Found(
        np.concatenate([low, high], axis=1).astype(np.float32),
        classes[best.numpy()].astype(np.int32),
        scores[best].numpy(),
        output.last_hidden_state[0, best].numpy(),
    )


def find_corners(boxes: np.ndarray) -> np.ndarray:
    """Convert centre x y, width, height [n, 4] to corners x1 y1 x2 y2."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)

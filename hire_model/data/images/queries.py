"""Detect objects with D-FINE or RT-DETRv2 of transformers. Each box comes with the state of its query."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from hire_model.data.images.checkpoints import choose_class, load_model, load_processor, open_checkpoint
from hire_model.data.images.detector import MIN_SIDE, Found


class QueryDetector:
    """A detector whose decoder has a fixed number of queries, each of them a box, class scores and a state.

    The image processor is the one that uses Pillow, so torchvision is not needed.

    Args:
        name: a folder or a hub name with a commit; see `open_checkpoint`.

    Attributes:
        feature_dim: size of a query's state.
        digest: of the checkpoint.

    Raises:
        DataError: it is no such detector, or cannot be read.
    """

    def __init__(self, name: str) -> None:
        from transformers import DFineForObjectDetection, RTDetrImageProcessorPil, RTDetrV2ForObjectDetection

        types = {"d_fine": DFineForObjectDetection, "rt_detr_v2": RTDetrV2ForObjectDetection}
        checkpoint = open_checkpoint(name)
        self.model = load_model(checkpoint, choose_class(checkpoint, types, "--detector"))
        self.processor = load_processor(checkpoint, RTDetrImageProcessorPil)
        self.name, self.digest = checkpoint.name, checkpoint.digest
        self.feature_dim = int(self.model.config.d_model)
        labels = self.model.config.id2label
        self.classes = tuple(str(labels[index]) for index in range(len(labels)))

    @torch.inference_mode()
    def detect(self, image: Image.Image, limit: int) -> Found:
        """Return the `limit` best queries of an RGB picture, with their states, best first.

        The score of a query is that of its best class. transformers' `post_process_object_detection` is not used: it
        returns no query indices, so the states could not be found.
        """
        output = self.model(**self.processor(images=image, return_tensors="pt"))
        scores, classes = output.logits[0].sigmoid().max(dim=1)
        best = torch.argsort(scores, descending=True, stable=True)[:limit]
        return Found(
            _convert_to_corners(output.pred_boxes[0, best].numpy()),
            classes[best].numpy().astype(np.int32),
            scores[best].numpy(),
            output.last_hidden_state[0, best].numpy(),
        )


def _convert_to_corners(boxes: np.ndarray) -> np.ndarray:
    """Convert centre x y, width, height [n, 4] to corners inside the picture, at least `MIN_SIDE` apart."""
    low = (boxes[:, :2] - boxes[:, 2:] / 2).clip(0, 1 - MIN_SIDE)
    high = np.maximum(boxes[:, :2] + boxes[:, 2:] / 2, low + MIN_SIDE).clip(max=1)
    return np.concatenate([low, high], axis=1).astype(np.float32)

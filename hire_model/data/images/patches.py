"""Features of any boxes from a vision transformer: the mean of its patches inside each box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hire_model.data.images.checkpoints import choose_class, load_model, load_processor, open_checkpoint


class PatchBackbone:
    """CLIP, SigLIP, SigLIP 2 or DINOv2 of transformers, ready to compute features of boxes.

    The whole picture is resized to the network's square, without a crop, so that every box has patches. SigLIP 2 with
    flexible resolution keeps the shape of the picture.

    With `tower`, for CLIP and SigLIP, each feature vector ends with the network's own embedding of the picture, scaled
    to length 1: computed as the library does, with its crop, and equal in all regions of a picture. The model compares
    it with the embedding of the text tower (docs/towers.md).

    Args:
        name: a folder or a hub name with a commit; see `open_checkpoint`.
        tower: append the embedding.

    Attributes:
        feature_dim: numbers per box.
        digest: of the checkpoint.

    Raises:
        DataError: it is no such network, or cannot be read.
    """

    def __init__(self, name: str, tower: bool = False) -> None:
        import transformers as hf

        types = {
            "clip": (hf.CLIPModel, hf.CLIPImageProcessorPil),
            "siglip": (hf.SiglipModel, hf.SiglipImageProcessorPil),
        }
        if not tower:
            types |= {
                "siglip2": (hf.Siglip2Model, hf.Siglip2ImageProcessorPil),
                "dinov2": (hf.Dinov2Model, hf.BitImageProcessorPil),
            }
        checkpoint = open_checkpoint(name)
        model_class, processor_class = choose_class(checkpoint, types, "--backbone")
        self.model = load_model(checkpoint, model_class)
        self.name, self.digest = checkpoint.name, checkpoint.digest
        self.vision = getattr(self.model, "vision_model", self.model)
        config = self.vision.config
        self.flexible, self.patch = checkpoint.model_type == "siglip2", int(config.patch_size)
        changes = {} if self.flexible else _resize_to_square(int(config.image_size))
        self.processor = load_processor(checkpoint, processor_class, **changes)
        self.own_processor = load_processor(checkpoint, processor_class) if tower else None
        self.feature_dim = int(config.hidden_size)
        if tower:
            self.feature_dim += self.embed(Image.new("RGB", (64, 64))).shape[1]

    @torch.inference_mode()
    def pool(self, picture: Image.Image, boxes: np.ndarray) -> np.ndarray:
        """Return features [r, feature_dim] float32 of `boxes` [r, 4], given as fractions of an RGB picture."""
        inputs = self.processor(images=picture, return_tensors="pt")
        patches = self.vision(**inputs).last_hidden_state
        if self.flexible:
            height, width = inputs["spatial_shapes"][0].tolist()
            patches = patches[0, : height * width]  # the rest is padding
        else:
            height, width = (side // self.patch for side in inputs["pixel_values"].shape[2:])
            patches = patches[0, -height * width :]  # a class token comes first, if there is one
        fractions = torch.from_numpy(np.ascontiguousarray(boxes, np.float32))
        features = average_cells(patches.view(height, width, -1), fractions)
        if self.own_processor is not None:
            features = torch.cat([features, self.embed(picture).expand(len(features), -1)], dim=1)
        return features.numpy()

    @torch.inference_mode()
    def embed(self, picture: Image.Image) -> Tensor:
        """Return the tower's embedding of a picture [1, E], of length 1; requires `tower`."""
        assert self.own_processor is not None
        embedding = self.model.get_image_features(**self.own_processor(images=picture, return_tensors="pt"))
        return torch.nn.functional.normalize(embedding.pooler_output, dim=1)


def _resize_to_square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}, "do_resize": True, "do_center_crop": False}


@dataclass(frozen=True)
class PatchMap:
    """Features of the patches of a picture, to compute those of any box.

    cells    [h, w, C]
    covered  shares of the map's width and height that the picture covers, from the upper left; the rest is padding
    """

    cells: Tensor
    covered: tuple[float, float]

    def pool(self, boxes: np.ndarray) -> np.ndarray:
        """Return the means [r, C] inside `boxes` [r, 4], fractions of the picture."""
        return average_cells(self.cells, torch.from_numpy(boxes) * torch.tensor(self.covered * 2)).numpy()


def average_cells(cells: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean of `cells` [h, w, C] inside each of `boxes` [r, 4] (fractions) as [r, C].

    A cell that is partly inside a box counts by the share of its area.
    """
    rows, columns = (_measure_overlap(boxes[:, axis], boxes[:, axis + 2], cells.shape[1 - axis]) for axis in (1, 0))
    return torch.einsum("ry,rx,yxc->rc", rows, columns, cells)


def _measure_overlap(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return the shares [r, count] of the intervals [low, high] that lie in each of `count` equal parts of [0, 1]."""
    edges = torch.arange(count + 1) / count
    length = (torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
    return length / length.sum(dim=1, keepdim=True).clamp(min=1e-9)

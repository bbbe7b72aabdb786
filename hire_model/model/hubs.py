"""Correct scores for hubs: items that score high with many queries, whatever these describe.

A bank holds the summaries of training images and training captions. An image's popularity is a soft maximum of its
scores with the captions of the bank, a caption's that of its scores with the images of the bank. The corrected score of
a pair is the score minus WEIGHT times both popularities (inverted softmax: Smith et al. 2017; query bank: Bogolin et
al. 2022). The popularities come from the global head alone, so they cost one dot product per item of the bank. No test
query is used. Scores change their range, so corrected and plain scores are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.errors import HireError
from hire_model.settings import ModelSettings

WEIGHT = 0.5  # 0.75 and 1 lose on small banks: docs/experiments/photographs.md


@dataclass(frozen=True)
class HubBank:
    """Summaries of training items.

    Attributes:
        images: [B, D] unit vectors g_I of training images.
        captions: [B, D] unit vectors g_T, one caption of each of these images.
        temperature: of the soft maximum; the temperature of the training.
    """

    images: Tensor
    captions: Tensor
    temperature: float

    def __len__(self) -> int:
        return len(self.images)

    def rate_images(self, images: EncodedImages | Tensor) -> Tensor:
        """Return the part [N] to subtract from the scores of N images, given or as summaries [N, D]."""
        return self._rate(images if isinstance(images, Tensor) else images.summary, self.captions)

    def rate_texts(self, texts: EncodedTexts | Tensor) -> Tensor:
        """Return the part [C] to subtract from the scores of C captions, given or as summaries [C, D]."""
        return self._rate(texts if isinstance(texts, Tensor) else texts.summary, self.images)

    def describe(self) -> str:
        """Describe the correction for a result's provenance."""
        return f"on: {len(self):,} training images and captions, temperature {self.temperature:g}"

    def save(self, path: Path) -> None:
        """Write the bank as safetensors."""
        temperature = torch.tensor(self.temperature)
        tensors = {"images": self.images, "captions": self.captions, "temperature": temperature}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> HubBank:
        """Read a bank. Raises SafetensorError or KeyError if the file is not a bank."""
        tensors = load_file(path)
        return cls(tensors["images"], tensors["captions"], float(tensors["temperature"]))

    def _rate(self, summary: Tensor, bank: Tensor) -> Tensor:
        logits = summary.float() @ bank.to(summary.device).T / self.temperature
        return WEIGHT * self.temperature * (torch.logsumexp(logits, dim=1) - np.log(len(bank)))


def find_bank(bank: HubBank | None, settings: ModelSettings, name: str = "this model") -> HubBank:
    """Return the bank of a model. Raises HireError if it has none, or no global head to compare with it."""
    if bank is None:
        raise HireError(
            f"Hub correction: {name} has no bank of training items. Train it with train.hub_bank above 0, or omit "
            "the hub correction."
        )
    if not settings.global_head:
        raise HireError(f"Hub correction: {name} has no global head (model.global_head=false). Omit the correction.")
    return bank

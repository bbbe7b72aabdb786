"""Collect the bank of a trained model, and correct a similarity matrix with it; see `hire_model.model.hubs`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.model.hire import Hire
from hire_model.model.hubs import HubBank, find_bank
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, split_into_blocks


@torch.inference_mode()
def collect_bank(model: Hire, train: Split, size: int, temperature: float, seed: int = 0) -> HubBank | None:
    """Encode `size` random training images, and a random caption of each, in evaluation mode.

    Args:
        model: the trained model.
        train: the training split.
        size: number of images; fewer if fewer have captions. 0 returns None.
        temperature: of the soft maximum.
        seed: of the choice.
    """
    random, described = np.random.default_rng(seed), np.unique(train.owner)
    chosen = np.sort(random.permutation(described)[:size])
    if not len(chosen):
        return None
    caption_of = {int(train.owner[row]): int(row) for row in random.permutation(len(train.owner))}
    was_training = model.training
    model.eval()
    chosen_images = Split(train.dataset, train.name, train.images[chosen], train.captions[:0], train.owner[:0])
    images = _summarise_images(model, chosen_images)
    captions = CaptionBank.from_lists(
        model.vocabulary.encode([train.texts[caption_of[int(image)]] for image in chosen])
    )
    texts = _summarise_captions(model, captions)
    model.train(was_training)
    return HubBank(images.cpu(), texts.cpu(), temperature)


@torch.inference_mode()
def correct_matrix(model: Hire, split: Split, captions: CaptionBank, matrix: np.ndarray) -> np.ndarray:
    """Return the scores `matrix` [N, M] of the images and captions of `split`, corrected for hubs.

    captions: the captions of `split`. Raises HireError if the model has no bank or no global head.
    """
    bank = find_bank(model.hubs, model.settings)
    images = bank.rate_images(_summarise_images(model, split)).cpu().numpy()
    texts = bank.rate_texts(_summarise_captions(model, captions)).cpu().numpy()
    return matrix - images[:, None] - texts[None]


def _summarise_images(model: Hire, split: Split) -> Tensor:
    blocks = show_progress(split_into_blocks(range(len(split.images))), "summaries of images")
    return torch.cat([block.summary for block in encode_image_blocks(model, split, blocks)])


def _summarise_captions(model: Hire, captions: CaptionBank) -> Tensor:
    blocks = show_progress(split_into_blocks(range(len(captions))), "summaries of captions")
    return torch.cat([block.summary for block in encode_text_blocks(model, captions, blocks)])

"""False captions of a training split: made and encoded once, and drawn for each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hire_model.batch import Negatives
from hire_model.data.loading import CaptionBank
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.settings import TrainSettings
from hire_model.training.caption_negatives import learn_words

log = logging.getLogger(__name__)
_MAKE_STREAM, _DRAW_STREAM = 3, 4  # independent of the streams in batches.py


@dataclass(frozen=True)
class NegativeBank:
    """One false caption of each of M captions, as far as a rule applies.

    bank   word pieces of the false captions, and their states from a frozen encoder
    rows   [M] int64, row of each caption's false caption in `bank`; -1 where no rule applied
    share  share of the captions that are drawn with their false caption
    seed   seed of the draws
    """

    bank: CaptionBank
    rows: np.ndarray
    share: float
    seed: int

    def draw(self, epoch: int, captions: Sequence[int]) -> Negatives | None:
        """Draw false captions for `captions`; they depend only on (seed, epoch, caption). None if there are none."""
        rngs = [np.random.default_rng([self.seed, _DRAW_STREAM, epoch, int(caption)]) for caption in captions]
        places = [
            place
            for place, (caption, rng) in enumerate(zip(captions, rngs, strict=True))
            if self.rows[caption] >= 0 and rng.random() < self.share
        ]
        if not places:
            return None
        return Negatives(self.bank.tokens([int(self.rows[captions[place]]) for place in places]), torch.tensor(places))


def build_negative_bank(model: Hire, texts: Sequence[str], settings: TrainSettings) -> NegativeBank | None:
    """Make and encode a false caption of each training caption in `texts`; None if train.negatives is 0.

    The false captions do not depend on train.seed, so that trainings with several seeds share the cached states.
    """
    if not settings.negatives:
        return None
    maker = learn_words(texts)
    changed: list[str] = []
    rows = np.full(len(texts), -1, np.int64)
    for caption, text in enumerate(texts):
        false = maker.make(text, np.random.default_rng([_MAKE_STREAM, caption]))
        if false is not None:
            rows[caption] = len(changed)
            changed.append(false)
    if not changed:
        log.warning("train.negatives has no effect: no rule applies to a training caption. The rules are for English.")
        return None
    return NegativeBank(build_caption_bank(model, changed), rows, settings.negatives, settings.seed)

"""Explain the score of a pair: which regions each word attends to, and how much the word adds to the score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, Regions, Tokens
from hire_model.model.hire import Hire
from hire_model.model.interaction import Side
from hire_model.model.layers import EPS
from hire_model.model.relations import RELATED_SHARE

MARKS = "[marks]"
"""The entry of an explanation for the start and end marks of the caption, added together."""


@dataclass(frozen=True)
class Explanation:
    """The explanation of one pair, with W entries: the words of the caption, then `MARKS`.

    Args:
        words: [W] the entries.
        weights: [W, regions] attention of each word over the regions; each row sums to 1.
        contributions: [W] the part of the score that each word adds; they sum to the score.
        score: the score of `Scorer.predict`.
    """

    words: list[str]
    weights: np.ndarray
    contributions: np.ndarray
    score: float


@torch.inference_mode()
def explain(model: Hire, regions: Regions, tokens: Tokens, text: str) -> Explanation:
    """Explain one image against one caption; `tokens` are the tokens of `text`."""
    return explain_encoded(model, model.encode_image(regions), tokens, text)


@torch.inference_mode()
def explain_encoded(model: Hire, images: EncodedImages, tokens: Tokens, text: str) -> Explanation:
    """Explain one encoded image against one caption; `tokens` are the tokens of `text`.

    For a fixed pooling, the score is linear in the unnormalised summary of the words and in their refined vectors.
    So it splits exactly into one part per word piece. The parts of a word's pieces are added.
    """
    texts = model.encode_text(tokens)
    v, t = (side[None] for side in model.prepare_sides(images, texts))
    parts = _split_pair_score(model, v, t)
    score = model.score(images, texts).total[0, 0]
    if model.settings.global_head:
        weight, (t_words, states) = model.settings.global_weight, model.encode_words(tokens)
        if model.towers is None:
            global_parts = _split_summary(t_words[0], tokens.mask[0], images.summary[0])
        else:
            global_parts = model.towers.split_summary(t_words[0], states[0], tokens.mask[0], images.summary[0])
            parts = model.towers.pair_gain * parts
        parts = (1 - weight) * parts + weight * global_parts
    cosine = model.interaction.compute_cosine(v, t)
    attention = model.interaction.attend_to_regions(cosine, v.mask)[0, 0, 0]  # [L, R]
    words, word_of_piece = model.vocabulary.split_words(text)
    count = len(words) + 1  # the marks have word -1 and become the last entry
    index = torch.tensor([len(words) if word < 0 else word for word in word_of_piece], device=parts.device)
    contributions = parts.new_zeros(count).index_add(0, index, parts)
    weights = attention.new_zeros(count, attention.shape[1]).index_add(0, index, attention)
    weights = weights / torch.bincount(index, minlength=count).clamp(min=1)[:, None]
    return Explanation([*words, MARKS], weights.cpu().numpy(), contributions.cpu().numpy(), float(score))


def _split_pair_score(model: Hire, v: Side, t: Side) -> Tensor:
    """Return what each word piece adds to the pair score S, [L]."""
    stage = model.interaction
    result = stage.interact(v, t)
    parts = []
    if stage.max_of_regions is not None:
        shares = None if v.shares is None else v.shares[0, 0]
        total, _ = _pool(result.regions[0, 0, 0], v.mask[0, 0], stage.max_of_regions, shares)
        parts.append(_split_summary(t.x[0, 0], t.mask[0, 0], total * _invert_norm(total)))
    if stage.max_of_words is not None:
        total, by_word = _pool(result.words[0, 0, 0], t.mask[0, 0], stage.max_of_words)
        parts.append(by_word @ v.summary[0, 0] * _invert_norm(total))
    if result.aligned is not None:
        parts.append(result.aligned[0, 0, 0])
    mean = sum(parts[1:], parts[0]) / len(parts)
    if stage.relations is not None and v.relations is not None and t.relations is not None:
        related = stage.relations.split_by_word(stage.compute_cosine(v, t), v.relations, t.relations, v.mask, t.mask)
        return mean + RELATED_SHARE * related
    return mean


def _split_summary(x: Tensor, mask: Tensor, against: Tensor) -> Tensor:
    """Split <unit(mean of x), against> over the fragments x [n, P]."""
    mean = (x * mask[:, None]).sum(dim=0) / mask.sum()
    return (x * mask[:, None]) @ against / mask.sum() * _invert_norm(mean)


def _pool(x: Tensor, mask: Tensor, max_weight: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean + max_weight * max of x, [P], and the part of each fragment in it, [n, P].

    `shares` [n] are the weights of the mean. A maximum counts for the fragment that has it.
    """
    largest, row = x.masked_fill(~mask[:, None], -torch.inf).max(dim=0)
    parts = x * (mask / mask.sum() if shares is None else shares)[:, None]
    parts = parts.scatter_add(0, row[None], (max_weight * largest)[None])
    return parts.sum(dim=0), parts


def _invert_norm(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().sum() + EPS)

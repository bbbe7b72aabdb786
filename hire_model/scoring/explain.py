"""Why a pair scored as it did: what each word looked at, and how much of the score each word brought."""

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

MARKS = "[marks]"  # what the start and end mark of a caption bring, as one entry


@dataclass(frozen=True)
class Explanation:
    """One pair.

    words          the caption's words, and last `MARKS`
    weights        [words, regions] attention of each word over the regions; each row sums to 1
    contributions  [words] the part of the score that each brought; their sum is the score
    score          what `Scorer.predict` says
    """

    words: list[str]
    weights: np.ndarray
    contributions: np.ndarray
    score: float


@torch.inference_mode()
def explain(model: Hire, regions: Regions, tokens: Tokens, text: str) -> Explanation:
    """Explain one image against one caption; `tokens` are those of `text`."""
    return explain_encoded(model, model.encode_image(regions), tokens, text)


@torch.inference_mode()
def explain_encoded(model: Hire, images: EncodedImages, tokens: Tokens, text: str) -> Explanation:
    """Explain one encoded image against one caption; `tokens` are those of `text`.

    The score is linear in the unnormalised summary of the words and in their refined vectors once the pooling is
    given, so it splits into one part per word piece exactly; the parts of a word's pieces are added up.
    """
    texts = model.encode_text(tokens)
    v, t = (side[None] for side in model.prepare_sides(images, texts))
    parts = _pair_parts(model, v, t)
    score = model.score(images, texts).total[0, 0]
    if model.settings.global_head:
        weight = model.settings.global_weight
        single = _summary_parts(model.encode_words(tokens)[0][0], tokens.mask[0], images.summary[0])
        parts = (1 - weight) * parts + weight * single
    attention = model.interaction.attend(model.interaction.compute_cosine(v, t), v.mask, t.mask)[1][0, 0]  # [L, R]
    words, owner = model.vocabulary.split_words(text)
    places = torch.tensor([len(words) if place < 0 else place for place in owner], device=parts.device)
    count = len(words) + 1
    sums = parts.new_zeros(count).index_add(0, places, parts)
    weights = attention.new_zeros(count, attention.shape[1]).index_add(0, places, attention)
    pieces = torch.bincount(places, minlength=count).clamp(min=1)
    return Explanation([*words, MARKS], (weights / pieces[:, None]).cpu().numpy(), sums.cpu().numpy(), float(score))


def _pair_parts(model: Hire, v: Side, t: Side) -> Tensor:
    """[L], what each word piece brings to the pair score S."""
    stage = model.interaction
    seen = stage.interact(v, t)
    parts = []
    if stage.max_of_regions is not None:
        total, _ = _pooled(seen.regions[0, 0, 0], v.mask[0, 0], stage.max_of_regions)
        parts.append(_summary_parts(t.x[0, 0], t.mask[0, 0], total * _inverse_norm(total)))
    if stage.max_of_words is not None:
        total, each = _pooled(seen.words[0, 0, 0], t.mask[0, 0], stage.max_of_words)
        parts.append(each @ v.summary[0, 0] * _inverse_norm(total))
    if seen.aligned is not None:
        parts.append(seen.aligned[0, 0, 0])
    mean = sum(parts[1:], parts[0]) / len(parts)
    if stage.relations is not None and v.relations is not None and t.relations is not None:
        related = stage.relations.split_by_word(stage.compute_cosine(v, t), v.relations, t.relations, v.mask, t.mask)
        return mean + RELATED_SHARE * related
    return mean


def _summary_parts(x: Tensor, mask: Tensor, against: Tensor) -> Tensor:
    """<unit(mean of x), against> split over the fragments x [n, P]."""
    mean = (x * mask[:, None]).sum(dim=0) / mask.sum()
    return (x * mask[:, None]) @ against / mask.sum() * _inverse_norm(mean)


def _pooled(x: Tensor, mask: Tensor, max_weight: Tensor) -> tuple[Tensor, Tensor]:
    """mean + max_weight * max [P], and the part [n, P] of it that each fragment is; a maximum belongs to its own."""
    largest, where = x.masked_fill(~mask[:, None], -torch.inf).max(dim=0)
    each = x * mask[:, None] / mask.sum()
    each = each.scatter_add(0, where[None], (max_weight * largest)[None])
    return each.sum(dim=0), each


def _inverse_norm(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().sum() + EPS)

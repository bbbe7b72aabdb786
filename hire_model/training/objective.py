"""From a batch to its loss: encode, score, compare. The one module that the engine wraps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hire_model.batch import Batch, EncodedImages, EncodedTexts
from hire_model.model.hire import Hire
from hire_model.settings import TrainSettings
from hire_model.training.distributed import Peers
from hire_model.training.losses import hinge, infonce

Rows = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Terms:
    """Loss of a batch, scalars: `loss` = `score`, which is of the final score, + train.global_loss * `globals`."""

    loss: Tensor
    score: Tensor
    globals: Tensor


def hard_pairs(globals_: Tensor, count: int) -> Tensor:
    """[B, B] bool: the true pairs, and for each image and each caption the `count` negatives that S_g ranks highest."""
    true = torch.eye(len(globals_), dtype=torch.bool, device=globals_.device)
    negatives = globals_.masked_fill(true, -torch.inf)
    chosen = true.scatter(1, negatives.topk(count, dim=1).indices, True)
    return chosen | torch.zeros_like(true).scatter(0, negatives.topk(count, dim=0).indices, True)


class Share:
    """This process's share of a batch, and how many captions each process has.

    Fabric would cast every float tensor of a batch to bf16 on the way into the model, boxes too; it does not look
    into an object that it does not know.
    """

    def __init__(self, batch: Batch, sizes: tuple[int, ...]) -> None:
        self.batch, self.sizes = batch, sizes


class Objective(nn.Module):
    """The loss of a model over the batch of all processes."""

    def __init__(self, model: Hire, settings: TrainSettings, peers: Peers) -> None:
        super().__init__()
        self.model, self.settings, self.peers = model, settings, peers

    def forward(self, share: Share, hardest: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The three `Terms`, the same in every process. `hardest`: see `losses.hinge`."""
        images = self.model.encode_image(share.batch.regions)
        texts = self.peers.texts(self.model.encode_text(share.batch.tokens), share.sizes)
        total, single = self._score(images, texts, share.sizes)
        rows = self.peers.rows
        terms = self.terms(rows(total, share.sizes), None if single is None else rows(single, share.sizes), hardest)
        return terms.loss, terms.score, terms.globals

    def _score(self, images: EncodedImages, texts: EncodedTexts, sizes: tuple[int, ...]) -> Rows:
        """Total and global scores [b, C] of own images and all captions; total is -inf where `train.mined` skips."""
        count = self.settings.mined
        if not count or count >= sum(sizes) - 1:
            scores = self.model.score(images, texts)
            return scores.total, scores.globals
        own = images.summary @ texts.summary.T
        every = self.peers.rows(own.detach(), sizes)
        first = sum(sizes[: self.peers.fabric.global_rank])
        image, text = hard_pairs(every, count)[first : first + len(own)].nonzero(as_tuple=True)
        chosen = self.model.score_pairs(images, texts, image, text)
        left_out = torch.full_like(own, -torch.inf, dtype=chosen.total.dtype)
        return left_out.index_put((image, text), chosen.total), None if chosen.globals is None else own

    def terms(self, total: Tensor, globals_: Tensor | None, hardest: bool) -> Terms:
        """The terms for squares of scores whose diagonals hold the true pairs, one caption for each image."""
        score = self._compare(total, hardest)
        if globals_ is None or not self.settings.global_loss:
            return Terms(score, score, torch.zeros_like(score))
        single = self._compare(globals_, hardest)
        return Terms(score + self.settings.global_loss * single, score, single)

    def stuck(self, size: int, hardest: bool) -> float:
        """`Terms.score` of a model that scores all pairs of a batch of `size` alike: it tells nothing apart."""
        scores, count = torch.zeros(size, size), self.settings.mined
        if count and count < size - 1:
            scores = scores.masked_fill(~hard_pairs(scores, count), -torch.inf)
        return float(self._compare(scores, hardest))

    def _compare(self, scores: Tensor, hardest: bool) -> Tensor:
        scores = scores.float()
        positive = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        if self.settings.loss == "infonce":
            return infonce(scores, positive, self.settings.temperature)
        return hinge(scores, positive, self.settings.margin, hardest)

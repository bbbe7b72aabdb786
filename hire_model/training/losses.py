"""Losses of a batch, and the module that computes them from images and captions.

Scores are square, [B, B]: row i is image i, column j is caption j, and caption i describes image i. The sampler puts
each image into a batch at most once, so all pairs off the diagonal are true negatives.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hire_model.batch import Batch, EncodedImages
from hire_model.model.hire import Hire
from hire_model.settings import TrainSettings
from hire_model.training.distributed import Peers

WINDOW = 50  # batches
_TOLERANCE = 0.01


class BatchShare:
    """One process's share of a batch, and the number of captions of each process.

    Not a dataclass on purpose: with bf16, Fabric casts all float tensors in the arguments of a module, including those
    in dataclasses, and boxes must stay float32. It does not look inside other classes.
    """

    def __init__(self, batch: Batch, sizes: tuple[int, ...]) -> None:
        self.batch, self.sizes = batch, sizes


class Objective(nn.Module):
    """Compute the loss of a model over the whole batch, in all processes."""

    def __init__(self, model: Hire, settings: TrainSettings, peers: Peers) -> None:
        super().__init__()
        self.model, self.settings, self.peers = model, settings, peers

    def forward(self, share: BatchShare, hardest: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return three scalars, the same in each process: loss, score_loss and global_loss.

        score_loss is the loss of the final score and global_loss that of the global head;
        loss = score_loss + train.global_loss * global_loss. For `hardest` see `hinge_loss`.
        """
        images = self.model.encode_image(share.batch.regions)  # the b images of this process
        texts = self.model.encode_text(share.batch.tokens)  # their b captions
        texts = self.peers.gather_texts(texts, share.sizes)  # all B captions of the batch
        scores = self.model.score(images, texts)  # [b, B]
        total = self.peers.gather_rows(scores.total, share.sizes)  # [B, B]
        score_loss = compute_loss(total, self.settings, hardest)
        if self.settings.negatives:
            own = scores.total[:, sum(share.sizes[: self.peers.rank]) :]  # columns of this process's captions first
            losses = self._compute_negative_losses(share.batch, images, own)  # [b]
            score_loss = score_loss + self.peers.gather_rows(losses, share.sizes).mean()
        if scores.globals is None or not self.settings.global_loss:
            return score_loss, score_loss, torch.zeros_like(score_loss)
        globals_ = self.peers.gather_rows(scores.globals, share.sizes)  # [B, B]
        global_loss = compute_loss(globals_, self.settings, hardest)
        return score_loss + self.settings.global_loss * global_loss, score_loss, global_loss


    def _compute_negative_losses(self, batch: Batch, images: EncodedImages, scores: Tensor) -> Tensor:
        """Return [b] the loss of each caption's false caption, 0 without one; `scores` [b, >= b], as in `forward`."""
        losses = scores.new_zeros(len(batch), dtype=torch.float32)
        if batch.negatives is None:
            return losses
        import os
        form, weight = os.environ.get("NEGFORM", "relative"), float(os.environ.get("NEGW", "1"))
        texts, caption = self.model.encode_text(batch.negatives.tokens), batch.negatives.caption
        row, other = torch.arange(len(texts), device=caption.device), (caption + 1) % len(batch)
        false = self.model.score_pairs(images, texts, caption.repeat(2), row.repeat(2)).total.float().view(2, -1)
        gap = scores[caption, caption] - false[0]
        if form == "plain":
            loss = nn.functional.softplus(-gap / self.settings.temperature)
        elif form == "relative":
            false = self.model.score_pairs(images, texts, torch.cat([caption, other]), row.repeat(2)).total.float().view(2, -1)
            gap = scores[caption, caption] - false[0]
            loss = nn.functional.softplus(-(gap - (scores[other, caption] - false[1])) / self.settings.temperature)
        elif form in ("reversed", "relrev"):
            import dataclasses
            r = batch.regions
            rev = dataclasses.replace(r, relations=r.relations[:, [0, 3, 2, 1]])
            im2 = self.model.encode_image(rev)
            tr = self.model.encode_text(batch.tokens)
            t2 = self.model.score_pairs(im2, tr, caption, caption).total.float()
            f2 = self.model.score_pairs(im2, texts, caption, row).total.float()
            loss = nn.functional.softplus(-(gap - (t2 - f2)) / self.settings.temperature)
            has = torch.bincount(r.relations[:, 0], minlength=len(batch))[caption] > 0
            loss = loss * has
            if form == "relrev":
                false = self.model.score_pairs(images, texts, torch.cat([caption, other]), row.repeat(2)).total.float().view(2, -1)
                gap = scores[caption, caption] - false[0]
                loss = loss + nn.functional.softplus(-(gap - (scores[other, caption] - false[1])) / self.settings.temperature)
        return losses.index_put((caption,), weight * loss.float())


def compute_loss(scores: Tensor, settings: TrainSettings, hardest: bool) -> Tensor:
    """Compute the loss selected by train.loss, in float32."""
    if settings.loss == "infonce":
        return infonce_loss(scores.float(), settings.temperature)
    return hinge_loss(scores.float(), settings.margin, hardest)


def hinge_loss(scores: Tensor, margin: float, hardest: bool) -> Tensor:
    """Compute the two-way hinge loss, averaged over the true pairs (VSE++, Faghri et al. 2018).

    With `hardest` only the highest-scoring negative of each row and column counts (eq. 6), otherwise the sum over all
    negatives (eq. 5). If all scores are equal, the hardest form is 2 * margin; a loss that stays at this value is a
    known way for training to collapse.
    """
    true = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    anchor = scores.diagonal()[:, None]
    to_captions = (margin + scores - anchor).clamp(min=0).masked_fill(true, 0)  # [B, B], a row per image
    to_images = (margin + scores.T - anchor).clamp(min=0).masked_fill(true, 0)  # [B, B], a row per caption
    if hardest:
        return (to_captions.amax(dim=1) + to_images.amax(dim=1)).mean()
    return (to_captions.sum(dim=1) + to_images.sum(dim=1)).mean()


def infonce_loss(scores: Tensor, temperature: float) -> Tensor:
    """Compute the symmetric cross-entropy over the batch (van den Oord et al. 2018, eq. 4)."""
    logits = scores / temperature
    anchor = logits.diagonal()
    return (_cross_entropy(logits, anchor) + _cross_entropy(logits.T, anchor)).mean() / 2


def _cross_entropy(logits: Tensor, anchor: Tensor) -> Tensor:
    """Return -log softmax [B] of the diagonal `anchor` [B] along the rows of `logits` [B, B]."""
    true = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    negatives = logits.masked_fill(true, float("-inf"))
    return torch.logsumexp(torch.cat([anchor[:, None], negatives], dim=1), dim=1) - anchor


@dataclass
class CollapseDetector:
    """Detect a collapsed training: the loss stays at the value of a model that gives all pairs the same score.

    With the hardest-negative hinge this value is 2 * margin: the model maps all inputs to one point, and the gradients
    of the hardest negatives keep it there.
    """

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    warned: bool = False

    def add(self, loss: float, collapsed_loss: float) -> bool:
        """Add a batch's loss. Return True once, after WINDOW batches in a row within 1 % of `collapsed_loss`."""
        self.ratios.append(loss / collapsed_loss)
        collapsed = len(self.ratios) == WINDOW and all(abs(ratio - 1) < _TOLERANCE for ratio in self.ratios)
        if collapsed and not self.warned:
            self.warned = True
            return True
        return False


def compute_collapsed_loss(settings: TrainSettings, size: int, hardest: bool) -> float:
    """Compute the loss of a model that gives all pairs of a batch of `size` the same score."""
    return float(compute_loss(torch.zeros(size, size), settings, hardest))


def format_collapse_warning(loss: str, collapsed_loss: float) -> str:
    """Return the warning about a collapsed training; `loss` is train.loss."""
    remedies = "lower train.lr, a longer train.warmup"
    if loss == "hinge":
        remedies += ", a larger train.sum_epochs (epochs over all negatives first), or train.loss=infonce"
    return (
        f"warning: training has collapsed: the loss has been {collapsed_loss:.3f} for {WINDOW} batches, the value of a "
        f"model that gives all pairs the same score. Start again with one of: {remedies}."
    )

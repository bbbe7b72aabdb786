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
from hire_model.data.boxes import label_spatial_relations
from hire_model.model.hire import Hire
from hire_model.model.implicit_edges import mark_pairs
from hire_model.settings import TrainSettings
from hire_model.training.distributed import Peers

WINDOW = 50  # batches
_TOLERANCE = 0.01
# Weight of the loss of implicit edges. No other loss trains their weights, so AdamW makes the same steps for any value;
# a small one leaves the clipping of the gradient to the other losses.
EDGE_LOSS = 0.1


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

        score_loss is the loss of the final score and global_loss that of the global head. loss = score_loss +
        train.global_loss * global_loss + train.negative_loss * the mean `negative_loss` of the captions + EDGE_LOSS *
        the loss of implicit edges, where the model and the settings have them. For `hardest` see `hinge_loss`.
        """
        images = self.model.encode_image(share.batch.regions)  # the b images of this process
        texts = self.model.encode_text(share.batch.tokens)  # their b captions
        texts = self.peers.gather_texts(texts, share.sizes)  # all B captions of the batch
        scores = self.model.score(images, texts)  # [b, B]
        total = self.peers.gather_rows(scores.total, share.sizes)  # [B, B]
        score_loss = compute_loss(total, self.settings, hardest)
        loss, global_loss = score_loss, torch.zeros_like(score_loss)
        if scores.globals is not None and self.settings.global_loss:
            globals_ = self.peers.gather_rows(scores.globals, share.sizes)  # [B, B]
            global_loss = compute_loss(globals_, self.settings, hardest)
            loss = loss + self.settings.global_loss * global_loss
        if self.settings.negatives:
            first = sum(share.sizes[: self.peers.rank])
            own = scores.total[:, first : first + len(share.batch)]  # [b, b]: without the captions of other processes
            losses = self._compute_negative_losses(share.batch, images, own)
            loss = loss + self.settings.negative_loss * self.peers.gather_rows(losses, share.sizes).mean()
        if self.model.implicit_edges is not None:
            loss = loss + EDGE_LOSS * compute_edge_loss(self.model, share.batch)
        return loss, score_loss, global_loss

    def _compute_negative_losses(self, batch: Batch, images: EncodedImages, scores: Tensor) -> Tensor:
        """Return [b], the `negative_loss` of each caption; 0 for a caption without a false caption.

        `scores` [b, b] are those of the images and captions of this process. The other image of a caption is the next
        one in the batch of this process.
        """
        losses = scores.new_zeros(len(batch), dtype=torch.float32)
        if batch.negatives is None:
            return losses
        false, caption = self.model.encode_text(batch.negatives.tokens), batch.negatives.caption
        other, row = (caption + 1) % len(batch), torch.arange(len(false.mask), device=caption.device)
        pairs = self.model.score_pairs(images, false, torch.cat([caption, other]), row.repeat(2))
        own_false, other_false = pairs.total.chunk(2)
        gap, other_gap = scores[caption, caption] - own_false, scores[other, caption] - other_false
        return losses.index_put((caption,), negative_loss(gap.float(), other_gap.float(), self.settings))


def compute_edge_loss(model: Hire, batch: Batch) -> Tensor:
    """Compute the cross-entropy of the predicted edges, averaged over pairs of regions; semantic and spatial are added.

    The labels are the relations before damage, and the spatial relations of the boxes. Each of the relations of a pair
    is a label.
    """
    predicted, regions = model.predict_edges(batch.regions), batch.regions
    relations = regions.relations if batch.true_relations is None else batch.true_relations
    image, subject, predicate, object_ = relations.unbind(1)
    pairs = mark_pairs(regions.mask)
    kept = pairs[image, subject, object_]  # both regions are still there
    image, subject, predicate, object_ = (x[kept] for x in (image, subject, predicate, object_))
    logs = predicted.semantic.log_softmax(dim=-1)
    unrelated = pairs.index_put((image, subject, object_), pairs.new_zeros(()))
    semantic = logs[image, subject, object_].gather(1, predicate[:, None]).sum() + logs[..., -1][unrelated].sum()
    loss = -semantic / (len(image) + unrelated.sum()).clamp(min=1)
    boxed = pairs & regions.boxed[:, :, None] & regions.boxed[:, None]
    labels = label_spatial_relations(regions.boxes)[boxed] % predicted.spatial.shape[-1]  # -1, for none, is the last
    return loss + nn.functional.cross_entropy(predicted.spatial[boxed], labels) if len(labels) else loss


def compute_loss(scores: Tensor, settings: TrainSettings, hardest: bool) -> Tensor:
    """Compute the loss selected by train.loss, in float32."""
    if settings.loss == "infonce":
        return infonce_loss(scores.float(), settings.temperature)
    return hinge_loss(scores.float(), settings.margin, hardest)


def negative_loss(gap: Tensor, other_gap: Tensor, settings: TrainSettings) -> Tensor:
    """Compute the losses [n] of false captions: with its own image, a caption must win by more than with another image.

    The form is the hinge or, with infonce, the logistic loss of the difference `gap - other_gap`. A model that only
    recognises unusual sentences has the same gap with every image, and gains nothing.

    Args:
        gap: [n] score of the own image and the caption, minus its score with the false caption.
        other_gap: [n] the same difference with another image.
        settings: loss, margin and temperature.
    """
    difference = gap - other_gap
    if settings.loss == "infonce":
        return nn.functional.softplus(-difference / settings.temperature)
    return (settings.margin - difference).clamp(min=0)


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

"""Losses of a batch, and the module that computes them from its images and captions.

Scores are squares [B, B]: row i is image i, column j is caption j, and caption i describes image i. The sampler puts
each image into a batch at most once, so the pairs off the diagonal are true negatives: no caption of the same image is
among them, however many captions an image has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hire_model.batch import Batch
from hire_model.model.hire import Hire
from hire_model.settings import TrainSettings
from hire_model.training.distributed import Peers

WINDOW = 50
_NEAR = 0.01


class Share:
    """One process's share of a batch, and the number of captions of each process.

    Fabric casts every float tensor that it finds in the arguments of a module to bf16, boxes too. It does not look into
    an object of a class that it does not know.
    """

    def __init__(self, batch: Batch, sizes: tuple[int, ...]) -> None:
        self.batch, self.sizes = batch, sizes


class Objective(nn.Module):
    """The loss of a model over the batch of all processes."""

    def __init__(self, model: Hire, settings: TrainSettings, peers: Peers) -> None:
        super().__init__()
        self.model, self.settings, self.peers = model, settings, peers

    def forward(self, share: Share, hardest: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return three scalars, the same in every process: loss = score_loss + train.global_loss * global_loss.

        score_loss is of the final score, global_loss of the global head. `hardest`: see `hinge_loss`.
        """
        images = self.model.encode_image(share.batch.regions)  # the b images of this process
        texts = self.model.encode_text(share.batch.tokens)  # their b captions
        texts = self.peers.gather_texts(texts, share.sizes)  # all B captions of the batch
        scores = self.model.score(images, texts)  # [b, B]
        total = self.peers.gather_rows(scores.total, share.sizes)  # [B, B]
        score_loss = compute_loss(total, self.settings, hardest)
        if scores.globals is None or not self.settings.global_loss:
            return score_loss, score_loss, torch.zeros_like(score_loss)
        globals_ = self.peers.gather_rows(scores.globals, share.sizes)  # [B, B]
        global_loss = compute_loss(globals_, self.settings, hardest)
        return score_loss + self.settings.global_loss * global_loss, score_loss, global_loss


def compute_loss(scores: Tensor, settings: TrainSettings, hardest: bool) -> Tensor:
    """Return the loss that train.loss names, in float32."""
    if settings.loss == "infonce":
        return infonce_loss(scores.float(), settings.temperature)
    return hinge_loss(scores.float(), settings.margin, hardest)


def hinge_loss(scores: Tensor, margin: float, hardest: bool) -> Tensor:
    """Two-way hinge, averaged over the true pairs (VSE++, Faghri et al. 2018, eq. 6; the sum form is eq. 5).

    hardest: only the highest-scoring negative of each row and each column counts; otherwise all of them are added up.
    With all scores equal the hardest form is 2 * margin. A loss that stays there is the known collapse.
    """
    true = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    anchor = scores.diagonal()[:, None]
    to_captions = (margin + scores - anchor).clamp(min=0).masked_fill(true, 0)  # [B, B], a row per image
    to_images = (margin + scores.T - anchor).clamp(min=0).masked_fill(true, 0)  # [B, B], a row per caption
    if hardest:
        return (to_captions.amax(dim=1) + to_images.amax(dim=1)).mean()
    return (to_captions.sum(dim=1) + to_images.sum(dim=1)).mean()


def infonce_loss(scores: Tensor, temperature: float) -> Tensor:
    """Symmetric cross-entropy over the batch (van den Oord et al. 2018, eq. 4)."""
    logits = scores / temperature
    anchor = logits.diagonal()
    return (_cross_entropy(logits, anchor) + _cross_entropy(logits.T, anchor)).mean() / 2


def _cross_entropy(logits: Tensor, anchor: Tensor) -> Tensor:
    """[B], -log softmax of the diagonal `anchor` [B] along the rows of `logits` [B, B]."""
    true = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    negatives = logits.masked_fill(true, float("-inf"))
    return torch.logsumexp(torch.cat([anchor[:, None], negatives], dim=1), dim=1) - anchor


@dataclass
class CollapseWatch:
    """Detects that the final score's loss stays at the value of a model that scores all pairs alike.

    For the hardest-negative hinge that is 2 * margin: the model maps everything to one point, and the hardest negatives
    keep it there.
    """

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    warned: bool = False

    def add(self, loss: float, stuck: float) -> bool:
        """Add one batch's loss. Return True once, when WINDOW batches in a row were within 1 % of `stuck`."""
        self.ratios.append(loss / stuck)
        collapsed = len(self.ratios) == WINDOW and all(abs(ratio - 1) < _NEAR for ratio in self.ratios)
        if collapsed and not self.warned:
            self.warned = True
            return True
        return False


def compute_stuck_loss(settings: TrainSettings, size: int, hardest: bool) -> float:
    """Return the loss of a model that scores all pairs of a batch of `size` alike."""
    return float(compute_loss(torch.zeros(size, size), settings, hardest))


def advise_on_collapse(loss: str, stuck: float) -> str:
    """Return the warning for a collapsed training; `loss` is train.loss."""
    ways = "lower train.lr, a longer train.warmup"
    if loss == "hinge":
        ways += ", a larger train.sum_epochs (epochs over all negatives first), or train.loss=infonce"
    return (
        f"warning: the loss has stayed at {stuck:.3f} for {WINDOW} batches, the value of a model that scores all pairs "
        f"alike: training has collapsed. Start again with one of: {ways}."
    )

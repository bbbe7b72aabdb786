"""Two published models on our data layer: VSE-infinity's pooling and SCAN's attention, written from their papers.

Both keep our stage 1 and stage 2, so that the closed-form start, box positions, dropout and optimizer groups are those
of our own rows. They replace only what turns regions and words into a score.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hire_model.batch import EncodedImages, EncodedTexts, Regions, Scores, Tokens
from hire_model.model.hire import Hire
from hire_model.model.interaction import Interaction, Side
from hire_model.model.layers import make_linear, masked_mean, normalize

_SIZE = 32  # of position codes and GRU states, as in the paper
_SHARPNESS = 10.0  # of the softmax over positions, as in the paper


class GPO(nn.Module):
    """Generalised pooling operator (VSE-infinity, Chen et al. 2021, section 3): a learned weight per sorted position.

    The values of each dimension are sorted over the fragments. A GRU over position codes computes the weights. The
    last map starts at zero, so pooling starts as the mean, which the closed-form start expects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(_SIZE, _SIZE, batch_first=True, bidirectional=True)
        self.out = make_linear(_SIZE, 1, gain=0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool x [B, n, D] over the fragments that mask [B, n] marks; return [B, D]."""
        lengths, index = mask.sum(dim=1).unique(return_inverse=True)
        weights = x.new_zeros(len(lengths), mask.shape[1])
        for row, length in enumerate(lengths.tolist()):
            weights[row, :length] = self.weigh_positions(length, x.device)
        largest_first = x.masked_fill(~mask[..., None], float("-inf")).sort(dim=1, descending=True).values
        return (largest_first.masked_fill(largest_first.isinf(), 0) * weights[index][..., None]).sum(dim=1)

    def weigh_positions(self, length: int, device: torch.device) -> Tensor:
        """Return the weights [length] of the sorted positions; they add up to 1."""
        states = self.gru(encode_positions(length).to(device)[None])[0][0]  # [length, 2 * _SIZE]
        scores = self.out((states[:, :_SIZE] + states[:, _SIZE:]) / 2)[:, 0]
        return torch.softmax(_SHARPNESS * scores, dim=0)


def encode_positions(length: int) -> Tensor:
    """Return sine and cosine codes [length, _SIZE] of the positions (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, _SIZE, 2) * (-math.log(10_000.0) / _SIZE))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class GPOModel(Hire):
    """VSE-infinity: the cosine of one pooled vector per image and one per caption. Needs model.pair_dim=0."""

    def build(self) -> None:
        """Add the pooling of both sides."""
        self.pool_regions, self.pool_words = GPO(), GPO()

    def encode_image(self, regions: Regions) -> EncodedImages:
        """Encode images; the summary is the pooled vector."""
        images = super().encode_image(regions)
        return EncodedImages(images.regions, images.mask, normalize(self.pool_regions(images.regions, images.mask)))

    def encode_text(self, tokens: Tokens) -> EncodedTexts:
        """Encode captions; the summary is the pooled vector."""
        texts = super().encode_text(tokens)
        return EncodedTexts(texts.words, texts.mask, normalize(self.pool_words(texts.words, texts.mask)))

    def score(self, images: EncodedImages, texts: EncodedTexts) -> Scores:
        """Return the cosines [B, C] of the summaries."""
        scores = images.summary @ texts.summary.T
        return Scores(scores, scores, None)


class SCANInteraction(Interaction):
    """SCAN t2i (Lee et al. 2018, section 3.1): mean cosine of each word and the regions that it attends to."""

    def forward(self, images: Side, texts: Side) -> Tensor:
        """Score images [G, B] against texts [G, C]: [G, B, C]."""
        over_regions = self.attend_to_regions(self.compute_cosine(images, texts), images.mask)
        attended = over_regions.flatten(2, 3) @ images.directions
        attended = attended.unflatten(2, texts.mask.shape[1:])  # [G, B, C, L, P]
        similarity = (normalize(attended) * texts.directions[:, None]).sum(dim=-1, keepdim=True)
        return masked_mean(similarity, texts.mask[:, None].expand(similarity.shape[:-1]))[..., 0]


class SCANModel(Hire):
    """SCAN t2i. Needs model.global_head=false, because the published model has no global score."""

    def build(self) -> None:
        """Replace the pair stages."""
        self.interaction = SCANInteraction(self.settings, kinds=0)


PEERS: dict[str, type[GPOModel | SCANModel]] = {"GPO": GPOModel, "SCAN": SCANModel}


def make_peer(name: str, started: Hire) -> Hire:
    """Return the peer `name` with the projections of `started`, a base model after its closed-form start."""
    config = started.text.encoder.config.to_dict() if hasattr(started.text, "encoder") else None
    peer = PEERS[name](started.settings, started.feature_dim, started.predicates, started.vocabulary, config)
    peer.build()
    peer.load_state_dict(started.state_dict(), strict=False)
    return peer.to(next(started.parameters()).device)

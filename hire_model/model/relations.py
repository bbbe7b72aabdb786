"""The relations of a caption against the relations of an image, a part of stage 8 (ours, not in the description).

Stage 4 tells a region who its neighbours are, and a sum then forgets who was on which side: "the boy holds the ball"
and "the ball is behind the boy" end near each other. Here a caption says of each two of its words how they are
related, as a biaffine parser does (Dozat and Manning 2017, eq. 2, without the bias); attention lays the words on the
regions; and the score is how much of what the caption says runs along the image's edges.

    u_kr = sum_j a_jr h_kj    w_ks = sum_j a_js p_kj    S_rel = tanh( 1/(L sqrt d) sum_krs A_k[r, s] <u_kr, w_ks> )

a_jr attention of word j over the regions, h_kj and p_kj [d] what word j is as the first and as the second end of a
relation of kind k, A_k the graphs of stage 4. Nothing is said at first: p is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hire_model.model.layers import make_linear

SIZE = 16  # d
RELATED_SHARE = 0.5  # of S_rel in S: added to the other parts, which are as they were as long as it says nothing
SHARPNESS = 15.0  # of the attention at first: a role belongs to one region, not to a mean of regions


class RelationRoles(nn.Module):
    """h and p of each word, once per caption: the encoder's states [C, L, H] -> [C, L, 2 * K * d]."""

    def __init__(self, states: int, kinds: int) -> None:
        super().__init__()
        self.width = 2 * kinds * SIZE
        self.first = make_linear(states, kinds * SIZE)
        self.second = make_linear(states, kinds * SIZE, gain=0)

    def forward(self, states: Tensor) -> Tensor:
        """[C, L, 2 * K * d]."""
        return torch.cat([self.first(states), self.second(states)], dim=-1)


class RelationMatch(nn.Module):
    """S_rel of groups of images and captions, shaped as in hire_model/model/interaction.py."""

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.kinds = kinds
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(self, cosine: Tensor, edges: Tensor, roles: Tensor, v_mask: Tensor, t_mask: Tensor) -> Tensor:
        """S_rel [G, B, C] in -1..1.

        cosine [G, C*L, B*R] of words and regions, edges [G, B, K, R, R], roles [G, C, L, 2Kd], v_mask [G, B, R],
        t_mask [G, C, L].
        """
        first, second = self._attend_ends(cosine, roles, v_mask, t_mask)
        along = (edges @ second.flatten(4)).view_as(second)
        return torch.tanh((first * along).sum(dim=(2, 3, 5)) * _scale_by_length(t_mask)[:, None])

    def split_by_word(self, cosine: Tensor, edges: Tensor, roles: Tensor, v_mask: Tensor, t_mask: Tensor) -> Tensor:
        """[L], the part of S_rel that each word brings, for a single pair (G = B = C = 1); their sum is S_rel.

        Half of what two words say of each other belongs to each of them.
        """
        ends = self._attend_ends(cosine, roles, v_mask, t_mask)
        first, second = (end[0, 0, :, :, 0] for end in ends)  # [K, R, d]
        laid = self.attend(cosine, v_mask, t_mask)[0, 0, :, 0]  # [L, R]
        own = (roles[0, 0] * t_mask[0, 0, :, None]).unflatten(1, (2, self.kinds, SIZE))
        heard = torch.stack([edges[0, 0] @ second, edges[0, 0].transpose(1, 2) @ first])  # by first and second ends
        parts = torch.einsum("lr,lekd,ekrd->l", laid, own, heard) * _scale_by_length(t_mask)[0, 0] / 2
        total = parts.sum()
        return parts * torch.where(total.abs() > 1e-6, torch.tanh(total) / total, torch.ones_like(total))

    def attend(self, cosine: Tensor, v_mask: Tensor, t_mask: Tensor) -> Tensor:
        """a [G, C, L, B, R]: where in each image each word belongs; rows sum to 1 over R."""
        scores = (self.sharpness * cosine).view(*t_mask.shape, *v_mask.shape[1:])
        return scores.masked_fill(~v_mask[:, None, None], float("-inf")).softmax(dim=-1)

    def _attend_ends(self, cosine: Tensor, roles: Tensor, v_mask: Tensor, t_mask: Tensor) -> tuple[Tensor, Tensor]:
        """u and w, each [G, B, K, R, C, d]."""
        spread = self.attend(cosine, v_mask, t_mask).flatten(3).transpose(2, 3)  # [G, C, B*R, L]
        laid = spread @ (roles * t_mask[..., None])  # [G, C, B*R, 2Kd]
        laid = laid.view(*laid.shape[:2], *v_mask.shape[1:], 2, self.kinds, SIZE)
        first, second = laid.permute(4, 0, 2, 5, 3, 1, 6)
        return first, second


def _scale_by_length(t_mask: Tensor) -> Tensor:
    """1 / (L sqrt d) of each caption [G, C]."""
    return 1 / (t_mask.sum(dim=-1).clamp(min=1) * SIZE**0.5)

"""Relation match, a part of stage 8: relations of the caption against edges of the image (ours, not in the paper).

Stage 4 adds the neighbours of a region, and the sum loses which region was the subject: "the boy holds the ball" and
"the ball is behind the boy" get similar scores. Here each pair of words has a relation vector, as in a biaffine parser
(Dozat and Manning 2017, eq. 2, without the bias). Attention maps words to regions, and the score measures how well the
relations of the caption fit the edges of the image:

    u_kr = sum_j a_jr h_kj    w_ks = sum_j a_js p_kj    S_rel = tanh( 1/(L sqrt d) sum_krs A_k[r, s] <u_kr, w_ks> )

a_jr is the attention of word j over regions; h_kj and p_kj [d] are the role vectors of word j as first end (subject)
and second end (object) of a relation of kind k; A_k are the graphs of stage 4. p is initialised to zero, so S_rel is
zero before training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hire_model.model.layers import make_linear, mask_out

SIZE = 16  # d
RELATED_SHARE = 0.5  # weight of S_rel in S, where it is added to the mean of the other parts
SHARPNESS = 15.0  # initial scale of the attention: high, so that a role goes to one region, not to a mean of regions


class RelationRoles(nn.Module):
    """Role vectors h and p of each word, computed once per caption.

    Args:
        states: H, size of the text encoder's states.
        kinds: K, edge maps of the graphs.
    """

    def __init__(self, states: int, kinds: int) -> None:
        super().__init__()
        self.width = 2 * kinds * SIZE
        self.first = make_linear(states, kinds * SIZE)
        self.second = make_linear(states, kinds * SIZE, gain=0)

    def forward(self, states: Tensor) -> Tensor:
        """Map states [C, L, H] to roles [C, L, 2Kd]."""
        return torch.cat([self.first(states), self.second(states)], dim=-1)


class RelationMatch(nn.Module):
    """S_rel of groups of images and captions, shaped as in hire_model/model/interaction.py.

    All methods share these arguments:

    - cosine: [G, B, C, L, R] of words and regions
    - edges: [G, B, K, R, R]
    - roles: [G, C, L, 2Kd]
    - v_mask: [G, B, R] and t_mask: [G, C, L], bool
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.kinds = kinds
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(self, cosine: Tensor, edges: Tensor, roles: Tensor, v_mask: Tensor, t_mask: Tensor) -> Tensor:
        """Return S_rel [G, B, C] in -1..1.

        The sum is ordered so that no tensor has a vector per region: with M_k[j, i] = <h_kj, p_ki> it is
        sum_kjs (sum_i M_k[j, i] a_is) (sum_r a_jr A_k[r, s]).
        """
        attention = self.attend(cosine, v_mask)
        products = self.multiply_roles(roles, t_mask).transpose(2, 3)  # M [G, C, L, K, L]
        by_caption = attention.permute(0, 2, 3, 1, 4)  # [G, C, L, B, R]
        second_ends = (products.flatten(2, 3) @ by_caption.flatten(3)).unflatten(2, products.shape[2:4])
        second_ends = second_ends.unflatten(4, by_caption.shape[3:])  # [G, C, L, K, B, R]
        second_ends = second_ends.permute(0, 4, 1, 2, 3, 5).flatten(4).flatten(2, 3)  # [G, B, C*L, K*R]
        first_ends = second_ends @ edges.transpose(3, 4).flatten(2, 3)  # [G, B, C*L, R]
        total = (first_ends.view_as(attention) * attention).sum(dim=(3, 4))
        return torch.tanh(total * _scale_by_length(t_mask)[:, None])

    def split_by_word(self, cosine: Tensor, edges: Tensor, roles: Tensor, v_mask: Tensor, t_mask: Tensor) -> Tensor:
        """Return each word's part of S_rel [L] for a single pair (G = B = C = 1). The parts add up to S_rel.

        The product of two words' roles is divided equally between them.
        """
        attention = self.attend(cosine, v_mask)[0, 0, 0]  # [L, R]
        word_roles = torch.stack(self._split_roles(roles, t_mask))[:, 0, 0]  # [2, L, K, d]
        first, second = torch.einsum("lr,elkd->ekrd", attention, word_roles)  # u and w, [K, R, d]
        # What the first ends are multiplied with, and what the second ends are multiplied with.
        factors = torch.stack([edges[0, 0] @ second, edges[0, 0].transpose(1, 2) @ first])
        parts = torch.einsum("lr,elkd,ekrd->l", attention, word_roles, factors) * _scale_by_length(t_mask)[0, 0] / 2
        total = parts.sum()
        return parts * torch.where(total.abs() > 1e-6, torch.tanh(total) / total, torch.ones_like(total))

    def attend(self, cosine: Tensor, v_mask: Tensor) -> Tensor:
        """Return a [G, B, C, L, R], the attention of words over regions; rows sum to 1 over R."""
        return mask_out(self.sharpness * cosine, v_mask[:, :, None, None]).softmax(dim=-1)

    def multiply_roles(self, roles: Tensor, t_mask: Tensor) -> Tensor:
        """Return M [G, C, K, L, L], the products <h_kj, p_ki> of the roles of words j and i, zero where padded."""
        first, second = self._split_roles(roles, t_mask)
        return first.transpose(2, 3) @ second.permute(0, 1, 3, 4, 2)

    def _split_roles(self, roles: Tensor, t_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return h and p, each [G, C, L, K, d], zero where padded."""
        first, second = (roles * t_mask[..., None]).unflatten(3, (2, self.kinds, SIZE)).unbind(3)
        return first, second


def _scale_by_length(t_mask: Tensor) -> Tensor:
    """Return 1 / (L sqrt d) of each caption [G, C]."""
    return 1 / (t_mask.sum(dim=-1).clamp(min=1) * SIZE**0.5)

"""The caption's relations along the image's edges: against the formula, word by word, and with the ends exchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_examples import caption, image, model, regions, tokens

from hire_model.model.relations import SIZE, RelationMatch
from hire_model.scoring.explain import explain
from hire_model.settings import resolve


def _sample(seed: int, kinds: int = 3, b: int = 2, c: int = 3, r: int = 4, n: int = 5) -> tuple[torch.Tensor, ...]:
    """cosine, edges, roles, v_mask, t_mask of one group, with padding."""
    g = torch.Generator().manual_seed(seed)
    v_mask, t_mask = torch.rand(1, b, r, generator=g) < 0.8, torch.rand(1, c, n, generator=g) < 0.8
    v_mask[..., 0], t_mask[..., 0] = True, True
    edges = torch.randn(1, b, kinds, r, r, generator=g) * (v_mask[:, :, None, :, None] & v_mask[:, :, None, None])
    return (
        torch.rand(1, c * n, b * r, generator=g) * 2 - 1,
        edges,
        torch.randn(1, c, n, 2 * kinds * SIZE, generator=g),
        v_mask,
        t_mask,
    )


@given(st.integers(0, 10_000))
def test_it_is_the_formula(seed: int) -> None:
    cosine, edges, roles, v_mask, t_mask = _sample(seed)
    match = RelationMatch(3)
    found = match(cosine, edges, roles, v_mask, t_mask)
    a = cosine.view(3, 5, 2, 4) * match.sharpness
    for b in range(2):
        for c in range(3):
            weights = a[c, :, b].masked_fill(~v_mask[0, b], -torch.inf).softmax(dim=-1) * t_mask[0, c, :, None]
            h, p = roles[0, c].view(5, 2, 3, SIZE).unbind(1)  # [L, K, d]
            u, w = (torch.einsum("lr,lkd->krd", weights, ends) for ends in (h, p))
            total = torch.einsum("krs,krd,ksd->", edges[0, b], u, w) / (t_mask[0, c].sum() * SIZE**0.5)
            assert torch.allclose(found[0, b, c], torch.tanh(total), atol=1e-4)


@given(st.integers(0, 10_000))
def test_the_words_parts_add_up(seed: int) -> None:
    sample = _sample(seed, b=1, c=1)
    match = RelationMatch(3)
    parts = match.by_word(*sample)
    assert torch.allclose(parts.sum(), match(*sample)[0, 0, 0], atol=1e-4)
    assert not parts[~sample[-1][0, 0]].any()


def test_it_says_nothing_at_first_and_nothing_of_an_image_without_edges() -> None:
    cosine, edges, roles, v_mask, t_mask = _sample(0)
    match = RelationMatch(3)
    half = roles.shape[-1] // 2
    silent = torch.cat([roles[..., :half], torch.zeros_like(roles[..., half:])], dim=-1)
    assert not match(cosine, edges, silent, v_mask, t_mask).any()
    assert not match(cosine, torch.zeros_like(edges), roles, v_mask, t_mask).any()


def test_exchanged_ends_change_the_score() -> None:
    """What the sums of stages 4 to 7 hardly see: subject and object of one relation have changed places."""
    random = np.random.default_rng(0)
    there = dataclasses.replace(
        image(random, regions=4, relations=1),
        relations=np.array([[0, 0, 1]], np.int32),
        relation_scores=np.ones(1, np.float32),
    )
    back = dataclasses.replace(there, relations=np.array([[1, 0, 0]], np.int32))
    hire = model()
    said = hire.encode_text(tokens(hire, [caption(random) for _ in range(8)]))
    with torch.inference_mode():
        scores = hire.score(hire.encode_image(regions([there, back])), said).pair
    assert ((scores[0] - scores[1]).abs() > 1e-4).all()


def test_an_explanation_still_splits_the_score() -> None:
    random, hire = np.random.default_rng(1), model()
    text = "a man holds a red ball"
    why = explain(hire, regions([image(random, regions=5)]), tokens(hire, [text]), text)
    assert abs(why.contributions.sum() - why.score) < 1e-5


def test_it_rests_without_a_graph() -> None:
    assert "model.relation_match" in resolve(None, {"model.graphs": "none"}, {}).settings.model.inactive_stages
    assert model(graphs="none").roles is None

"""The relation match equals its formula, splits into words, and depends on the order of subject and object."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hire_model.model.relations import SIZE, RelationMatch
from hire_model.scoring.explain import explain
from hire_model.settings import resolve


def make_group(seed: int, kinds: int = 3, b: int = 2, c: int = 3, r: int = 4, n: int = 5) -> tuple[torch.Tensor, ...]:
    """Return cosine, edges, roles, v_mask and t_mask of one group, with padding."""
    g = torch.Generator().manual_seed(seed)
    v_mask, t_mask = torch.rand(1, b, r, generator=g) < 0.8, torch.rand(1, c, n, generator=g) < 0.8
    v_mask[..., 0], t_mask[..., 0] = True, True
    edges = torch.randn(1, b, kinds, r, r, generator=g) * (v_mask[:, :, None, :, None] & v_mask[:, :, None, None])
    return (
        torch.rand(1, b, c, n, r, generator=g) * 2 - 1,
        edges,
        torch.randn(1, c, n, 2 * kinds * SIZE, generator=g),
        v_mask,
        t_mask,
    )


@given(st.integers(0, 10_000))
def test_the_relation_match_equals_its_formula(seed: int) -> None:
    cosine, edges, roles, v_mask, t_mask = make_group(seed)
    match = RelationMatch(3)
    scores = match(cosine, edges, roles, v_mask, t_mask)
    a = cosine[0] * match.sharpness
    for b in range(2):
        for c in range(3):
            weights = a[b, c].masked_fill(~v_mask[0, b], -torch.inf).softmax(dim=-1) * t_mask[0, c, :, None]
            h, p = roles[0, c].view(5, 2, 3, SIZE).unbind(1)  # [L, K, d]
            u, w = (torch.einsum("lr,lkd->krd", weights, ends) for ends in (h, p))
            total = torch.einsum("krs,krd,ksd->", edges[0, b], u, w) / (t_mask[0, c].sum() * SIZE**0.5)
            assert torch.allclose(scores[0, b, c], torch.tanh(total), atol=1e-4)


@given(st.integers(0, 10_000))
def test_the_parts_of_the_words_add_up_to_the_relation_match(seed: int) -> None:
    group = make_group(seed, b=1, c=1)
    match = RelationMatch(3)
    parts = match.split_by_word(*group)
    assert torch.allclose(parts.sum(), match(*group)[0, 0, 0], atol=1e-4)
    assert not parts[~group[-1][0, 0]].any()


def test_the_relation_match_is_zero_before_training_and_without_edges() -> None:
    cosine, edges, roles, v_mask, t_mask = make_group(0)
    match = RelationMatch(3)
    half = roles.shape[-1] // 2
    untrained = torch.cat([roles[..., :half], torch.zeros_like(roles[..., half:])], dim=-1)
    assert not match(cosine, edges, untrained, v_mask, t_mask).any()
    assert not match(cosine, torch.zeros_like(edges), roles, v_mask, t_mask).any()


def test_exchanging_subject_and_object_changes_the_score() -> None:
    random = np.random.default_rng(0)
    forward = dataclasses.replace(
        model_examples.make_image(random, regions=4, relations=1),
        relations=np.array([[0, 0, 1]], np.int32),
        relation_scores=np.ones(1, np.float32),
    )
    backward = dataclasses.replace(forward, relations=np.array([[1, 0, 0]], np.int32))
    model = model_examples.make_model()
    captions = [model_examples.make_caption(random) for _ in range(8)]
    with torch.inference_mode():
        texts = model.encode_text(model_examples.make_tokens(model, captions))
        scores = model.score(model.encode_image(model_examples.make_regions([forward, backward])), texts).pair
    assert ((scores[0] - scores[1]).abs() > 1e-4).all()


@pytest.mark.parametrize("weights", ["equal", "area"])
def test_the_contributions_of_the_words_add_up_to_the_score(weights: str) -> None:
    model, text = model_examples.make_model(region_weights=weights), "a man holds a red ball"
    regions = model_examples.make_regions([model_examples.make_image(np.random.default_rng(1), regions=5)])
    explanation = explain(model, regions, model_examples.make_tokens(model, [text]), text)
    assert abs(explanation.contributions.sum() - explanation.score) < 1e-5


def test_the_relation_match_is_inactive_without_a_graph() -> None:
    assert "model.relation_match" in resolve(None, {"model.graphs": "none"}, {}).settings.model.inactive_stages
    assert model_examples.make_model(graphs="none").roles is None

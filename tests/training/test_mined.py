"""Training on mined pairs: which they are, and that with all of them nothing changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hire_model.settings import TrainSettings
from hire_model.training.losses import infonce
from hire_model.training.objective import Objective, hard_pairs


@given(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(1, 2))
def test_hard_pairs_are_the_true_and_the_nearest(seed, size, count):
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    chosen = hard_pairs(scores, count)
    assert chosen.diagonal().all()
    for row in range(size):
        others = [column for column in range(size) if column != row]
        by_row = sorted(others, key=lambda column: -float(scores[row, column]))[:count]
        by_column = sorted(others, key=lambda column: -float(scores[column, row]))[:count]
        assert all(chosen[row, column] for column in by_row)
        assert all(chosen[column, row] for column in by_column)
    assert int(chosen.sum()) <= size * (1 + 2 * count)


def test_a_model_that_tells_nothing_apart_is_known_by_its_mined_pairs():
    settings = TrainSettings(loss="infonce", mined=2)
    alike = torch.zeros(64, 64)
    seen = alike.masked_fill(~hard_pairs(alike, 2), -torch.inf)
    expected = infonce(seen, torch.eye(64, dtype=torch.bool), settings.temperature)
    assert Objective(torch.nn.Identity(), settings, None).stuck(64, True) == pytest.approx(float(expected))

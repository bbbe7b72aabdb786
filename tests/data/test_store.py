"""`all_finite` agrees with numpy for all values and layouts."""

from __future__ import annotations

import numpy as np
import pytest

from hire_model.data.store import all_finite


def test_all_finite_is_right_for_every_float16_value() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(halves)
    assert all_finite(halves[finite].reshape(2, -1)) and 0 < finite.sum() < len(halves)
    assert not any(all_finite(half.reshape(1, 1)) for half in halves[~finite])


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f2", "<f2"])
def test_all_finite_works_for_any_dtype_and_memory_layout(dtype: str) -> None:
    features = np.ones((4, 6), dtype)
    assert all_finite(features) and all_finite(features[:, ::2]) and all_finite(features.T)
    features[1, 4] = np.nan
    assert not all_finite(features) and not all_finite(features[:, ::2]) and not all_finite(features.T)
    assert all_finite(features[2:])

# SPDX-License-Identifier: Apache-2.0
"""The model backend's two ways to multiply, against 64-bit integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.device.backends.model import _f32_product, _int8_product


@pytest.mark.parametrize("multiply", [_int8_product, _f32_product])
@given(st.integers(1, 6), st.integers(1, 2000), st.integers(1, 6), st.booleans(), st.integers(0, 2**32))
def test_model_backend_products_are_exact(
    multiply: Callable[..., None], m: int, k: int, n: int, constant_reference: bool, seed: int
) -> None:
    """The first row and column hold the largest difference and weight everywhere, so pieces of K are as full as they get."""
    rng = np.random.default_rng(seed)
    current, before = rng.integers(-128, 128, (2, m, k), np.int8)
    weights = rng.integers(-128, 128, (k, n), np.int8)
    current[0], before[0], weights[:, 0] = -128, 127, -128
    reference = int(rng.integers(-128, 128)) if constant_reference else before
    out = np.empty((m, n), np.int32)
    multiply(current, reference, weights, out)
    np.testing.assert_array_equal(out, (current.astype(np.int64) - reference) @ weights.astype(np.int64))

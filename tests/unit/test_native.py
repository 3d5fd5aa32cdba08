"""The compiled vector unit against NumPy's, bit for bit; both against the instruction set elsewhere (tests/protocol)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.device.units import native, vector
from ditto_cosim.protocol.errors import NonFiniteError

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no compiler: NumPy alone")

SHAPES = [(1, 8, 5, 7), (2, 32, 4, 4), (3, 16), (1, 96, 9)]
QUANTIZE = {
    "policy": "static",
    "scales": (0.037,),
    "zero_points": (-7,),
    "bounds": (0,),
    "symmetric": False,
    "hysteresis": 1.0,
}


def both(monkeypatch, compute):
    """What a command gives compiled and in NumPy: its arrays, or how it refused."""
    results = []
    for kernels in (native.kernels(), None):
        with monkeypatch.context() as patch:
            patch.setattr(vector, "kernels", lambda kernels=kernels: kernels)
            try:
                results.append([np.ascontiguousarray(a) for a in compute()])
            except NonFiniteError as error:
                results.append(str(error))
    return results


def same(pair):
    compiled, numpy = pair
    if isinstance(numpy, str):
        return compiled == numpy
    return all(
        a.dtype == b.dtype and np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))
        for a, b in zip(compiled, numpy, strict=True)
    )


def values(seed, shape, spread, channels_last, special=()):
    """Numbers over many magnitudes, in either memory order, with some chosen ones among them."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * np.exp2(rng.uniform(-spread, spread, shape))).astype(np.float32)
    flat = x.reshape(-1)
    for value in special:
        flat[rng.integers(flat.size)] = value
    if channels_last and x.ndim > 2:
        order = (0, *range(2, x.ndim), 1)
        x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    return x


memory = st.tuples(st.integers(0, 2**32), st.sampled_from(SHAPES), st.sampled_from([0, 3, 40]), st.booleans())
SPECIAL = (0.0, -0.0, 87.0, -88.0, 3e38, 1e-40, 0.5, -2.5)


@given(memory)
def test_native_silu_is_numpys(memory):
    x = values(*memory, special=SPECIAL)
    with pytest.MonkeyPatch.context() as patch:
        assert same(both(patch, lambda: vector.execute("silu", [x], {}, "here")))


def test_native_silu_lets_nan_and_infinity_pass_as_numpy_does(monkeypatch):
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    with np.errstate(invalid="ignore"):
        compiled, numpy = both(monkeypatch, lambda: vector.execute("silu", [x], {}, "here"))
    np.testing.assert_array_equal(compiled, numpy)


@given(memory, st.booleans(), st.sampled_from([(), (np.nan,), (np.inf,), (-np.inf,)]))
def test_native_quantize_is_numpys(memory, symmetric, bad):
    x = values(*memory, special=(*SPECIAL, *bad))
    attrs = {**QUANTIZE, "symmetric": symmetric, "zero_points": (0,) if symmetric else (-7,)}
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        assert same(both(patch, lambda: vector.quantize(x, attrs, 0, vector.QuantizeState(), "here")))


@given(memory, st.booleans(), st.sampled_from([1, -1]))
def test_native_dequantize_is_numpys(memory, has_bias, axis):
    seed, shape, *_ = memory
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**31), 2**31, shape, np.int32)
    scale = rng.random(shape[axis], np.float32)
    bias = rng.normal(size=shape[axis]).astype(np.float32) if has_bias else None
    params = np.array([0.013, 4], np.float32)
    axis %= len(shape)
    with pytest.MonkeyPatch.context() as patch:
        assert same(both(patch, lambda: [vector.dequantize(acc, params, scale, bias, axis)]))


@given(memory, st.booleans(), st.booleans(), st.sampled_from([(), (np.nan,), (np.inf,)]))
def test_native_group_norm_is_numpys(memory, has_gamma, has_beta, bad):
    seed, shape, spread, _ = memory
    x = values(seed, shape, spread, True, special=(*SPECIAL[:3], *bad))
    rng = np.random.default_rng(seed)
    gamma, beta = (
        rng.normal(size=shape[1]).astype(np.float32) if has else None for has in (has_gamma, has_beta)
    )
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        assert same(both(patch, lambda: [vector.group_norm(x, gamma, beta, 4, 1e-5, "here")]))


STRIDED = {
    "stepped": lambda x: x[:, ::2],
    "one column": lambda x: x[:, 3:4],
    "broadcast": lambda x: np.broadcast_to(x[0, 0], (5, 7)),
    "reversed": lambda x: x[::-1, ::-1],
}


@pytest.mark.parametrize("view", STRIDED)
def test_native_reads_views_that_flatten_without_a_copy(view, monkeypatch):
    """Evenly spaced elements stay a view when flattened; the kernels must not take them for neighbours."""
    x = STRIDED[view](values(1, (6, 16), 3, False))
    assert same(both(monkeypatch, lambda: vector.execute("silu", [x], {}, "here")))
    assert same(both(monkeypatch, lambda: vector.quantize(x, QUANTIZE, 0, vector.QuantizeState(), "here")))

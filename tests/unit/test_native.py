# SPDX-License-Identifier: Apache-2.0
"""The compiled vector unit against NumPy's, bit for bit; both against the instruction set elsewhere (tests/protocol)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.device.kernels import native, vector
from ditto_cosim.device.kernels.portable import PortableKernels
from ditto_cosim.protocol.errors import NonFiniteError
from ditto_cosim.protocol.isa import Attrs
from ditto_cosim.protocol.tensors import Array

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no compiler: NumPy alone")

SHAPES = [(1, 8, 5, 7), (2, 32, 4, 4), (3, 16), (1, 96, 9)]
QUANTIZE: Attrs = {
    "policy": "static",
    "scales": (0.037,),
    "zero_points": (-7,),
    "bounds": (0,),
    "symmetric": False,
    "hysteresis": 1.0,
}


Pair = tuple[list[Array] | str, list[Array] | str]
"""What a command gives compiled and in NumPy: its arrays, or how it refused."""
Memory = tuple[int, tuple[int, ...], float, bool]


def both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Iterable[Array]]) -> Pair:
    results: list[list[Array] | str] = []
    for kernels in (native.kernels(), PortableKernels()):
        with monkeypatch.context() as patch:
            patch.setattr(vector, "kernels", lambda kernels=kernels: kernels)
            try:
                results.append([np.ascontiguousarray(a) for a in compute()])
            except NonFiniteError as error:
                results.append(str(error))
    compiled, numpy = results
    return compiled, numpy


def same(pair: Pair) -> bool:
    compiled, numpy = pair
    if isinstance(numpy, str) or isinstance(compiled, str):
        return compiled == numpy
    return all(
        a.dtype == b.dtype and np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))
        for a, b in zip(compiled, numpy, strict=True)
    )


def values(
    seed: int, shape: tuple[int, ...], spread: float, channels_last: bool, special: Sequence[float] = ()
) -> Array:
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
def test_native_silu_is_numpys(memory: Memory) -> None:
    x = values(*memory, special=SPECIAL)
    with pytest.MonkeyPatch.context() as patch:
        assert same(both(patch, lambda: vector.execute("silu", [x], {}, "here")))


@given(memory, st.booleans())
def test_native_gelu_is_numpys(memory: Memory, tanh: bool) -> None:
    x = values(*memory, special=SPECIAL)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        assert same(both(patch, lambda: vector.execute("gelu", [x], {"tanh": tanh}, "here")))


def test_native_silu_lets_nan_and_infinity_pass_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    with np.errstate(invalid="ignore"):
        compiled, numpy = both(monkeypatch, lambda: vector.execute("silu", [x], {}, "here"))
    np.testing.assert_array_equal(compiled, numpy)


@given(memory, st.booleans(), st.sampled_from([(), (np.nan,), (np.inf,), (-np.inf,)]))
def test_native_quantize_is_numpys(memory: Memory, symmetric: bool, bad: tuple[float, ...]) -> None:
    x = values(*memory, special=(*SPECIAL, *bad))
    attrs: Attrs = {**QUANTIZE, "symmetric": symmetric, "zero_points": (0,) if symmetric else (-7,)}
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        assert same(both(patch, lambda: vector.quantize(x, attrs, 0, vector.QuantizeState(), "here")))


@given(memory, st.booleans(), st.sampled_from([1, -1]))
def test_native_dequantize_is_numpys(memory: Memory, has_bias: bool, axis: int) -> None:
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
def test_native_group_norm_is_numpys(
    memory: Memory, has_gamma: bool, has_beta: bool, bad: tuple[float, ...]
) -> None:
    seed, shape, spread, _ = memory
    x = values(seed, shape, spread, True, special=(*SPECIAL[:3], *bad))
    rng = np.random.default_rng(seed)
    gamma, beta = (
        rng.normal(size=shape[1]).astype(np.float32) if has else None for has in (has_gamma, has_beta)
    )
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        assert same(both(patch, lambda: [vector.group_norm(x, gamma, beta, 4, 1e-5, "here")]))


@given(memory, st.booleans(), st.booleans(), st.sampled_from([(), (np.nan,), (np.inf,)]))
def test_native_layer_norm_is_numpys(
    memory: Memory, has_gamma: bool, has_beta: bool, bad: tuple[float, ...]
) -> None:
    x = values(*memory, special=(*SPECIAL[:3], *bad))
    rng = np.random.default_rng(memory[0])
    gamma, beta = (
        rng.normal(size=(x.shape[-1],)).astype(np.float32) if has else None for has in (has_gamma, has_beta)
    )
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        assert same(both(patch, lambda: [vector.layer_norm(x, gamma, beta, 1e-5, "here")]))


STRIDED = {
    "stepped": lambda x: x[:, ::2],
    "one column": lambda x: x[:, 3:4],
    "broadcast": lambda x: np.broadcast_to(x[0, 0], (5, 7)),
    "reversed": lambda x: x[::-1, ::-1],
}


@pytest.mark.parametrize("view", STRIDED)
def test_native_reads_views_that_flatten_without_a_copy(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced elements stay a view when flattened; the kernels must not take them for neighbours."""
    x = STRIDED[view](values(1, (6, 16), 3, False))
    assert same(both(monkeypatch, lambda: vector.execute("silu", [x], {}, "here")))
    assert same(both(monkeypatch, lambda: vector.quantize(x, QUANTIZE, 0, vector.QuantizeState(), "here")))


@pytest.mark.parametrize("view", STRIDED)
def test_native_adds_and_joins_views_as_numpy_does(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = STRIDED[view](values(1, (6, 16), 3, False))
    y = np.ascontiguousarray(x) * np.float32(0.3)
    for operands in ([x, y], [y, x], [x, x]):
        assert same(both(monkeypatch, partial(vector.execute, "add", operands, {}, "here")))
        for axis in (0, 1):
            joined = partial(vector.execute, "concat", operands, {"axis": axis}, "here")
            assert same(both(monkeypatch, joined))


def other(kind: str, x: Array) -> Array:
    """A second operand of x."""
    rng = np.random.default_rng(5)
    if kind == "a value a channel":
        return rng.normal(size=(1, x.shape[1], *(1,) * (x.ndim - 2))).astype(np.float32)
    if kind == "a value a channel and picture":
        return rng.normal(size=(*x.shape[:2], *(1,) * (x.ndim - 2))).astype(np.float32)
    if kind == "the last axis":
        return rng.normal(size=(*(1,) * (x.ndim - 1), x.shape[-1])).astype(np.float32)
    same_shape = rng.normal(size=x.shape).astype(np.float32)
    return same_shape if kind == "in order" else np.asfortranarray(same_shape)


@given(
    memory,
    st.sampled_from(
        ["a value a channel", "a value a channel and picture", "the last axis", "in order", "turned"]
    ),
    st.booleans(),
)
def test_native_add_is_numpys(memory: Memory, kind: str, swapped: bool) -> None:
    x = values(*memory, special=SPECIAL)
    operands = [x, other(kind, x)]
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        assert same(both(patch, lambda: vector.execute("add", operands[:: -1 if swapped else 1], {}, "here")))


@given(memory, st.integers(0, 3), st.integers(1, 3))
def test_native_concat_is_numpys(memory: Memory, axis: int, count: int) -> None:
    x = values(*memory)
    axis %= x.ndim
    parts = [x, *(np.repeat(x, 2, axis) for _ in range(count - 1))]
    with pytest.MonkeyPatch.context() as patch:
        assert same(both(patch, lambda: vector.execute("concat", parts, {"axis": axis}, "here")))


@given(st.integers(0, 2**32), st.booleans())
def test_native_attention_factors_are_numpys(seed: int, turned: bool) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**31), 2**31, (2, 3, 5, 7), np.int32)
    if turned:
        acc = np.ascontiguousarray(acc.swapaxes(2, 3)).swapaxes(2, 3)
    sums = rng.integers(1, 127 * 7, (2, 3, 5), np.int32)
    left, right = (np.array([rng.random(), 0], np.float32) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        attention = both(patch, lambda: vector.execute("dequantize_attention", [acc, sums, left], {}, "here"))
        scores = both(
            patch, lambda: vector.execute("dequantize_matmul", [acc, left, right], {"factor": 0.125}, "here")
        )
    assert same(attention)
    assert same(scores)


@given(memory, st.sampled_from([(), (np.nan,), (np.inf,), (-np.inf,), (-np.inf, np.nan)]))
def test_native_softmax_is_numpys(memory: Memory, bad: tuple[float, ...]) -> None:
    x = values(*memory, special=bad)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        assert same(both(patch, lambda: vector.execute("softmax", [x], {}, "here")))


STARVED = """
import resource
import numpy as np
from ditto_cosim.device.kernels import native, slots
picture = np.zeros((1, 6000, 6000, 1), np.int8)
windows = slots.Windows((1, 1), (6000, 6000), (1, 1))
slots.count_windows(picture[:, :8, :8], 0, slots.Windows((1, 1), (1, 1), (8, 8)), (1,), "mag4")
assert native.kernels() is not None
held = next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + (64 << 20), -1))
try:
    slots.count_windows(picture, 0, windows, (1,), "mag4")
except MemoryError as error:
    print("refused:", error)
"""


def test_kernel_without_memory_returns_an_error_and_aborts_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused: counting the slots of 36000000 padded bytes\n"), (
        done.stderr
    )

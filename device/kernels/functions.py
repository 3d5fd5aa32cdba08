# SPDX-License-Identifier: Apache-2.0
"""The shared functions of the specification, element by element and by reduction, in NumPy.

Implements `exp32`, `trig`, `moments` and what is made of them to the bit of `protocol/isa.py`. What this file does not do:
commands (`vector.py`) and their fast forms (`portable.py`, `native.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import NonFiniteError

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
BLOCK_ELEMENTS = 1 << 15
"""Elements that stay in the cache while a sequence of operations passes over them."""

f32 = np.float32

_EXP_COEFFICIENTS = [
    f32(c) for c in (1.98756915e-4, 1.39819995e-3, 8.33345205e-3, 4.16657962e-2, 1.66666657e-1)
]
_EXP_HALF = f32(5.00000012e-1)


def exp32(x: F32) -> F32:
    x = np.minimum(np.maximum(x, f32(-87)), f32(88))
    n = np.rint(x * f32(1.44269504))
    r = x - n * f32(0.693359375)
    r -= n * f32(-2.12194440e-4)
    p = _EXP_COEFFICIENTS[0] * r
    for c in _EXP_COEFFICIENTS[1:]:
        p += c
        p *= r
    p += _EXP_HALF
    p *= r * r
    p += r
    p += f32(1)
    with np.errstate(invalid="ignore"):  # NaN stays NaN through p; its exponent is arbitrary
        bits = n.astype(np.int32)
    bits += 127
    bits <<= 23
    result: F32 = np.multiply(p, bits.view(np.float32))
    return result


def silu(x: F32) -> F32:
    e = exp32(-x)
    e += f32(1)
    return np.divide(x, e, out=e)


def sigmoid(x: F32) -> F32:
    e = exp32(-x)
    e += f32(1)
    return np.divide(f32(1), e, out=e)


def tanh(x: F32) -> F32:
    return f32(2) * sigmoid(f32(2) * x) - f32(1)


def gelu_tanh(x: F32) -> F32:
    u = (x * x) * x
    v = (x + f32(0.0447149985) * u) * f32(1.59576917)
    return x / (f32(1) + exp32(-v))


_ERF = [f32(c) for c in (1.06140542, -1.45315206, 1.42141378, -0.284496725, 0.254829586)]


def gelu_erf(x: F32) -> F32:
    a = np.abs(x * f32(0.707106769))
    t = f32(1) / (f32(1) + f32(0.327591091) * a)
    p = _ERF[0] * t
    for c in _ERF[1:]:
        p = (p + c) * t
    e = f32(1) - p * exp32(-(a * a))
    np.negative(e, out=e, where=x < 0)
    result: F32 = (f32(0.5) * x) * (f32(1) + e)
    return result


_SIN = (
    1.58962301576546568e-10,
    -2.50507477628578072e-8,
    2.75573136213857245e-6,
    -1.98412698295895385e-4,
    8.33333333332211858e-3,
    -1.66666666666666307e-1,
)
_COS = (
    -1.13585365213876817e-11,
    2.08757008419747316e-9,
    -2.75573141792967388e-7,
    2.48015872888517045e-5,
    -1.38888888888730564e-3,
    4.16666666666665929e-2,
)


def trig(x: F32, quarter: int) -> F32:
    """sin (quarter 0) or cos (quarter 1)."""
    wide = x.astype(np.float64)
    if not np.all(np.abs(wide) <= 2.0**20):
        raise NonFiniteError("sin/cos: the argument is beyond ±2^20 or not a number")
    k = np.rint(wide * 0.63661977236758134)
    r = (wide - k * 1.57079632673412561417) - k * 6.07710050650619224932e-11
    z = r * r
    s = np.full_like(z, _SIN[0])
    for c in _SIN[1:]:
        s = s * z + c
    s = s * z * r + r
    c_ = np.full_like(z, _COS[0])
    for c in _COS[1:]:
        c_ = c_ * z + c
    c_ = (c_ * z - 0.5) * z + 1.0
    phase = (k.astype(np.int64) + quarter) & 3
    return np.where(phase & 1, c_, s).astype(np.float32) * np.where(phase & 2, f32(-1), f32(1))


_LOG = [
    f32(c)
    for c in (
        *(-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )
]


def log32(x: F32) -> F32:
    if not (x >= 0).all():
        raise NonFiniteError("log: its input holds NaN or a negative number")
    ordinary = (x > 0) & (x < np.inf)
    m, k = np.frexp(np.where(ordinary, x, f32(1)))
    small = m < f32(0.707106769)
    t = np.where(small, m + m, m) - f32(1)
    k = (k - small).astype(np.float32)
    z = t * t
    p = np.full_like(t, f32(7.0376836292e-2))
    for c in _LOG:
        p = p * t + c
    y = (t * z) * p + k * f32(-2.12194440e-4) - f32(0.5) * z
    found: F32 = (t + y) + k * f32(0.693359375)  # type: ignore[assignment]  # binary32 throughout
    return np.where(ordinary, found, np.where(x == 0, f32(-np.inf), f32(np.inf)))


def total(values: F32, where: str) -> F32:
    """The sum of every row of [rows, n], by exact integers."""
    out = np.empty(len(values), np.float32)
    for start in range(0, len(values), step := max(1, BLOCK_ELEMENTS // values.shape[1])):
        v = values[start : start + step]
        e = exponents(v.max(1), v.min(1), where)
        q = np.rint(v.astype(np.float64) * np.ldexp(1.0, 30 - e)[:, None])
        out[start : start + step] = q.sum(1) * np.ldexp(1.0, e - 30)
    return out


def root_mean_squares(values: F32, eps: float, where: str) -> F32:
    """The reciprocal root of every row's mean square, of [rows, n]."""
    out = np.empty(len(values), np.float32)
    for start in range(0, len(values), step := max(1, BLOCK_ELEMENTS // values.shape[1])):
        v = values[start : start + step]
        _, s2, e = integer_sums(v, exponents(v.max(1), v.min(1), where))
        out[start : start + step] = 1.0 / np.sqrt(s2 / v.shape[1] * np.ldexp(1.0, 2 * e - 30) + eps)
    return out


def moments(values: F32, eps: float, where: str) -> tuple[F32, F32]:
    """Mean and reciprocal deviation of every row of [rows, n], by exact integer sums."""
    rows, n = values.shape
    mean, rstd = np.empty(rows, np.float32), np.empty(rows, np.float32)
    step = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        v = values[part]
        mean[part], rstd[part] = finish_moments(
            *integer_sums(v, exponents(v.max(1), v.min(1), where)), n, eps
        )
    return mean, rstd


def exponents(highest: F32, lowest: F32, where: str) -> npt.NDArray[np.int32]:
    largest = np.maximum(highest, -lowest)
    if not np.isfinite(largest).all():
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return np.frexp(largest)[1]


def integer_sums(v: F32, e: npt.NDArray[np.int32]) -> tuple[Array, Array, npt.NDArray[np.int32]]:
    """S₁ and S₂ of every row, as exact integers held in binary64 (both stay below 2⁵³)."""
    q = v.astype(np.float64)
    q *= np.ldexp(1.0, 15 - e)[:, None]
    np.rint(q, out=q)
    return q.sum(1), np.einsum("ij,ij->i", q, q), e


def finish_moments(s1: Array, s2: Array, e: npt.NDArray[np.int32], n: int, eps: float) -> tuple[F32, F32]:
    mu = s1 / n
    d = s2 / n - mu * mu
    var = np.maximum(d, 0.0) * np.ldexp(1.0, 2 * e - 30)
    mean = (mu * np.ldexp(1.0, e - 15)).astype(np.float32)
    return mean, (1.0 / np.sqrt(var + eps)).astype(np.float32)

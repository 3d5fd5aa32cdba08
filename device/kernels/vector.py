"""The vector unit's arithmetic: every vector and move command of the instruction set, in NumPy.

Implements the text of `protocol/isa.py` to the bit. Tensors may lie in memory in any axis order (convolutions leave
channels innermost); results keep their operand's order, so nothing is transposed without need. Work goes in blocks that
stay in cache; where there is a compiler, the busiest commands run in one compiled pass instead (`native.py`, `vector.cpp`),
to the same bits. What this file does not hold: the layers (backends) and the unit's time (`vector_time.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.protocol.errors import NonFiniteError, TensorError
from ditto_cosim.protocol.isa import Attrs, integer, ints, number

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
BLOCK_ELEMENTS = 1 << 15

f32 = np.float32


# --- memory order -------------------------------------------------------------------------------------------------------


def memory_order(a: Array) -> tuple[int, ...]:
    """Axes from outermost to innermost in memory."""
    return tuple(sorted(range(a.ndim), key=lambda i: (-a.strides[i], i)))


def _flat(a: Array, order: tuple[int, ...]) -> Array:
    """All elements in the given axis order, without a copy where memory allows; evenly spaced, so maybe not neighbours."""
    return a.transpose(order).reshape(-1)


def _empty_like(a: Array, order: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A fresh array of `a`'s shape whose memory runs in the given axis order."""
    return np.empty(tuple(a.shape[i] for i in order), dtype).transpose(_inverse(order))


@lru_cache(maxsize=256)
def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


def _elementwise(kernel: Callable[..., Array], dtype: npt.DTypeLike, first: Array, *others: Array) -> Array:
    """`kernel` over equally shaped arrays, block by block."""
    order = memory_order(first)
    out = _empty_like(first, order, dtype)
    flats = [_flat(a, order) for a in (first, *others)]
    target = _flat(out, order)
    for start in range(0, target.size, BLOCK_ELEMENTS):
        part = slice(start, start + BLOCK_ELEMENTS)
        target[part] = kernel(*(a[part] for a in flats))
    return out


# --- shared functions of the specification ------------------------------------------------------------------------------

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
    compiled = kernels()
    if compiled is None:
        return _elementwise(_silu, np.float32, x)
    order = memory_order(x)
    out = _empty_like(x, order, np.float32)
    compiled.silu(np.ascontiguousarray(_flat(x, order)), _flat(out, order))
    return out


def _silu(x: F32) -> F32:
    e = exp32(-x)
    e += f32(1)
    return np.divide(x, e, out=e)


def _sigmoid(x: F32) -> F32:
    e = exp32(-x)
    e += f32(1)
    return np.divide(f32(1), e, out=e)


def _tanh(x: F32) -> F32:
    return f32(2) * _sigmoid(f32(2) * x) - f32(1)


def _gelu_tanh(x: F32) -> F32:
    u = (x * x) * x
    v = (x + f32(0.0447149985) * u) * f32(1.59576917)
    return x / (f32(1) + exp32(-v))


_ERF = [f32(c) for c in (1.06140542, -1.45315206, 1.42141378, -0.284496725, 0.254829586)]


def _gelu_erf(x: F32) -> F32:
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


def _trig(x: F32, quarter: int) -> F32:
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


def _moments(values: F32, eps: float, where: str) -> tuple[F32, F32]:
    """Mean and reciprocal deviation of every row of [rows, n], by exact integer sums."""
    rows, n = values.shape
    mean, rstd = np.empty(rows, np.float32), np.empty(rows, np.float32)
    step = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        v = values[part]
        mean[part], rstd[part] = _finish_moments(
            *_integer_sums(v, _exponents(v.max(1), v.min(1), where)), n, eps
        )
    return mean, rstd


def _exponents(highest: F32, lowest: F32, where: str) -> npt.NDArray[np.int32]:
    largest = np.maximum(highest, -lowest)
    if not np.isfinite(largest).all():
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return np.frexp(largest)[1]


def _integer_sums(v: F32, e: npt.NDArray[np.int32]) -> tuple[Array, Array, npt.NDArray[np.int32]]:
    """S₁ and S₂ of every row, as exact integers held in binary64 (both stay below 2⁵³)."""
    q = v.astype(np.float64)
    q *= np.ldexp(1.0, 15 - e)[:, None]
    np.rint(q, out=q)
    return q.sum(1), np.einsum("ij,ij->i", q, q), e


def _finish_moments(s1: Array, s2: Array, e: npt.NDArray[np.int32], n: int, eps: float) -> tuple[F32, F32]:
    mu = s1 / n
    d = s2 / n - mu * mu
    var = np.maximum(d, 0.0) * np.ldexp(1.0, 2 * e - 30)
    mean = (mu * np.ldexp(1.0, e - 15)).astype(np.float32)
    return mean, (1.0 / np.sqrt(var + eps)).astype(np.float32)


# --- commands -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class QuantizeState:
    """What a dynamic quantizer remembers between steps: its scale."""

    scale: np.float32 | None = None


def quantize(x: F32, attrs: Attrs, step: int, state: QuantizeState, where: str) -> tuple[Array, F32]:
    scales, points, bounds = attrs["scales"], attrs["zero_points"], attrs["bounds"]
    assert isinstance(scales, tuple)
    assert isinstance(points, tuple)
    assert isinstance(bounds, tuple)
    order = memory_order(x)
    flat = np.ascontiguousarray(_flat(x, order))
    low, high = _extremes(flat, where)
    if attrs["policy"] == "dynamic":
        target = max(high, -low) / f32(127)
        held = state.scale
        keep = held is not None and bool(target <= held <= target * f32(number(attrs, "hysteresis")))
        if target < f32(1e-30):
            keep, target = True, f32(scales[0])
        if not keep or held is None:
            held = target
        state.scale = scale = held
        zero = 0
    else:
        cluster = sum(step >= b for b in bounds) - 1
        scale, zero = f32(scales[cluster]), int(points[cluster])
    r = f32(1) / scale
    bottom = f32(-127 if attrs["symmetric"] else -128)

    def kernel(v: F32) -> Array:
        q: Array = np.rint(v * r)
        q += f32(zero)
        return np.clip(q, bottom, f32(127), out=q)

    params = np.array([scale, zero], np.float32)
    compiled = kernels()
    if compiled is None:
        return _elementwise(kernel, np.int8, x), params
    out = _empty_like(x, order, np.int8)
    compiled.quantize(flat, _flat(out, order), float(r), float(zero), float(bottom))
    return out, params


def _extremes(flat: F32, where: str) -> tuple[np.float32, np.float32]:
    """The least and the greatest value, all of them finite."""
    compiled = kernels()
    found = (flat.min(), flat.max()) if compiled is None else compiled.extremes(flat)
    if found is None or not np.isfinite(found).all():
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return found


def dequantize(acc: Array, params: F32, w_scale: F32, bias: F32 | None, axis: int) -> F32:
    multiplier = params[0] * w_scale
    channel_last = np.moveaxis(acc, axis, -1)
    rows = np.ascontiguousarray(channel_last).reshape(-1, acc.shape[axis])
    out = np.empty(rows.shape, np.float32)
    compiled = kernels()
    if compiled is not None:
        factor = np.broadcast_to(multiplier, rows.shape[1:])
        compiled.dequantize(
            rows, out, np.ascontiguousarray(factor), None if bias is None else np.ascontiguousarray(bias)
        )
    else:
        step = max(1, BLOCK_ELEMENTS // rows.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            np.multiply(rows[part], multiplier, out=out[part], dtype=np.float32, casting="unsafe")
            if bias is not None:
                out[part] += bias
    return np.moveaxis(out.reshape(channel_last.shape), -1, axis)


def dequantize_matmul(acc: Array, left: F32, right: F32, scale: float) -> F32:
    factor, compiled = (left[0] * right[0]) * f32(scale), kernels()
    if compiled is None or acc.dtype != np.int32:
        return _elementwise(lambda v: v.astype(np.float32) * factor, np.float32, acc)
    order = memory_order(acc)
    out = _empty_like(acc, order, np.float32)
    rows = np.ascontiguousarray(_flat(acc, order)).reshape(-1, acc.shape[order[-1]])
    compiled.dequantize(rows, _flat(out, order), np.full(rows.shape[1], factor), None)
    return out


def dequantize_attention(acc: Array, sums: Array, params: F32) -> F32:
    divisors, compiled = sums.astype(np.float32), kernels()
    if compiled is None or acc.dtype != np.int32:
        wide = acc.astype(np.float32)
        wide *= params[0]
        wide /= divisors[..., None]
        return wide
    out = np.empty(acc.shape, np.float32)
    rows = np.ascontiguousarray(acc).reshape(-1, acc.shape[-1])
    compiled.dequantize_attention(rows, out, float(params[0]), np.ascontiguousarray(divisors))
    return out


def add(x: Array, y: Array) -> Array:
    """x + y; compiled where both lie alike in memory, or y is one value a channel and channels are innermost."""
    compiled = kernels()
    if compiled is not None and x.dtype == y.dtype == np.float32 and x.ndim == y.ndim and x.size:
        order = memory_order(x)
        a, b = x.transpose(order), y.transpose(order)
        out = np.empty(a.shape, np.float32)
        if a.flags.c_contiguous and b.flags.c_contiguous and a.shape == b.shape:
            compiled.add(a, b, out)
            return out.transpose(_inverse(order))
        if a.flags.c_contiguous and b.flags.c_contiguous and b.shape[-1] == a.shape[-1] == b.size:
            wide = a.reshape(-1, a.shape[-1])
            compiled.add_row(wide, b, out)
            return out.transpose(_inverse(order))
    return np.add(x, y)


def softmax(x: F32, where: str) -> tuple[Array, Array]:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    p = np.empty(rows.shape, np.int8)
    sums = np.empty(len(rows), np.int32)
    compiled = kernels()
    if compiled is not None:
        if not compiled.softmax(rows, p, sums):
            raise NonFiniteError(f"{where}: its input holds NaN or infinity")
        return p.reshape(x.shape), sums.reshape(x.shape[:-1])
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = rows[part]
        peak = block.max(1, keepdims=True)
        if not np.isfinite(peak).all():
            raise NonFiniteError(f"{where}: its input holds NaN or infinity")
        e = np.rint(f32(127) * exp32(block - peak))
        p[part] = e
        sums[part] = p[part].sum(1, dtype=np.int32)
    return p.reshape(x.shape), sums.reshape(x.shape[:-1])


def group_norm(x: F32, gamma: F32 | None, beta: F32 | None, groups: int, eps: float, where: str) -> F32:
    batch, channels = x.shape[:2]
    inner = channels // groups
    order = memory_order(x)
    if x.ndim > 2 and order == (0, *range(2, x.ndim), 1):  # channels innermost in memory
        if kernels() is not None:
            return _group_norm_compiled(x, order, gamma, beta, groups, eps, where)
        flat = x.transpose(order).reshape(batch, -1, groups, inner)
        wide = flat.transpose(0, 2, 1, 3)
    else:
        order = tuple(range(x.ndim))
        wide = np.ascontiguousarray(x).reshape(batch, groups, inner, -1)
    mean, rstd = _moments(wide.reshape(batch * groups, -1), eps, where)
    out = _empty_like(x, order, np.float32)
    per_channel = (
        np.repeat(mean.reshape(batch, groups), inner, 1),
        np.repeat(rstd.reshape(batch, groups), inner, 1),
    )
    tail = (1,) * (x.ndim - 2)
    axis_first = [v.reshape(batch, channels, *tail) for v in per_channel]
    np.subtract(x, axis_first[0], out=out)
    out *= axis_first[1]
    if gamma is not None:
        out *= gamma.reshape(1, channels, *tail)
    if beta is not None:
        out += beta.reshape(1, channels, *tail)
    return out


def _group_norm_compiled(
    x: F32,
    order: tuple[int, ...],
    gamma: F32 | None,
    beta: F32 | None,
    groups: int,
    eps: float,
    where: str,
) -> F32:
    """The same, for channels innermost in memory."""
    compiled = kernels()
    assert compiled is not None
    batch, channels = x.shape[:2]
    out = _empty_like(x, order, np.float32)
    pictures = np.ascontiguousarray(x.transpose(order)).reshape(batch, -1, channels)
    targets = out.transpose(order).reshape(batch, -1, channels)
    gamma, beta = (None if v is None else np.ascontiguousarray(v) for v in (gamma, beta))
    for picture, target in zip(pictures, targets, strict=True):
        if not compiled.group_norm(picture, target, groups, gamma, beta, eps):
            raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return out


def layer_norm(x: F32, gamma: F32 | None, beta: F32 | None, eps: float, where: str) -> F32:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    mean, rstd = _moments(rows, eps, where)
    out = rows - mean[:, None]
    out *= rstd[:, None]
    if gamma is not None:
        out *= gamma
    if beta is not None:
        out += beta
    return out.reshape(x.shape)


def gather(table: Array, index: Array, where: str) -> Array:
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < len(table)):
        raise TensorError(
            f"{where}: index {int(index.min())}…{int(index.max())} outside a table of {len(table)}"
        )
    return table[index]


_UNARY: dict[str, Callable[[F32], F32]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": lambda x: np.maximum(x, f32(0)),
    "exp": exp32,
    "sin": lambda x: _trig(x, 0),
    "cos": lambda x: _trig(x, 1),
}
_BINARY: dict[str, Callable[[F32, F32], F32]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}


def execute(op: str, operands: Sequence[Array], attrs: Attrs, where: str) -> tuple[Array, ...]:
    """One vector or move command; `quantize`, which has state, has its own function."""
    x = operands[0]
    if op == "silu":
        return (silu(x),)
    if op in _UNARY:
        return (_elementwise(_UNARY[op], np.float32, x),)
    if op == "gelu":
        return (_elementwise(_gelu_tanh if attrs["tanh"] else _gelu_erf, np.float32, x),)
    if op == "add":
        return (add(x, operands[1]),)
    if op in _BINARY:
        return (_BINARY[op](x, operands[1]),)
    extra = (*operands[1:], None, None)
    match op:
        case "dequantize":
            return (
                dequantize(x, operands[1], operands[2], (*operands[3:], None)[0], integer(attrs, "axis")),
            )
        case "dequantize_matmul":
            return (dequantize_matmul(x, operands[1], operands[2], number(attrs, "factor")),)
        case "dequantize_attention":
            return (dequantize_attention(x, operands[1], operands[2]),)
        case "softmax":
            return softmax(x, where)
        case "cast":
            return (x.astype(np.float32),)
        case "group_norm":
            return (group_norm(x, extra[0], extra[1], integer(attrs, "groups"), number(attrs, "eps"), where),)
        case "layer_norm":
            return (layer_norm(x, extra[0], extra[1], number(attrs, "eps"), where),)
        case "reshape":
            return (x.reshape(ints(attrs, "shape")),)
        case "permute":
            return (x.transpose(ints(attrs, "order")),)
        case "concat":
            return (_concat(operands, integer(attrs, "axis")),)
        case "slice":
            index: list[slice] = [slice(None)] * x.ndim
            axis = integer(attrs, "axis")
            index[axis] = slice(integer(attrs, "start"), integer(attrs, "stop"), integer(attrs, "step"))
            return (x[tuple(index)],)
        case "broadcast":
            return (np.broadcast_to(x, ints(attrs, "shape")),)
        case "upsample_nearest":
            fh, fw = ints(attrs, "factor")
            return (_upsample(x, fh, fw),)
        case "gather":
            return (gather(x, operands[1], where),)
    raise KeyError(op)


def _concat(parts: Sequence[Array], axis: int) -> Array:
    order = memory_order(parts[0])
    turned = [p.transpose(order) for p in parts]
    at, compiled = order.index(axis), kernels()
    if compiled is None or any(p.dtype != parts[0].dtype for p in parts):
        return np.concatenate(turned, at).transpose(_inverse(order))
    shape = list(turned[0].shape)
    shape[at] = sum(p.shape[at] for p in turned)
    out = np.empty(shape, parts[0].dtype)
    compiled.concatenate([np.ascontiguousarray(p) for p in turned], at, out)
    return out.transpose(_inverse(order))


def _upsample(x: Array, fh: int, fw: int) -> Array:
    n, c, h, w = x.shape
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    wide = np.broadcast_to(channels_last[:, :, None, :, None, :], (n, h, fh, w, fw, c))
    return wide.reshape(n, h * fh, w * fw, c).transpose(0, 3, 1, 2)

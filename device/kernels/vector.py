# SPDX-License-Identifier: Apache-2.0
"""The vector unit's commands: every vector and move command of the instruction set.

Implements the text of `protocol/isa.py` to the bit. Tensors may lie in memory in any axis order (convolutions leave
channels innermost); results keep their operand's order, so nothing is transposed without need. The busiest commands are
kernels with a compiled and a NumPy form (`base.py`); the rest is NumPy, in blocks that stay in cache. What this file does not
hold: the layers (backends) and the unit's time (`vector_time.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels import blocks, functions
from ditto_cosim.device.kernels.base import kernels
from ditto_cosim.device.kernels.functions import BLOCK_ELEMENTS, F32, Array, f32
from ditto_cosim.protocol.blocks import BlockFormat
from ditto_cosim.protocol.errors import NonFiniteError, TensorError
from ditto_cosim.protocol.isa import Attrs, integer, ints, number

# --- memory order -------------------------------------------------------------------------------------------------------


def memory_order(a: Array) -> tuple[int, ...]:
    """Axes from outermost to innermost in memory."""
    if a.flags.c_contiguous:
        return tuple(range(a.ndim))
    return tuple(sorted(range(a.ndim), key=lambda i: (-a.strides[i], i)))


def _flat(a: Array, order: tuple[int, ...]) -> Array:
    """All elements in the given axis order, without a copy where memory allows; evenly spaced, so maybe not neighbours."""
    if a.flags.c_contiguous and order == tuple(range(a.ndim)):
        return a.reshape(-1)
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


# --- commands -----------------------------------------------------------------------------------------------------------


class QuantizerGrid(NamedTuple):
    """As the kernel wants it, and as it travels with the codes."""

    reciprocal: float
    zero: float
    bottom: float
    params: F32

    @classmethod
    def of(cls, scale: np.float32, zero: int, symmetric: bool) -> QuantizerGrid:
        params = np.array([scale, zero], np.float32)
        params.flags.writeable = False  # it stands for itself in every step
        return cls(float(f32(1) / scale), float(zero), -127.0 if symmetric else -128.0, params)


@dataclass(slots=True)
class QuantizeState:
    """What a quantizer remembers between steps: a dynamic one its scale, a static one the grids it has made, by cluster."""

    scale: np.float32 | None = None
    grids: dict[int, QuantizerGrid] = field(default_factory=dict)


def quantize(x: F32, attrs: Attrs, step: int, state: QuantizeState, where: str) -> tuple[Array, F32]:
    order = memory_order(x)
    flat = np.ascontiguousarray(_flat(x, order))
    grid = (_dynamic_grid if attrs["policy"] == "dynamic" else _static_grid)(flat, attrs, step, state, where)
    out = _empty_like(x, order, np.int8)
    if not kernels().quantize(flat, _flat(out, order), grid.reciprocal, grid.zero, grid.bottom):
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return out, grid.params


def _static_grid(flat: F32, attrs: Attrs, step: int, state: QuantizeState, where: str) -> QuantizerGrid:
    cluster = bisect_right(ints(attrs, "bounds"), step) - 1
    if cluster not in state.grids:
        scales = attrs["scales"]
        assert isinstance(scales, tuple)
        zero = ints(attrs, "zero_points")[cluster]
        state.grids[cluster] = QuantizerGrid.of(f32(scales[cluster]), zero, bool(attrs["symmetric"]))
    return state.grids[cluster]


def _dynamic_grid(flat: F32, attrs: Attrs, step: int, state: QuantizeState, where: str) -> QuantizerGrid:
    low, high = _extremes(flat, where)
    target = max(high, -low) / f32(127)
    held = state.scale
    keep = held is not None and bool(target <= held <= target * f32(number(attrs, "hysteresis")))
    if target < f32(1e-30):
        scales = attrs["scales"]
        assert isinstance(scales, tuple)
        keep, target = True, f32(scales[0])
    if not keep or held is None:
        held = target
    state.scale = held
    return QuantizerGrid.of(held, 0, bool(attrs["symmetric"]))


def _extremes(flat: F32, where: str) -> tuple[np.float32, np.float32]:
    """The least and the greatest value, all of them finite."""
    found = kernels().extremes(flat)
    if found is None:
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return found


def dequantize(acc: Array, params: F32, w_scale: F32, bias: F32 | None, axis: int) -> F32:
    last = axis in (-1, acc.ndim - 1)
    channel_last = acc if last else np.moveaxis(acc, axis, -1)
    rows = np.ascontiguousarray(channel_last).reshape(-1, acc.shape[axis])
    out = np.empty(rows.shape, np.float32)
    bias = None if bias is None else np.ascontiguousarray(bias)
    if w_scale.shape == rows.shape[1:]:
        kernels().dequantize(rows, out, float(params[0]), np.ascontiguousarray(w_scale), bias)
    else:
        kernels().dequantize(rows, out, float(params[0] * w_scale[0]), None, bias)
    found = out.reshape(channel_last.shape)
    return found if last else np.moveaxis(found, -1, axis)


def dequantize_matmul(acc: Array, left: F32, right: F32, scale: float) -> F32:
    order = memory_order(acc)
    out = _empty_like(acc, order, np.float32)
    rows = np.ascontiguousarray(_flat(acc, order)).reshape(-1, acc.shape[order[-1]])
    kernels().dequantize(rows, _flat(out, order), float((left[0] * right[0]) * f32(scale)), None, None)
    return out


def dequantize_attention(acc: Array, sums: Array, params: F32) -> F32:
    divisors = np.ascontiguousarray(sums.astype(np.float32))
    out = np.empty(acc.shape, np.float32)
    rows = np.ascontiguousarray(acc).reshape(-1, acc.shape[-1])
    kernels().dequantize_attention(rows, out, float(params[0]), divisors)
    return out


def add(x: Array, y: Array) -> Array:
    """x + y; one pass where both lie alike in memory, or y is one value a channel and channels are innermost."""
    if x.dtype == y.dtype == np.float32 and x.ndim == y.ndim and x.size:
        order = memory_order(x)
        a, b = x.transpose(order), y.transpose(order)
        if a.flags.c_contiguous and b.flags.c_contiguous:
            out = np.empty(a.shape, np.float32)
            if a.shape == b.shape:
                kernels().add(a, b, out)
                return out.transpose(_inverse(order))
            if b.shape[-1] == a.shape[-1] == b.size:
                kernels().add_row(a.reshape(-1, a.shape[-1]), b, out)
                return out.transpose(_inverse(order))
    return np.asarray(np.add(x, y))


def softmax(x: F32, where: str) -> tuple[Array, Array]:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    p = np.empty(rows.shape, np.int8)
    sums = np.empty(len(rows), np.int32)
    if not kernels().softmax(rows, p, sums):
        raise NonFiniteError(f"{where}: its input holds NaN or +infinity")
    return p.reshape(x.shape), sums.reshape(x.shape[:-1])


def group_norm(x: F32, gamma: F32 | None, beta: F32 | None, groups: int, eps: float, where: str) -> F32:
    if x.ndim > 2 and memory_order(x) == (0, *range(2, x.ndim), 1):
        return _group_norm_innermost(x, gamma, beta, groups, eps, where)
    batch, channels = x.shape[:2]
    inner, tail = channels // groups, (1,) * (x.ndim - 2)
    rows = np.ascontiguousarray(x).reshape(batch * groups, -1)
    mean, rstd = (
        np.repeat(v.reshape(batch, groups), inner, 1).reshape(batch, channels, *tail)
        for v in functions.moments(rows, eps, where)
    )
    out = np.empty(x.shape, np.float32)
    np.subtract(x, mean, out=out)
    out *= rstd
    if gamma is not None:
        out *= gamma.reshape(1, channels, *tail)
    if beta is not None:
        out += beta.reshape(1, channels, *tail)
    return out


def _group_norm_innermost(
    x: F32, gamma: F32 | None, beta: F32 | None, groups: int, eps: float, where: str
) -> F32:
    """The same, for channels innermost in memory."""
    order, (batch, channels) = memory_order(x), x.shape[:2]
    out = _empty_like(x, order, np.float32)
    pictures = np.ascontiguousarray(x.transpose(order)).reshape(batch, -1, channels)
    targets = out.transpose(order).reshape(batch, -1, channels)
    gamma, beta = (None if v is None else np.ascontiguousarray(v) for v in (gamma, beta))
    for picture, target in zip(pictures, targets, strict=True):
        if not kernels().group_norm(picture, target, groups, gamma, beta, eps):
            raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return out


def layer_norm(x: F32, gamma: F32 | None, beta: F32 | None, eps: float, where: str) -> F32:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = np.empty(rows.shape, np.float32)
    gamma, beta = (None if v is None else np.ascontiguousarray(v) for v in (gamma, beta))
    if not kernels().layer_norm(rows, out, gamma, beta, eps):
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    return out.reshape(x.shape)


def rms_norm(x: F32, gamma: F32 | None, eps: float, where: str) -> F32:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = rows * functions.root_mean_squares(rows, eps, where)[:, None]
    if gamma is not None:
        out *= gamma
    return out.reshape(x.shape)


def total(x: F32, where: str) -> F32:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    return functions.total(rows, where).reshape(x.shape[:-1])


def gather(table: Array, index: Array, where: str) -> Array:
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < len(table)):
        raise TensorError(
            f"{where}: index {int(index.min())}…{int(index.max())} outside a table of {len(table)}"
        )
    return table[index]


_UNARY: dict[str, Callable[[F32], F32]] = {
    "sigmoid": functions.sigmoid,
    "tanh": functions.tanh,
    "relu": lambda x: np.maximum(x, f32(0)),
    "exp": functions.exp32,
    "sqrt": np.sqrt,
    "log": functions.log32,
    "trunc": np.trunc,
    "sin": lambda x: functions.trig(x, 0),
    "cos": lambda x: functions.trig(x, 1),
}
_BINARY: dict[str, Callable[[F32, F32], F32]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "less": lambda a, b: (a < b).astype(np.float32),
    "equal": lambda a, b: (a == b).astype(np.float32),
}


def silu(x: F32) -> F32:
    order = memory_order(x)
    out = _empty_like(x, order, np.float32)
    kernels().silu(np.ascontiguousarray(_flat(x, order)), _flat(out, order))
    return out


def gelu(x: F32, tanh: bool) -> F32:
    order = memory_order(x)
    out = _empty_like(x, order, np.float32)
    kernels().gelu(np.ascontiguousarray(_flat(x, order)), _flat(out, order), tanh)
    return out


def execute(op: str, operands: Sequence[Array], attrs: Attrs, where: str) -> tuple[Array, ...]:
    """One vector or move command; `quantize`, which has state, has its own function."""
    return resolve(op, attrs, where)(operands)


Resolved = Callable[[Sequence[Array]], tuple[Array, ...]]
"""Operands to results."""


def resolve(op: str, attrs: Attrs, where: str) -> Resolved:
    """A command's function, its attributes read: what a program resolves once and calls in every step."""
    if op in _UNARY:
        unary = _UNARY[op]
        return lambda t: (_elementwise(unary, np.float32, t[0]),)
    if op in _BINARY:
        binary = _BINARY[op]
        return lambda t: (np.asarray(binary(t[0], t[1])),)
    match op:
        case "silu":
            return lambda t: (silu(t[0]),)
        case "gelu":
            tanh = bool(attrs["tanh"])
            return lambda t: (gelu(t[0], tanh),)
        case "add":
            return lambda t: (add(t[0], t[1]),)
        case "dequantize":
            axis = integer(attrs, "axis")
            return lambda t: (dequantize(t[0], t[1], t[2], t[3] if len(t) > 3 else None, axis),)
        case "quantize_block":
            form: BlockFormat = attrs["format"]  # type: ignore[assignment]  # validated with the program
            block, axis = integer(attrs, "block"), integer(attrs, "axis")
            return lambda t: blocks.quantize(t[0], form, block, axis, where)
        case "dequantize_block":
            axis = integer(attrs, "axis")
            return lambda t: (blocks.dequantize(t[0], t[1], t[2], t[3] if len(t) > 3 else None, axis),)
        case "dequantize_matmul":
            factor = number(attrs, "factor")
            return lambda t: (dequantize_matmul(t[0], t[1], t[2], factor),)
        case "dequantize_attention":
            return lambda t: (dequantize_attention(t[0], t[1], t[2]),)
        case "softmax":
            return lambda t: softmax(t[0], where)
        case "difference":
            return lambda t: (np.subtract(t[0], t[1]),)
        case "select":
            return lambda t: (np.where(t[0] != 0, t[1], t[2]),)
        case "rms_norm":
            eps = number(attrs, "eps")
            return lambda t: (rms_norm(t[0], t[1] if len(t) > 1 else None, eps, where),)
        case "sum":
            return lambda t: (total(t[0], where),)
        case "cast":
            return lambda t: (t[0].astype(np.float32),)
        case "group_norm":
            groups, eps = integer(attrs, "groups"), number(attrs, "eps")
            return lambda t: (group_norm(t[0], *_affine(t), groups, eps, where),)
        case "layer_norm":
            eps = number(attrs, "eps")
            return lambda t: (layer_norm(t[0], *_affine(t), eps, where),)
        case _:
            return _resolve_move(op, attrs, where)


def _affine(t: Sequence[Array]) -> tuple[F32 | None, F32 | None]:
    """gamma and beta of a norm."""
    return t[1] if len(t) > 1 else None, t[2] if len(t) > 2 else None


def _resolve_move(op: str, attrs: Attrs, where: str) -> Resolved:
    match op:
        case "reshape":
            shape = ints(attrs, "shape")
            return lambda t: (t[0].reshape(shape),)
        case "permute":
            order = ints(attrs, "order")
            return lambda t: (t[0].transpose(order),)
        case "concat":
            axis = integer(attrs, "axis")
            return lambda t: (_concat(t, axis),)
        case "slice":
            part = slice(integer(attrs, "start"), integer(attrs, "stop"), integer(attrs, "step"))
            index = (*[slice(None)] * integer(attrs, "axis"), part)
            return lambda t: (t[0][index],)
        case "broadcast":
            shape = ints(attrs, "shape")
            return lambda t: (np.broadcast_to(t[0], shape),)
        case "upsample_nearest":
            fh, fw = ints(attrs, "factor")
            return lambda t: (_upsample(t[0], fh, fw),)
        case "gather":
            return lambda t: (gather(t[0], t[1], where),)
    raise KeyError(op)


def _concat(parts: Sequence[Array], axis: int) -> Array:
    order = memory_order(parts[0])
    turned = [np.ascontiguousarray(p.transpose(order)) for p in parts]
    at = order.index(axis)
    shape = list(turned[0].shape)
    shape[at] = sum(p.shape[at] for p in turned)
    out = np.empty(shape, parts[0].dtype)
    kernels().concatenate(turned, at, out)
    return out.transpose(_inverse(order))


def _upsample(x: Array, fh: int, fw: int) -> Array:
    n, c, h, w = x.shape
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    wide = np.broadcast_to(channels_last[:, :, None, :, None, :], (n, h, fh, w, fw, c))
    return wide.reshape(n, h * fh, w * fw, c).transpose(0, 3, 1, 2)

# SPDX-License-Identifier: Apache-2.0
"""Commands with operands that reach the corners of the instruction set, drawn from any source of choices.

`Source` is a seeded generator here and hypothesis in the property tests; a case looks the same from both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from support.isa_scalar import Value, f32

T = TypeVar("T")

OPS = (
    *("conv2d", "linear", "matmul", "quantize", "dequantize", "dequantize_matmul", "softmax"),
    *(
        "dequantize_attention",
        "add",
        "sub",
        "mul",
        "div",
        "silu",
        "sigmoid",
        "tanh",
        "relu",
        "exp",
        "sqrt",
        "log",
        "trunc",
        "sin",
        "cos",
    ),
    *("max", "min", "less", "equal", "select", "rms_norm", "sum"),
    *("gelu", "cast", "group_norm", "layer_norm", "reshape", "permute", "concat", "slice", "broadcast"),
    *("upsample_nearest", "gather"),
    *("quantize_block", "conv2d_block", "linear_block", "dequantize_block"),
    *("linear_increment", "difference", "keep", "recall"),
)
PERIOD = 3
"""Of the programs in which values are kept and recalled."""


class Source(Protocol):
    def integer(self, low: int, high: int) -> int: ...
    def choice(self, options: Sequence[T]) -> T: ...
    def floats(self, count: int, low: float, high: float) -> list[float]:
        """Binary32 numbers within the bounds, the corners among them."""
        ...


class Seeded:
    """A `Source` that gives the same choices on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return low + int(self._random.random() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def floats(self, count: int, low: float, high: float) -> list[float]:
        return [self._one(low, high) for _ in range(count)]

    def _one(self, low: float, high: float) -> float:
        kind = self.integer(0, 9)
        if kind == 0:
            return self.choice(
                [v for v in (0.0, low, high, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5) if low <= v <= high]
            )
        if kind == 1:
            tiny = math.ldexp(self._random.random() * 2 - 1, self.integer(-149, 0))
            return f32(min(max(tiny, low), high))
        reach = min(high - low, 16.0) if kind < 8 else high - low
        start = low if reach == high - low else max(low, -reach / 2)
        return min(max(f32(start + self._random.random() * reach), low), high)


@dataclass(frozen=True)
class Case:
    """One command and its operands in successive steps (more than one only where it keeps state). `keep` and `recall` are one
    case: full steps keep the operand and give it, the increments behind them recall it."""

    op: str
    attrs: dict[str, Any]
    steps: tuple[tuple[int, tuple[Value, ...]], ...]


BIG = f32(1e30)


def _i8(s: Source, *shape: int, symmetric: bool = False) -> Value:
    low = -127 if symmetric else -128
    extreme = s.integer(0, 3) == 0
    data = [s.choice((low, 127)) if extreme else s.integer(low, 127) for _ in range(math.prod(shape))]
    return Value(shape, "i8", list(data))


def _f32(s: Source, *shape: int, low: float = -BIG, high: float = BIG) -> Value:
    return Value(shape, "f32", list(s.floats(math.prod(shape), low, high)))


def _i32(s: Source, *shape: int, low: int = -(2**31), high: int = 2**31 - 1) -> Value:
    return Value(shape, "i32", [s.integer(low, high) for _ in range(math.prod(shape))])


def _params(s: Source, zero_point: int | None = None) -> Value:
    zero = s.integer(-128, 127) if zero_point is None else zero_point
    return Value((2,), "f32", [_scale(s), float(zero)])


def _scale(s: Source) -> float:
    return s.floats(1, f32(1e-4), f32(0.5))[0]


def _shape(s: Source, rank: int, largest: int = 4) -> tuple[int, ...]:
    return tuple(s.integer(1, largest) for _ in range(rank))


def _quantize(s: Source) -> Case:
    policy = s.choice(("static", "clustered", "dynamic"))
    symmetric = policy == "dynamic" or s.choice((True, False))
    clusters = s.integer(2, 3) if policy == "clustered" else 1
    attrs = {
        "policy": policy,
        "scales": tuple(_scale(s) for _ in range(clusters)),
        "zero_points": tuple(0 if symmetric else s.integer(-128, 127) for _ in range(clusters)),
        "bounds": (0, 2, 3)[:clusters],
        "symmetric": symmetric,
        "hysteresis": s.choice((1.0, 1.5, 1.1)),
    }
    shape = _shape(s, 2)
    steps = []
    for step in range(4 if policy != "static" else 1):
        reach = s.choice((f32(16.0), f32(12.5), BIG, f32(1e-33), 0.0))
        steps.append((step, (_f32(s, *shape, low=-reach, high=reach),)))
    return Case("quantize", attrs, tuple(steps))


def _block_codes(s: Source, form: str, *shape: int) -> Value:
    low, high = {"uint4": (0, 15), "int4": (-7, 7), "mxint8": (-127, 127)}[form]
    extreme = s.integer(0, 2) == 0
    data = [s.choice((low, high)) if extreme else s.integer(low, high) for _ in range(math.prod(shape))]
    return Value(shape, "i8", list(data))


def _block_scales(s: Source, form: str, *shape: int) -> Value:
    def one() -> int:
        if form == "mxint8":
            return s.choice((0, 1, 2**16, 2 ** s.integer(0, 16)))
        mantissa, exponent = s.integer(8, 15), s.integer(0, 14)
        return s.choice((0, 1, 7, 229_376, min(mantissa << exponent, 229_376)))

    return Value(shape, "i32", [one() for _ in range(math.prod(shape))])


def _block(op: str, s: Source) -> tuple[dict[str, Any], tuple[Value, ...]]:
    form = s.choice(("uint4", "int4", "mxint8"))
    weights = "mxint8" if form == "mxint8" else "int4"
    block = s.choice((16, 32, 64))
    channels = s.choice((1, block - 1, block, block + 3, 2 * block))
    count, attrs = -(-channels // block), {"format": form, "block": block}
    if op == "quantize_block":
        axis, reach = s.integer(0, 2), s.choice((1.0, 16.0, BIG, f32(1e-33), 0.0))
        shape = list(_shape(s, 3, 2))
        shape[axis] = channels
        x = _f32(s, *shape, low=-reach, high=s.choice((reach, 0.0)))
        return {**attrs, "axis": axis}, (x,)
    out = s.integer(1, 3)
    if op == "linear_block":
        lead = _shape(s, s.integer(1, 2), 3)
        x, scales = _block_codes(s, form, *lead, channels), _block_scales(s, form, *lead, count)
        w, w_scales = _block_codes(s, weights, out, channels), _block_scales(s, weights, out, count)
        return attrs, (x, scales, w, w_scales)
    kernel, dilation = (s.integer(1, 2), s.integer(1, 3)), s.choice(((1, 1), (2, 1)))
    size = tuple(d * (k - 1) + 1 + s.integer(0, 2) for d, k in zip(dilation, kernel, strict=True))
    how = {"stride": (s.integer(1, 2), s.integer(1, 2)), "padding": (s.integer(0, 1), s.integer(0, 2))}
    batch = s.integer(1, 2)
    x, scales = _block_codes(s, form, batch, channels, *size), _block_scales(s, form, batch, count, *size)
    w = _block_codes(s, weights, out, channels, *kernel)
    w_scales = _block_scales(s, weights, out, count, *kernel)
    told = {"dilation": dilation} if dilation != (1, 1) else {}
    return {**attrs, **how, **told}, (x, scales, w, w_scales)


def _kept(op: str, s: Source) -> Case:
    shape, dtype = _shape(s, s.integer(1, 3)), s.choice(("f32", "i8", "i32"))
    makers: dict[str, Callable[..., Value]] = {"f32": _f32, "i8": _i8, "i32": _i32}
    steps = tuple((step, (makers[dtype](s, *shape),)) for step in range(2 * PERIOD))
    slot = {"slot": "it"}
    return Case(op, slot if op == "keep" else {**slot, "shape": shape, "dtype": dtype}, steps)


def make(op: str, s: Source) -> Case:
    """A case of this command."""
    if op == "quantize":
        return _quantize(s)
    if op in ("keep", "recall"):
        return _kept(op, s)
    attrs, operands = _stateless(op, s)
    return Case(op, attrs, ((0, operands),))


def _stateless(op: str, s: Source) -> tuple[dict[str, Any], tuple[Value, ...]]:
    match op:
        case "conv2d":
            batch, channels, out = s.integer(1, 2), s.integer(1, 3), s.integer(1, 3)
            groups, kernel, dilation = (
                s.choice((1, 1, 2, 3)),
                (s.integer(1, 3), s.integer(1, 3)),
                s.choice(((1, 1), (2, 1), (1, 3))),
            )
            size = tuple(d * (k - 1) + 1 + s.integer(0, 2) for d, k in zip(dilation, kernel, strict=True))
            attrs = {
                "stride": (s.integer(1, 2), s.integer(1, 2)),
                "padding": (s.integer(0, 2), s.integer(0, 1)),
                **({"dilation": dilation} if dilation != (1, 1) else {}),
                **({"groups": groups} if groups > 1 else {}),
            }
            x = _i8(s, batch, groups * channels, *size)
            return attrs, (x, _params(s), _i8(s, groups * out, channels, *kernel))
        case "linear":
            k = s.choice((1, 5, 40))
            lead = _shape(s, s.integer(0, 2), 3)
            zero = s.choice((True, False))
            attrs = {"reference": "zero"} if zero else {}
            x = _i8(s, *lead, k, symmetric=zero)
            return attrs, (x, _params(s, 0 if zero else None), _i8(s, s.integer(1, 4), k))
        case "linear_increment":
            k = s.choice((1, 5, 40))
            lead, params = _shape(s, s.integer(0, 2), 3), _params(s)
            x, anchor = _i8(s, *lead, k), _i8(s, *lead, k)
            return {}, (x, params, _i8(s, s.integer(1, 4), k), anchor, params)
        case "difference":
            shape = _shape(s, 2)
            return {}, (_i32(s, *shape), _i32(s, *shape))
        case "matmul":
            outer, m = _shape(s, s.integer(1, 2), 2), s.integer(1, 3)
            k, n = s.choice((1, 7, 32)), s.integer(1, 3)
            a, b = _i8(s, *outer, m, k, symmetric=True), _i8(s, *outer, k, n, symmetric=True)
            return {"static_b": s.choice((True, False))}, (a, _params(s, 0), b, _params(s, 0))
        case "dequantize":
            shape = _shape(s, 3)
            axis = s.integer(-3, 2)
            channels = shape[axis]
            operands = [_i32(s, *shape), _params(s), _f32(s, channels, low=f32(1e-5), high=0.5)]
            if s.choice((True, False)):
                operands.append(_f32(s, channels, low=-64.0, high=64.0))
            return {"axis": axis}, tuple(operands)
        case "quantize_block" | "conv2d_block" | "linear_block":
            return _block(op, s)
        case "dequantize_block":
            shape = _shape(s, 3)
            axis, most = s.integer(-3, 2), s.choice((2**20, 2**54, 2**62))
            acc = Value(shape, "i64", [s.integer(-most, most) for _ in range(math.prod(shape))])
            operands = [acc, _params(s, 0), _f32(s, shape[axis], low=f32(1e-9), high=0.5)]
            if s.choice((True, False)):
                operands.append(_f32(s, shape[axis], low=-64.0, high=64.0))
            return {"axis": axis}, tuple(operands)
        case "dequantize_matmul":
            return {"factor": _scale(s)}, (_i32(s, *_shape(s, 3)), _params(s, 0), _params(s, 0))
        case "softmax":
            x = _f32(s, *_shape(s, 2), s.choice((1, 3, 17)), low=-200.0, high=200.0)
            for at in range(s.choice((0, 0, 1, x.shape[-1]))):  # masked: one value, a whole row
                x.data[at] = -math.inf
            return {}, (x,)
        case "dequantize_attention":
            shape = _shape(s, 3)
            return {}, (_i32(s, *shape), _i32(s, *shape[:-1], low=127, high=2**31 - 1), _params(s, 0))
        case "add" | "sub" | "mul" | "div" | "max" | "min" | "less" | "equal":
            shape = _shape(s, 3, 3)
            other = tuple(size if s.choice((True, False)) else 1 for size in shape)[s.integer(0, 2) :]
            operands = [_f32(s, *shape), _f32(s, *other)]
            if op == "equal":
                operands = [
                    Value(v.shape, "f32", [float(s.integer(-1, 1)) for _ in v.data]) for v in operands
                ]
            if s.choice((True, False)):
                operands.reverse()
            return {}, tuple(operands)
        case "select":
            shape = _shape(s, 3, 3)
            shapes = [
                tuple(size if s.choice((True, False)) else 1 for size in shape)[s.integer(0, 2) :]
                for _ in range(2)
            ]
            operands = [_f32(s, *shape), *(_f32(s, *other) for other in shapes)]
            condition = operands.pop(s.integer(0, 2))
            marks = Value(
                condition.shape, "f32", [float(s.choice((0.0, -0.0, 1.0, -2.5))) for _ in condition.data]
            )
            operands[0].data[0] = s.choice((-math.inf, 1.0))
            return {}, (marks, *operands)
        case "silu" | "sigmoid" | "tanh" | "relu" | "exp" | "trunc":
            return {}, (_f32(s, *_shape(s, 2)),)
        case "sqrt" | "log":
            return {}, (_f32(s, *_shape(s, 2), low=0.0, high=s.choice((4.0, BIG))),)
        case "sum":
            reach = s.choice((8.0, BIG, f32(1e-38)))
            return {}, (_f32(s, *_shape(s, s.integer(1, 3), 5), low=-reach, high=reach),)
        case "rms_norm":
            shape = _shape(s, s.integer(1, 3), 5)
            return {"eps": s.choice((1e-5, 1e-6, 1e-12))}, _normalised(s, shape, shape[-1])[:2]
        case "gelu":
            return {"tanh": s.choice((True, False))}, (_f32(s, *_shape(s, 2)),)
        case "sin" | "cos":
            return {}, (_f32(s, *_shape(s, 2), low=-(2.0**20), high=2.0**20),)
        case "cast":
            if s.choice((True, False)):
                return {}, (_i8(s, 6) if s.choice((True, False)) else _i32(s, 6),)
            reach = s.choice((1000, 2**25, 2**62))
            return {}, (Value((6,), "i64", [s.integer(-reach, reach) for _ in range(6)]),)
        case "group_norm":
            groups, each = s.integer(1, 2), s.integer(1, 3)
            shape = (s.integer(1, 2), groups * each, *_shape(s, s.integer(0, 2), 3))
            return {"groups": groups, "eps": s.choice((1e-5, 1e-6, 1e-12))}, _normalised(
                s, shape, groups * each
            )
        case "layer_norm":
            shape = _shape(s, s.integer(1, 3), 5)
            return {"eps": s.choice((1e-5, 1e-6, 1e-12))}, _normalised(s, shape, shape[-1])
    return _moved(op, s)


def _normalised(s: Source, shape: tuple[int, ...], channels: int) -> tuple[Value, ...]:
    reach = s.choice((8.0, BIG, f32(1e-38)))
    x = _f32(s, *shape, low=-reach, high=reach)
    affine = [_f32(s, channels, low=-4.0, high=4.0) for _ in range(s.integer(0, 2))]
    return (x, *affine)


def _moved(op: str, s: Source) -> tuple[dict[str, Any], tuple[Value, ...]]:
    def any_type(*shape: int) -> Value:
        makers: tuple[Callable[..., Value], ...] = (_i8, _f32, _i32)
        make = s.choice(makers)
        return make(s, *shape)

    match op:
        case "reshape":
            a, b, c = _shape(s, 3)
            return {"shape": s.choice(((a * b, c), (c, b, a), (a * b * c,)))}, (any_type(a, b, c),)
        case "permute":
            order = s.choice(((0, 2, 1), (2, 0, 1), (1, 2, 0), (0, 1, 2)))
            return {"order": order}, (any_type(*_shape(s, 3)),)
        case "concat":
            axis, sizes = s.integer(0, 2), list(_shape(s, 3, 3))
            parts = []
            for _ in range(s.integer(1, 3)):
                sizes[axis] = s.integer(1, 3)
                parts.append(_f32(s, *sizes))
            return {"axis": axis}, tuple(parts)
        case "slice":
            shape, axis = _shape(s, 3, 6), s.integer(0, 2)
            start = s.integer(0, shape[axis] - 1)
            stop = s.integer(start + 1, shape[axis])
            return {"axis": axis, "start": start, "stop": stop, "step": s.integer(1, 3)}, (any_type(*shape),)
        case "broadcast":
            shape = _shape(s, 3)
            narrow = tuple(size if s.choice((True, False)) else 1 for size in shape)[s.integer(0, 2) :]
            return {"shape": shape}, (any_type(*narrow),)
        case "upsample_nearest":
            return {"factor": (s.integer(1, 3), s.integer(1, 2))}, (any_type(*_shape(s, 4, 3)),)
        case "gather":
            rows = s.integer(1, 5)
            table = any_type(rows, *_shape(s, s.integer(0, 1)))
            index_shape = _shape(s, s.integer(0, 2))
            index = [s.integer(0, rows - 1) for _ in range(math.prod(index_shape))]
            return {}, (table, Value(index_shape, "i64", list(index)))
    raise NotImplementedError(op)

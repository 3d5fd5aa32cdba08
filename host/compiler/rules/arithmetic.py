# SPDX-License-Identifier: Apache-2.0
"""Products, and what works element by element; truth values are the numbers 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.builder import (
    DTYPES,
    Argument,
    Builder,
    Complex,
    LoweringError,
    Probabilities,
    Rule,
    Value,
)
from ditto_cosim.host.compiler.points import example
from ditto_cosim.protocol import isa

Number = int | float | bool


def add(low: Builder, a: Argument, b: Argument) -> Value:
    return low.emit("add", low.f32(a), low.f32(b))[0]


def sub(low: Builder, a: Argument, b: Argument) -> Value:
    return low.emit("sub", low.f32(a), low.f32(b))[0]


def mul(low: Builder, a: Argument, b: Argument) -> Value:
    return low.emit("mul", low.f32(a), low.f32(b))[0]


def div(low: Builder, a: Argument, b: Argument) -> Value:
    return low.emit("div", low.f32(a), low.f32(b))[0]


# --- types --------------------------------------------------------------------------------------------------------------


def to_dtype(low: Builder, node: Node, x: Argument, dtype: torch.dtype | None = None) -> Argument:
    """Binary32 stands for every floating type; an integer in it is exact as far as 2²⁴."""
    if dtype is None or isinstance(x, Probabilities | Complex):
        return x
    value = low.value(x)
    if dtype.is_floating_point:
        return low.f32(value)
    if dtype == torch.bool:
        return _truth(low, node, value)
    source = example(node.args[0]).dtype
    if DTYPES.get(dtype) == value.spec.dtype or not source.is_floating_point:
        return value
    return low.emit("trunc", value)[0]


def _truth(low: Builder, node: Node, x: Argument) -> Value:
    """Whether it is not 0."""
    if example(node.args[0]).dtype == torch.bool:
        return low.value(x)
    return not_(low, low.emit("equal", low.f32(x), low.f32(0.0))[0])


def not_(low: Builder, x: Argument) -> Value:
    return sub(low, 1.0, x)


# --- two operands -------------------------------------------------------------------------------------------------------


def _is_ones(operand: Argument) -> TypeGuard[torch.Tensor]:
    if not isinstance(operand, torch.Tensor) or operand.dtype != torch.int64:
        return False
    return operand.is_meta or bool((operand == 1).all())


def _binary(op: str) -> Rule:
    def rule(low: Builder, node: Node, a: Argument, b: Argument, *, alpha: float = 1) -> Argument:
        if alpha != 1:
            b = mul(low, b, alpha)
        if _is_complex(a) or _is_complex(b):
            return _complex_binary(low, op, a, b)
        neutral = 0 if op in ("add", "sub") else 1
        if isinstance(a, Value) and isinstance(b, int | float) and b == neutral:
            return a
        if (
            op == "mul" and isinstance(a, Value) and a.spec.dtype == "i64" and _is_ones(b)
        ):  # timesteps * ones(batch)
            return low.emit("broadcast", a, shape=isa.broadcast_shape(a.spec.shape, tuple(b.shape)))[0]
        return low.emit(op, low.f32(a), low.f32(b))[0]

    return rule


def _rsub(low: Builder, node: Node, a: Argument, b: Argument, alpha: float = 1) -> Value:
    return sub(low, b, a if alpha == 1 else mul(low, a, alpha))


def _division(
    low: Builder, node: Node, a: Argument, b: Argument, *, rounding_mode: str | None = None
) -> Argument:
    if rounding_mode is not None:
        quotient = div(low, a, b)
        return _floor(low, quotient) if rounding_mode == "floor" else low.emit("trunc", quotient)[0]
    if _is_complex(a):
        parts = low.complex(a)
        return Complex(div(low, parts.real, b), div(low, parts.imag, b))
    return div(low, a, b) if not isinstance(b, int | float) or b != 1 else low.value(a)


def _is_complex(x: Argument) -> bool:
    return isinstance(x, Complex) or (isinstance(x, torch.Tensor) and x.is_complex())


def _complex_binary(low: Builder, op: str, a: Argument, b: Argument) -> Complex:
    if op == "mul" and not (_is_complex(a) and _is_complex(b)):
        parts, factor = (low.complex(a), b) if _is_complex(a) else (low.complex(b), a)
        return Complex(mul(low, parts.real, factor), mul(low, parts.imag, factor))
    x, y = low.complex(a), low.complex(b)
    if op == "mul":
        return Complex(
            sub(low, mul(low, x.real, y.real), mul(low, x.imag, y.imag)),
            add(low, mul(low, x.real, y.imag), mul(low, x.imag, y.real)),
        )
    if op in ("add", "sub"):
        real, imag = (low.emit(op, p, q)[0] for p, q in ((x.real, y.real), (x.imag, y.imag)))
        return Complex(real, imag)
    raise LoweringError(f"{low.scope}: {op} of complex numbers is not supported")


def _extreme(op: str) -> Rule:
    return lambda low, node, a, b: low.emit(op, low.f32(a), low.f32(b))[0]


def _clamp(low: Builder, node: Node, x: Argument, least: Argument = None, most: Argument = None) -> Value:
    value = low.f32(x)
    if least is not None:
        value = low.emit("max", value, low.f32(least))[0]
    return value if most is None else low.emit("min", value, low.f32(most))[0]


def _compare(op: str, *, swapped: bool = False, negated: bool = False) -> Rule:
    def rule(low: Builder, node: Node, a: Argument, b: Argument) -> Value:
        left, right = low.f32(a), low.f32(b)
        (found,) = low.emit(op, *((right, left) if swapped else (left, right)))
        return not_(low, found) if negated else found

    return rule


def _and(low: Builder, node: Node, a: Argument, b: Argument) -> Value:
    return mul(low, _boolean(low, node, 0, a), _boolean(low, node, 1, b))


def _or(low: Builder, node: Node, a: Argument, b: Argument) -> Value:
    return low.emit("max", low.f32(_boolean(low, node, 0, a)), low.f32(_boolean(low, node, 1, b)))[0]


def _xor(low: Builder, node: Node, a: Argument, b: Argument) -> Value:
    same = low.emit("equal", low.f32(_boolean(low, node, 0, a)), low.f32(_boolean(low, node, 1, b)))[0]
    return not_(low, same)


def _boolean(low: Builder, node: Node, at: int, x: Argument) -> Argument:
    argument = node.args[at]
    if isinstance(argument, Node) and example(argument).dtype != torch.bool:
        raise LoweringError(
            f"{low.scope}: {node.target} of {example(argument).dtype} is not supported, expected bool"
        )
    return x


def _logical_not(low: Builder, node: Node, x: Argument) -> Value:
    return not_(low, _boolean(low, node, 0, x))


def _where(low: Builder, node: Node, condition: Argument, a: Argument, b: Argument) -> Value:
    return low.emit("select", low.f32(condition), low.f32(a), low.f32(b))[0]


def _masked_fill(low: Builder, node: Node, x: Argument, mask: Argument, value: Argument) -> Value:
    return _where(low, node, mask, value, x)


def _pow(low: Builder, node: Node, x: Argument, exponent: Argument) -> Value:
    if isinstance(x, int | float):
        return low.emit("exp", mul(low, exponent, math.log(x)))[0]
    value = low.f32(x)
    if not isinstance(exponent, int | float):
        return low.emit("exp", mul(low, exponent, low.emit("log", value)[0]))[0]
    if exponent < 0:
        return div(low, 1.0, _pow(low, node, value, -exponent))
    if exponent == 0.5:
        return low.emit("sqrt", value)[0]
    if exponent in (1, 2, 3, 4):
        square = value if exponent == 1 else mul(low, value, value)
        return square if exponent < 3 else mul(low, square, value if exponent == 3 else square)
    return low.emit("exp", mul(low, exponent, low.emit("log", value)[0]))[0]


# --- one operand --------------------------------------------------------------------------------------------------------


def _unary(op: str) -> Rule:
    def rule(low: Builder, node: Node, x: Argument) -> Value:
        return low.emit(op, low.f32(x))[0]

    return rule


def _composed(function: Callable[..., Value]) -> Rule:
    def rule(low: Builder, node: Node, x: Argument, *args: Any, **kwargs: Any) -> Value:
        return function(low, low.f32(x), *args, **kwargs)

    return rule


def _neg(low: Builder, node: Node, x: Argument) -> Argument:
    if isinstance(x, Complex):
        return Complex(mul(low, x.real, -1.0), mul(low, x.imag, -1.0))
    return mul(low, x, -1.0)


def _gelu(low: Builder, node: Node, x: Argument, *, approximate: str = "none") -> Value:
    return low.emit("gelu", low.f32(x), tanh=approximate == "tanh")[0]


def _rsqrt(low: Builder, x: Value) -> Value:
    return div(low, 1.0, low.emit("sqrt", x)[0])


def _floor(low: Builder, x: Value) -> Value:
    whole = low.emit("trunc", x)[0]
    return sub(low, whole, low.emit("less", x, whole)[0])


def _abs(low: Builder, x: Value) -> Value:
    return low.emit("max", x, mul(low, x, -1.0))[0]


def _softplus(low: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """log(1 + e^x), as max(x, 0) + log(1 + e^−|x|), which overflows nowhere."""
    scaled = x if beta == 1 else mul(low, x, beta)
    small = low.emit("exp", mul(low, _abs(low, scaled), -1.0))[0]
    y = add(low, low.emit("relu", scaled)[0], low.emit("log", add(low, small, 1.0))[0])
    return y if beta == 1 else mul(low, y, 1 / beta)


def _mish(low: Builder, x: Value) -> Value:
    return mul(low, x, low.emit("tanh", _softplus(low, x))[0])


def _log_sigmoid(low: Builder, x: Value) -> Value:
    return mul(low, _softplus(low, mul(low, x, -1.0)), -1.0)


def _leaky_relu(low: Builder, x: Value, slope: float = 0.01) -> Value:
    return low.emit("max" if slope <= 1 else "min", x, mul(low, x, slope))[0]


def _elu(low: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    below = mul(
        low,
        sub(low, low.emit("exp", mul(low, low.emit("min", x, low.f32(0.0))[0], input_scale))[0], 1.0),
        alpha,
    )
    y = add(low, low.emit("relu", x)[0], below)
    return y if scale == 1 else mul(low, y, scale)


def _hardtanh(low: Builder, x: Value, least: float = -1, most: float = 1) -> Value:
    return low.emit("min", low.emit("max", x, low.f32(least))[0], low.f32(most))[0]


def _hardsigmoid(low: Builder, x: Value) -> Value:
    return _hardtanh(low, add(low, mul(low, x, 1 / 6), 0.5), 0, 1)


def _hardswish(low: Builder, x: Value) -> Value:
    return mul(low, x, _hardsigmoid(low, x))


def _erf(low: Builder, x: Value) -> Value:
    """2·gelu(√2·x) ÷ (√2·x) − 1, but where that is 0 ÷ 0."""
    root = mul(low, x, math.sqrt(2))
    zero = low.emit("equal", x, low.f32(0.0))[0]
    divisor = low.emit("select", zero, low.f32(1.0), root)[0]
    doubled = mul(low, low.emit("gelu", root, tanh=False)[0], 2.0)
    return low.emit("select", zero, low.f32(0.0), sub(low, div(low, doubled, divisor), 1.0))[0]


# --- complex numbers ----------------------------------------------------------------------------------------------------


def _polar(low: Builder, node: Node, size: Argument, angle: Argument) -> Complex:
    turn = low.f32(angle)
    return Complex(*(mul(low, size, low.emit(op, turn)[0]) for op in ("cos", "sin")))


def _complex_of(low: Builder, node: Node, real: Argument, imag: Argument) -> Complex:
    return Complex(low.f32(real), low.f32(imag))


def _part(name: str) -> Rule:
    return lambda low, node, x: getattr(low.complex(x), name)


# --- fillers ------------------------------------------------------------------------------------------------------------


def _filled(value: float | None) -> Rule:
    """`zeros_like` and its kin: of what they fill, only the shape matters."""

    def rule(low: Builder, node: Node, x: Argument, *args: Any, **kwargs: Any) -> torch.Tensor:
        shape = example(node)
        number = value
        if number is None:
            number = kwargs.get("fill_value", args[-1] if args else 0)
        if not isinstance(number, int | float):
            raise LoweringError(f"{low.scope}: {node.target} with a computed value is not supported")
        return torch.full(tuple(shape.shape), number, dtype=shape.dtype)

    return rule


RULES: dict[str, Rule] = {
    "aten.conv2d.default": Builder.conv2d,
    "aten.linear.default": Builder.linear,
    **dict.fromkeys(("aten.matmul.default", "aten.bmm.default", "aten.mm.default"), Builder.matmul),
    "aten._to_copy.default": lambda low, node, x, *_, dtype=None, **__: to_dtype(low, node, x, dtype),
    "aten.to.dtype": lambda low, node, x, dtype, *_, **__: to_dtype(low, node, x, dtype),
    "aten.to.dtype_layout": lambda low, node, x, *_, dtype=None, **__: to_dtype(low, node, x, dtype),
    "aten.to.device": lambda low, node, x, _device, dtype=None, *_, **__: to_dtype(low, node, x, dtype),
    "aten.type_as.default": lambda low, node, x, other: to_dtype(low, node, x, example(node).dtype),
    **{f"aten.{op}.{form}": _binary(op) for op in ("add", "sub", "mul") for form in ("Tensor", "Scalar")},
    **{f"aten.div.{form}": _division for form in ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode")},
    "aten.rsub.Scalar": _rsub,
    "aten.rsub.Tensor": _rsub,
    "aten.maximum.default": _extreme("max"),
    "aten.minimum.default": _extreme("min"),
    **{f"aten.{op}.{form}": _clamp for op in ("clamp", "clip") for form in ("default", "Tensor")},
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": lambda low, node, x, most: _clamp(low, node, x, None, most),
    **{
        f"aten.{op}.{form}": rule
        for op, rule in {
            "lt": _compare("less"),
            "gt": _compare("less", swapped=True),
            "ge": _compare("less", negated=True),
            "le": _compare("less", swapped=True, negated=True),
            "eq": _compare("equal"),
            "ne": _compare("equal", negated=True),
        }.items()
        for form in ("Tensor", "Scalar")
    },
    **dict.fromkeys(("aten.logical_and.default", "aten.bitwise_and.Tensor", "aten.__and__.Tensor"), _and),
    **dict.fromkeys(("aten.logical_or.default", "aten.bitwise_or.Tensor", "aten.__or__.Tensor"), _or),
    **dict.fromkeys(("aten.logical_xor.default", "aten.bitwise_xor.Tensor", "aten.__xor__.Tensor"), _xor),
    **dict.fromkeys(("aten.logical_not.default", "aten.bitwise_not.default"), _logical_not),
    **{f"aten.where.{form}": _where for form in ("self", "ScalarOther", "ScalarSelf", "Scalar")},
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    **{f"aten.pow.{form}": _pow for form in ("Tensor_Scalar", "Tensor_Tensor", "Scalar")},
    "aten.square.default": lambda low, node, x: _pow(low, node, x, 2),
    "aten.neg.default": _neg,
    **{
        f"aten.{op}.default": _unary(op)
        for op in ("silu", "sigmoid", "tanh", "relu", "exp", "sqrt", "log", "trunc", "sin", "cos")
    },
    "aten.gelu.default": _gelu,
    **{
        f"aten.{op}.default": _composed(function)
        for op, function in {
            "rsqrt": _rsqrt,
            "floor": _floor,
            "ceil": lambda low, x: mul(low, _floor(low, mul(low, x, -1.0)), -1.0),
            "reciprocal": lambda low, x: div(low, 1.0, x),
            "abs": _abs,
            "softplus": _softplus,
            "mish": _mish,
            "log_sigmoid": _log_sigmoid,
            "leaky_relu": _leaky_relu,
            "elu": _elu,
            "hardtanh": _hardtanh,
            "relu6": lambda low, x: _hardtanh(low, x, 0, 6),
            "hardsigmoid": _hardsigmoid,
            "hardswish": _hardswish,
            "erf": _erf,
            "exp2": lambda low, x: low.emit("exp", mul(low, x, math.log(2)))[0],
            "expm1": lambda low, x: sub(low, low.emit("exp", x)[0], 1.0),
            "log1p": lambda low, x: low.emit("log", add(low, x, 1.0))[0],
            "log2": lambda low, x: mul(low, low.emit("log", x)[0], 1 / math.log(2)),
        }.items()
    },
    "aten.polar.default": _polar,
    "aten.complex.default": _complex_of,
    "aten.real.default": _part("real"),
    "aten.imag.default": _part("imag"),
    **dict.fromkeys(
        ("aten.zeros_like.default", "aten.new_zeros.default", "aten.empty_like.default"), _filled(0)
    ),
    **dict.fromkeys(("aten.ones_like.default", "aten.new_ones.default"), _filled(1)),
    "aten.new_empty.default": _filled(0),
    **dict.fromkeys(("aten.full_like.default", "aten.new_full.default", "aten.fill.Scalar"), _filled(None)),
}

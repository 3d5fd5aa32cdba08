# SPDX-License-Identifier: Apache-2.0
"""Sums, extremes and norms; softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.builder import (
    Argument,
    Builder,
    LoweringError,
    Probabilities,
    Rule,
    Value,
)
from ditto_cosim.host.compiler.points import example
from ditto_cosim.host.compiler.rules.arithmetic import add, div, mul, sub
from ditto_cosim.host.compiler.rules.movement import axis_of, moved_last, permuted, reshaped

Axes = int | Sequence[int] | None


def _axes(axes: Axes, rank: int) -> list[int]:
    if axes is None or (not isinstance(axes, int) and not len(axes)):
        return list(range(rank))
    return sorted(axis_of(a, rank) for a in ([axes] if isinstance(axes, int) else axes))


def total(low: Builder, x: Value, axes: Axes) -> tuple[Value, int]:
    """Sums over some axes, which go, and how many values each is of."""
    over = _axes(axes, len(x.spec.shape))
    rest = [i for i in range(len(x.spec.shape)) if i not in over]
    count = math.prod(x.spec.shape[i] for i in over)
    lead = tuple(x.spec.shape[i] for i in rest)
    return low.emit("sum", reshaped(low, permuted(low, x, [*rest, *over]), (*lead, count)))[0], count


def _sum(low: Builder, node: Node, x: Argument, axes: Axes = None, *_: Any, **__: Any) -> Value:
    return reshaped(low, total(low, low.f32(x), axes)[0], tuple(example(node).shape))


def _mean(low: Builder, node: Node, x: Argument, axes: Axes = None, *_: Any, **__: Any) -> Value:
    found, count = total(low, low.f32(x), axes)
    return reshaped(low, div(low, found, float(count)), tuple(example(node).shape))


def _variance(low: Builder, x: Value, axes: Axes, correction: float) -> Value:
    over = _axes(axes, len(x.spec.shape))
    found, count = total(low, x, over)
    kept = tuple(1 if i in over else size for i, size in enumerate(x.spec.shape))
    centred = sub(low, x, reshaped(low, div(low, found, float(count)), kept))
    squares, _ = total(low, mul(low, centred, centred), over)
    return div(low, squares, float(count - correction))


def _spread(root: bool) -> Rule:
    def rule(
        low: Builder,
        node: Node,
        x: Argument,
        axes: Axes = None,
        unbiased: bool = True,
        *_: Any,
        **options: Any,
    ) -> Value:
        correction = options.get("correction")
        found = _variance(low, low.f32(x), axes, int(unbiased) if correction is None else correction)
        return reshaped(low, low.emit("sqrt", found)[0] if root else found, tuple(example(node).shape))

    return rule


def _vector_norm(
    low: Builder, node: Node, x: Argument, order: float | None = 2, axes: Axes = None, *_: Any, **__: Any
) -> Value:
    if order not in (2, None):
        raise LoweringError(f"{low.scope}: a norm of order {order} is not supported, expected 2")
    value = low.f32(x)
    return reshaped(
        low, low.emit("sqrt", total(low, mul(low, value, value), axes)[0])[0], tuple(example(node).shape)
    )


def _extreme(op: str) -> Rule:
    """By halves: every comparison is exact, in whatever order."""

    def rule(low: Builder, node: Node, x: Argument, axes: Axes = None, *_: Any, **__: Any) -> Value:
        value = low.f32(x)
        for axis in _axes(axes, len(value.spec.shape)):
            while (length := value.spec.shape[axis]) > 1:
                half = length // 2
                ends = [(0, half), (half, 2 * half)]
                first, second = (
                    low.emit("slice", value, axis=axis, start=a, stop=b, step=1)[0] for a, b in ends
                )
                best = low.emit(op, first, second)[0]
                if length % 2:
                    odd = low.emit("slice", value, axis=axis, start=length - 1, stop=length, step=1)[0]
                    best = low.emit("concat", best, odd, axis=axis)[0]
                value = best
        return reshaped(low, value, tuple(example(node).shape))

    return rule


# --- norms --------------------------------------------------------------------------------------------------------------


def _group_norm(
    low: Builder,
    node: Node,
    x: Argument,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    value = low.f32(x)
    extra = _affine(low, weight, bias, value.spec.shape[1])
    return low.emit("group_norm", value, *extra, groups=groups, eps=float(eps))[0]


def _last(low: Builder, x: Argument, shape: Any) -> tuple[Value, tuple[int, ...]]:
    """With the axes that a norm goes over made one."""
    value = low.f32(x)
    if len(shape) == 1:
        return value, value.spec.shape
    whole = value.spec.shape
    return reshaped(low, value, (*whole[: len(whole) - len(shape)], math.prod(shape))), whole


def _layer_norm(
    low: Builder,
    node: Node,
    x: Argument,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    value, whole = _last(low, x, shape)
    extra = _affine(low, weight, bias, value.spec.shape[-1])
    return reshaped(low, low.emit("layer_norm", value, *extra, eps=float(eps))[0], whole)


def _rms_norm(
    low: Builder, node: Node, x: Argument, shape: Any, weight: Any = None, eps: float | None = None
) -> Value:
    value, whole = _last(low, x, shape)
    extra = _affine(low, weight, None, value.spec.shape[-1])
    least = torch.finfo(torch.float32).eps if eps is None else float(eps)
    return reshaped(low, low.emit("rms_norm", value, *extra, eps=least)[0], whole)


def _affine(low: Builder, weight: Any, bias: Any, size: int) -> list[Value]:
    if weight is None and bias is None:
        return []
    if any(isinstance(v, Value) for v in (weight, bias)):
        raise LoweringError(f"{low.scope}: a norm whose weight or bias is computed is not supported")
    gamma = low.constant(
        torch.ones(size) if weight is None else weight.to(torch.float32).flatten(), f"{low.scope}.gamma"
    )
    return (
        [gamma]
        if bias is None
        else [gamma, low.constant(bias.to(torch.float32).flatten(), f"{low.scope}.beta")]
    )


def _batch_norm(
    low: Builder,
    node: Node,
    x: Argument,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """A scale and a shift a channel, folded into the layer before it if there is one."""
    if training or not isinstance(mean, torch.Tensor) or not isinstance(variance, torch.Tensor):
        raise LoweringError(
            f"{low.scope}: batch_norm over the batch is not supported; call eval() on the model"
        )
    scale = (1.0 if weight is None else weight.double()) / torch.sqrt(variance.double() + eps)
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    value = low.f32(x)
    folded = low.scaled(value, scale, shift, axis=1)
    if folded is not None:
        return folded
    tail = (1,) * (len(value.spec.shape) - 2)
    return add(low, mul(low, value, scale.float().reshape(-1, *tail)), shift.float().reshape(-1, *tail))


def _native_batch_norm(
    low: Builder,
    node: Node,
    x: Argument,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    momentum: float,
    eps: float,
) -> tuple[Argument, ...]:
    return (_batch_norm(low, node, x, weight, bias, mean, variance, False, momentum, eps), None, None)


# --- softmax ------------------------------------------------------------------------------------------------------------


def _softmax(low: Builder, node: Node, x: Argument, dim: int, *_: Any) -> Argument:
    value = low.f32(x)
    if axis_of(dim, len(value.spec.shape)) == len(value.spec.shape) - 1:
        return Probabilities(*low.emit("softmax", value))
    turned, back = moved_last(low, value, dim)
    return permuted(low, low.f32(Probabilities(*low.emit("softmax", turned))), back)


RULES: dict[str, Rule] = {
    **{f"aten.sum.{form}": _sum for form in ("default", "dim_IntList")},
    **{f"aten.mean.{form}": _mean for form in ("default", "dim")},
    **{f"aten.{op}.{form}": _spread(op == "std") for op in ("var", "std") for form in ("correction", "dim")},
    "aten.linalg_vector_norm.default": _vector_norm,
    "aten.norm.ScalarOpt_dim": _vector_norm,
    **{f"aten.amax.{form}": _extreme("max") for form in ("default",)},
    **{f"aten.amin.{form}": _extreme("min") for form in ("default",)},
    "aten.max.default": _extreme("max"),
    "aten.min.default": _extreme("min"),
    "aten.group_norm.default": _group_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _native_batch_norm,
    **dict.fromkeys(("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default"), _softmax),
}

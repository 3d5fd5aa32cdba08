"""What each aten operation means to the accelerator: one rule each, found by the operation's name.

A rule takes the builder, the graph's node and the operation's own arguments, and returns values. A combination of arguments
that the instruction set cannot express is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.builder import (
    DTYPES,
    Argument,
    Builder,
    LoweringError,
    Probabilities,
    Value,
    pair,
)
from ditto_cosim.host.compiler.points import ALIASES
from ditto_cosim.protocol import isa

Rule = Callable[..., Any]


def _alias(low: Builder, node: Node, x: Argument, *_: Any, **__: Any) -> Argument:
    return x


def _to_copy(
    low: Builder, node: Node, x: Value, *_: Any, dtype: torch.dtype | None = None, **__: Any
) -> Value:
    if dtype in (None, torch.float32):
        return low.f32(x) if dtype is not None else x
    if dtype is not None and DTYPES.get(dtype) == x.spec.dtype:
        return x
    raise LoweringError(f"{low.scope}: conversion of {x.spec} to {dtype} is not supported")


def _is_ones(operand: Argument) -> TypeGuard[torch.Tensor]:
    if not isinstance(operand, torch.Tensor) or operand.dtype != torch.int64:
        return False
    return operand.is_meta or bool((operand == 1).all())


def _binary(op: str) -> Rule:
    def rule(low: Builder, node: Node, a: Argument, b: Argument, *, alpha: float = 1) -> Argument:
        if alpha != 1:
            raise LoweringError(f"{low.scope}: {op} with alpha = {alpha} is not supported")
        neutral = 0 if op in ("add", "sub") else 1
        if isinstance(a, Value) and isinstance(b, int | float) and b == neutral:
            return a
        if (
            op == "mul" and isinstance(a, Value) and a.spec.dtype == "i64" and _is_ones(b)
        ):  # timesteps * ones(batch)
            return low.emit("broadcast", a, shape=isa.broadcast_shape(a.spec.shape, tuple(b.shape)))[0]
        return low.emit(op, low.f32(a), low.f32(b))[0]

    return rule


def _unary(op: str) -> Rule:
    def rule(low: Builder, node: Node, x: Argument) -> Value:
        return low.emit(op, low.f32(x))[0]

    return rule


def _gelu(low: Builder, node: Node, x: Argument, *, approximate: str = "none") -> Value:
    return low.emit("gelu", low.f32(x), tanh=approximate == "tanh")[0]


def _neg(low: Builder, node: Node, x: Argument) -> Value:
    return low.emit("mul", low.f32(x), low.value(-1.0))[0]


def _group_norm(
    low: Builder,
    node: Node,
    x: Value,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    extra = _affine(low, weight, bias, x.spec.shape[1])
    return low.emit("group_norm", x, *extra, groups=groups, eps=float(eps))[0]


def _layer_norm(
    low: Builder,
    node: Node,
    x: Value,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    if len(shape) != 1:
        raise LoweringError(
            f"{low.scope}: layer_norm over {len(shape)} axes is not supported, expected the last one"
        )
    return low.emit("layer_norm", x, *_affine(low, weight, bias, shape[0]), eps=float(eps))[0]


def _affine(low: Builder, weight: Any, bias: Any, size: int) -> list[Value]:
    if weight is None and bias is None:
        return []
    gamma = low.constant(
        torch.ones(size) if weight is None else weight.to(torch.float32), f"{low.scope}.gamma"
    )
    return [gamma] if bias is None else [gamma, low.constant(bias.to(torch.float32), f"{low.scope}.beta")]


def _softmax(low: Builder, node: Node, x: Argument, dim: int, *_: Any) -> Probabilities:
    value = low.f32(x)
    if _axis(dim, len(value.spec.shape)) != len(value.spec.shape) - 1:
        raise LoweringError(f"{low.scope}: softmax over axis {dim} is not supported, expected the last one")
    p, sums = low.emit("softmax", value)
    return Probabilities(p, sums)


def _reshape_to(low: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    return x if shape == x.spec.shape else low.emit("reshape", x, shape=shape)[0]


def _view(low: Builder, node: Node, x: Argument, *_: Any, **__: Any) -> Argument:
    shape = tuple(node.meta["val"].shape)
    if isinstance(x, Probabilities):
        return Probabilities(_reshape_to(low, x.p, shape), _reshape_to(low, x.sums, shape[:-1]))
    return _reshape_to(low, low.value(x), shape)


def _permute(low: Builder, node: Node, x: Value, order: Any) -> Value:
    rank = len(x.spec.shape)
    order = tuple(_axis(i, rank) for i in order)
    return x if order == tuple(range(rank)) else low.emit("permute", x, order=order)[0]


def _transpose(low: Builder, node: Node, x: Value, a: int, b: int) -> Value:
    order = list(range(len(x.spec.shape)))
    order[a], order[b] = order[b], order[a]
    return _permute(low, node, x, order)


def _concat(low: Builder, node: Node, parts: Any, dim: int = 0) -> Value:
    values = [low.f32(p) for p in parts]
    return low.emit("concat", *values, axis=_axis(dim, len(values[0].spec.shape)))[0]


def _pad(
    low: Builder, node: Node, x: Argument, pad: Any, mode: str = "constant", value: float | None = None
) -> Value:
    if mode != "constant" or min(pad) < 0:
        raise LoweringError(f"{low.scope}: padding of mode {mode!r} by {tuple(pad)} is not supported")
    padded = low.f32(x)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        at = len(padded.spec.shape) - 1 - axis
        sides = []
        for count in (before, after):
            shape = (*padded.spec.shape[:at], count, *padded.spec.shape[at + 1 :])
            sides.append(
                [low.constant(torch.full(shape, float(value or 0)), f"{low.scope}.padding")] if count else []
            )
        if before or after:
            padded = low.emit("concat", *sides[0], padded, *sides[1], axis=at)[0]
    return padded


def _slice(
    low: Builder,
    node: Node,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    axis = _axis(dim, len(x.spec.shape))
    first, last, stride = slice(start, end, step).indices(x.spec.shape[axis])
    if (first, last, stride) == (0, x.spec.shape[axis], 1):
        return x
    return low.emit("slice", x, axis=axis, start=first, stop=last, step=stride)[0]


def _select(low: Builder, node: Node, x: Value, dim: int, index: int) -> Value:
    axis = _axis(dim, len(x.spec.shape))
    start = index % x.spec.shape[axis]
    part = low.emit("slice", x, axis=axis, start=start, stop=start + 1, step=1)[0]
    return _reshape_to(low, part, tuple(d for i, d in enumerate(x.spec.shape) if i != axis))


def _split(low: Builder, node: Node, x: Value, size: Any, dim: int = 0) -> tuple[Value, ...]:
    length = x.spec.shape[_axis(dim, len(x.spec.shape))]
    sizes = (
        [size] * (length // size) + ([length % size] if length % size else [])
        if isinstance(size, int)
        else size
    )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(_slice(low, node, x, dim, s, s + n) for s, n in zip(starts, sizes, strict=True))


def _chunk(low: Builder, node: Node, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return _split(low, node, x, -(-x.spec.shape[_axis(dim, len(x.spec.shape))] // chunks), dim)


def _expand(low: Builder, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    shape = tuple(node.meta["val"].shape)
    return x if shape == x.spec.shape else low.emit("broadcast", x, shape=shape)[0]


def _repeat_interleave(low: Builder, node: Node, x: Value, repeats: int, dim: int, **__: Any) -> Value:
    shape, axis = x.spec.shape, _axis(dim, len(x.spec.shape))
    wide = _reshape_to(low, x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    stretched = low.emit("broadcast", wide, shape=(*shape[: axis + 1], repeats, *shape[axis + 1 :]))[0]
    return _reshape_to(low, stretched, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def _upsample(low: Builder, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    target = tuple(node.meta["val"].shape)
    fh, fw = target[2] // x.spec.shape[2], target[3] // x.spec.shape[3]
    if (x.spec.shape[2] * fh, x.spec.shape[3] * fw) != target[2:]:
        raise LoweringError(f"{low.scope}: upsampling {x.spec} to {target} is not a whole multiple")
    return low.emit("upsample_nearest", x, factor=(fh, fw))[0]


def _avg_pool(
    low: Builder,
    node: Node,
    x: Argument,
    kernel: Any,
    stride: Any = None,
    padding: Any = (0, 0),
    *_: Any,
    **__: Any,
) -> Value:
    (kh, kw), padded = pair(kernel), tuple(pair(padding))
    if padded != (0, 0) or tuple(pair(stride or kernel)) != (kh, kw):
        raise LoweringError(
            f"{low.scope}: average pooling with stride {stride} and padding {padded} is not supported"
        )
    value = low.f32(x)
    rows, columns = (size // k * k for size, k in zip(value.spec.shape[-2:], (kh, kw), strict=True))
    rank, total = len(value.spec.shape), None
    for i in range(kh):
        line = low.emit("slice", value, axis=rank - 2, start=i, stop=rows, step=kh)[0]
        for j in range(kw):
            part = low.emit("slice", line, axis=rank - 1, start=j, stop=columns, step=kw)[0]
            total = part if total is None else low.emit("add", total, part)[0]
    assert total is not None, "a kernel has at least one element"
    return low.emit("mul", total, low.f32(1 / (kh * kw)))[0]


def _embedding(low: Builder, node: Node, table: Argument, index: Argument, *_: Any, **__: Any) -> Value:
    return low.emit("gather", low.f32(table), low.value(index))[0]


def _einsum(low: Builder, node: Node, equation: str, operands: Any, **__: Any) -> Value:
    left, _, right = equation.replace(" ", "").partition("->")
    if len(operands) != 1 or sorted(left) != sorted(right) or len(set(left)) != len(left):
        raise LoweringError(f"{low.scope}: einsum {equation!r} is more than a reordering of axes")
    return _permute(low, node, operands[0], [left.index(c) for c in right])


def _axis(axis: int, rank: int) -> int:
    return axis % rank


RULES: dict[str, Rule] = {
    "aten.conv2d.default": Builder.conv2d,
    "aten.linear.default": Builder.linear,
    "aten.matmul.default": Builder.matmul,
    "aten.bmm.default": Builder.matmul,
    "aten._to_copy.default": _to_copy,
    "aten.to.dtype": lambda low, node, x, dtype, *_, **__: _to_copy(low, node, x, dtype=dtype),
    "aten.add.Tensor": _binary("add"),
    "aten.sub.Tensor": _binary("sub"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.mul.Scalar": _binary("mul"),
    "aten.div.Tensor": _binary("div"),
    "aten.div.Scalar": _binary("div"),
    "aten.neg.default": _neg,
    "aten.silu.default": _unary("silu"),
    "aten.sigmoid.default": _unary("sigmoid"),
    "aten.tanh.default": _unary("tanh"),
    "aten.relu.default": _unary("relu"),
    "aten.exp.default": _unary("exp"),
    "aten.sin.default": _unary("sin"),
    "aten.cos.default": _unary("cos"),
    "aten.gelu.default": _gelu,
    "aten.group_norm.default": _group_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.view.default": _view,
    "aten._unsafe_view.default": _view,
    "aten.reshape.default": _view,
    "aten.flatten.using_ints": _view,
    "aten.unflatten.int": _view,
    "aten.unsqueeze.default": _view,
    "aten.squeeze.dim": _view,
    "aten.squeeze.dims": _view,
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.cat.default": _concat,
    "aten.pad.default": _pad,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _chunk,
    "aten.expand.default": _expand,
    "aten.repeat_interleave.self_int": _repeat_interleave,
    "aten.upsample_nearest2d.vec": _upsample,
    "aten.upsample_nearest2d.default": _upsample,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.embedding.default": _embedding,
    "aten.einsum.default": _einsum,
    **dict.fromkeys(ALIASES, _alias),
}

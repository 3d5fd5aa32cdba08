# SPDX-License-Identifier: Apache-2.0
"""Pooling, and pictures made larger or smaller."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch.fx import Node

from ditto_cosim.host.compiler.builder import Argument, Builder, LoweringError, Rule, Value
from ditto_cosim.host.compiler.points import example
from ditto_cosim.host.compiler.rules.arithmetic import add, mul
from ditto_cosim.host.compiler.rules.movement import taken


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * axes if len(sizes) == 1 else sizes


# --- pooling ------------------------------------------------------------------------------------------------------------


def _pooled(
    low: Builder, x: Value, op: str, kernel: Sequence[int], stride: Sequence[int], out: Sequence[int]
) -> Value:
    """Slices of the last axes, one for each place in the kernel, brought together."""
    first = len(x.spec.shape) - len(kernel)
    found: Value | None = None
    for places in itertools.product(*(range(k) for k in kernel)):
        part = x
        for i, place in enumerate(places):
            stop = place + stride[i] * (out[i] - 1) + 1
            part = low.emit("slice", part, axis=first + i, start=place, stop=stop, step=stride[i])[0]
        found = part if found is None else low.emit(op, found, part)[0]
    assert found is not None, "a kernel has at least one element"
    return found


def _pool(axes: int, op: str) -> Rule:
    def rule(
        low: Builder,
        node: Node,
        x: Argument,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        *_: Any,
        **__: Any,
    ) -> Value:
        size = _sizes(kernel, axes)
        if any(_sizes(padding, axes)):
            raise LoweringError(f"{low.scope}: pooling with padding {padding} is not supported")
        steps = _sizes(stride, axes) if stride else size
        found = _pooled(low, low.f32(x), op, size, steps, tuple(example(node).shape)[-axes:])
        return found if op == "max" else mul(low, found, 1 / float(torch.Size(size).numel()))

    return rule


def _adaptive_pool(axes: int) -> Rule:
    def rule(low: Builder, node: Node, x: Argument, *_: Any) -> Value:
        value, out = low.f32(x), tuple(example(node).shape)[-axes:]
        size = [have // want for have, want in zip(value.spec.shape[-axes:], out, strict=True)]
        if [want * k for want, k in zip(out, size, strict=True)] != list(value.spec.shape[-axes:]):
            raise LoweringError(f"{low.scope}: average pooling of {value.spec} to {out} is not even")
        return mul(low, _pooled(low, value, "add", size, size, out), 1 / float(torch.Size(size).numel()))

    return rule


# --- other sizes --------------------------------------------------------------------------------------------------------


def _nearest(axes: int, exact: bool = False) -> Rule:
    def rule(low: Builder, node: Node, x: Argument, size: Any = None, *scales: Any, **__: Any) -> Value:
        value, target = low.any(x), tuple(example(node).shape)
        factors = scales[0] if scales and isinstance(scales[0], list | tuple) else scales
        have, want = value.spec.shape[-axes:], target[-axes:]
        if axes == 2 and all(w % h == 0 for h, w in zip(have, want, strict=True)):
            factor = tuple(w // h for h, w in zip(have, want, strict=True))
            return value if factor == (1, 1) else low.emit("upsample_nearest", value, factor=factor)[0]
        mode = "nearest-exact" if exact else "nearest"
        for i, (h, w) in enumerate(zip(have, want, strict=True)):
            if h != w:
                line = torch.arange(h, dtype=torch.float32).reshape(1, 1, h)
                to: dict[str, Any] = {"size": w}
                if i < len(factors) and factors[i] is not None:
                    to = {"scale_factor": float(factors[i])}
                places = functional.interpolate(line, mode=mode, **to).flatten()
                value = taken(low, value, [int(p) for p in places], len(target) - axes + i)
        return value

    return rule


def _interpolated(axes: int, mode: str, antialias: bool = False) -> Rule:
    """One axis after the other, each output a weighted sum of the inputs that PyTorch takes for it."""

    def rule(
        low: Builder, node: Node, x: Argument, size: Any, align_corners: bool, *args: Any, **__: Any
    ) -> Value:
        value, target = low.f32(x), tuple(example(node).shape)
        factors = next((a for a in args if isinstance(a, list | tuple)), None)
        for i in range(axes):
            axis = len(target) - axes + i
            have, want = value.spec.shape[axis], target[axis]
            if have != want:
                scale = None if factors is None else factors[i]
                value = _resized(
                    low, value, axis, _weights(have, want, mode, align_corners, antialias, scale)
                )
        return value

    return rule


def _weights(
    have: int, want: int, mode: str, align_corners: bool, antialias: bool, scale: float | None
) -> torch.Tensor:
    """[want, have]"""
    lines = torch.eye(have, dtype=torch.float64)[:, None, :, None].repeat(1, 1, 1, 4)
    size: dict[str, Any] = {"size": (want, 4)} if scale is None else {"scale_factor": (scale, 1.0)}
    found = functional.interpolate(
        lines,
        mode=mode,
        align_corners=align_corners,
        antialias=antialias,
        **size,
        recompute_scale_factor=False if scale else None,
    )
    return found[:, 0, :, 0].t()


def _resized(low: Builder, x: Value, axis: int, weights: torch.Tensor) -> Value:
    taps = int((weights != 0).sum(1).max())
    heaviest = weights.abs().sort(dim=1, descending=True, stable=True).indices[:, :taps].sort(1).values
    tail = (1,) * (len(x.spec.shape) - 1 - axis)
    found: Value | None = None
    for tap in range(taps):
        places = heaviest[:, tap]
        share = weights.gather(1, places[:, None]).float().reshape(-1, *tail)
        part = mul(low, taken(low, x, places.tolist(), axis), share)
        found = part if found is None else add(low, found, part)
    assert found is not None, "an output is made of at least one input"
    return found


RULES: dict[str, Rule] = {
    **{f"aten.avg_pool{n}d.default": _pool(n, "add") for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d.default": _pool(n, "max") for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d.default": _adaptive_pool(n) for n in (1, 2, 3)},
    **{f"aten.upsample_nearest{n}d.{form}": _nearest(n) for n in (1, 2, 3) for form in ("vec", "default")},
    **{
        f"aten._upsample_nearest_exact{n}d.{form}": _nearest(n, True)
        for n in (1, 2, 3)
        for form in ("vec", "default")
    },
    **{
        f"aten.upsample_{name}.{form}": _interpolated(n, mode)
        for name, n, mode in (
            ("linear1d", 1, "bilinear"),
            ("bilinear2d", 2, "bilinear"),
            ("trilinear3d", 3, "bilinear"),
            ("bicubic2d", 2, "bicubic"),
        )
        for form in ("vec", "default")
    },
    **{
        f"aten._upsample_{mode}2d_aa.{form}": _interpolated(2, mode, True)
        for mode in ("bilinear", "bicubic")
        for form in ("vec", "default")
    },
}

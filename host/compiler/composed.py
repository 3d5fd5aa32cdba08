# SPDX-License-Identifier: Apache-2.0
"""Operations that are others put together: what modules of one's own use beside those of diffusers' denoisers.

Functions as PyTorch's operations are called, each in terms of operations that the accelerator has. Where something is looked
for (the place of a maximum, a row of a table), it is by comparing with every place, which is exact.
What this file does not do: attention, convolutions and contractions (`decompose.py`, which takes these too).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

Sizes = Sequence[int]


# --- axes ---------------------------------------------------------------------------------------------------------------


def movedim(x: Tensor, source: int | Sizes, destination: int | Sizes) -> Tensor:
    sources, places = ([a] if isinstance(a, int) else list(a) for a in (source, destination))
    at = {d % x.dim(): s % x.dim() for s, d in zip(sources, places, strict=True)}
    rest = iter([axis for axis in range(x.dim()) if axis not in at.values()])
    return x.permute([at[axis] if axis in at else next(rest) for axis in range(x.dim())])


def swapped(x: Tensor, first: int, second: int) -> Tensor:
    return x.transpose(first, second)


def take_along(x: Tensor, index: Tensor, dim: int | None = None) -> Tensor:
    if dim is None:
        return x.flatten().gather(0, index.flatten())
    shape = list(torch.broadcast_shapes(*(t.narrow(dim, 0, 1).shape for t in (x, index))))
    sides = []
    for t in (x, index):
        shape[dim] = t.shape[dim]
        sides.append(t.expand(shape))
    return sides[0].gather(dim, sides[1])


# --- places -------------------------------------------------------------------------------------------------------------


def _place(extreme: str) -> Callable[..., Tensor]:
    def found(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        if dim is None:
            return found(x.flatten(), 0).reshape([1] * x.dim() if keepdim else [])
        best = getattr(x, extreme)(dim, keepdim=True)
        length = x.shape[dim]
        view = [length if axis == dim % x.dim() else 1 for axis in range(x.dim())]
        places = torch.arange(length, dtype=torch.float32).reshape(view)
        return torch.where(x == best, places, float(length)).amin(dim, keepdim=keepdim).to(torch.int64)

    return found


argmax, argmin = _place("amax"), _place("amin")


def max_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amax(dim, keepdim=keepdim), argmax(x, dim, keepdim)


def min_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amin(dim, keepdim=keepdim), argmin(x, dim, keepdim)


def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise NotImplementedError("one_hot without num_classes makes as many as its input says")
    return (x.unsqueeze(-1) == torch.arange(num_classes)).to(torch.int64)


def bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    wide, edges = x.unsqueeze(-1).to(torch.float32), boundaries.to(torch.float32)
    return (wide >= edges if right else wide > edges).to(torch.float32).sum(-1).to(torch.int64)


# --- sums ---------------------------------------------------------------------------------------------------------------


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    if not x.dim():
        return x
    rows = movedim(x, dim, -1).unsqueeze(-2)
    behind = torch.ones(x.shape[dim], x.shape[dim]).tril()
    return movedim((rows * behind).sum(-1), -1, dim)


def log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    moved = x - x.amax(dim, keepdim=True)
    return moved - moved.exp().sum(dim, keepdim=True).log()


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return log_softmax(x, dim)


def norm(
    x: Tensor,
    ord: float | None = None,
    dim: Sizes | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if ord is not None and (len(dim) if dim is not None else x.dim()) == 2:
        raise NotImplementedError(f"a norm of matrices of order {ord:g}")
    found: Tensor = torch.linalg.vector_norm(x, 2.0 if ord is None else ord, dim, keepdim)
    return found


def bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.einsum("...i,oij,...j->...o", a, weight, b)
    return found if bias is None else found + bias


# --- numbers ------------------------------------------------------------------------------------------------------------


def _whole(x: Tensor, y: Any) -> bool:
    whole = not x.is_floating_point()
    return whole and (isinstance(y, int) or (isinstance(y, Tensor) and not y.is_floating_point()))


def remainder(x: Tensor, y: Any) -> Tensor:
    wide = x.to(torch.float32)
    found = wide - torch.floor(wide / y) * y
    return found.to(torch.int64) if _whole(x, y) else found


def fmod(x: Tensor, y: Any) -> Tensor:
    wide = x.to(torch.float32)
    found = wide - torch.trunc(wide / y) * y
    return found.to(torch.int64) if _whole(x, y) else found


def floor_divide(x: Tensor, y: Any) -> Tensor:
    found = torch.floor(x.to(torch.float32) / y)
    return found.to(torch.int64) if _whole(x, y) else found


def frac(x: Tensor) -> Tensor:
    return x - torch.trunc(x)


def hypot(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y) + torch.log(1 + torch.exp(-torch.abs(x - y)))


def sinh(x: Tensor) -> Tensor:
    return (torch.exp(x) - torch.exp(-x)) * 0.5


def cosh(x: Tensor) -> Tensor:
    return (torch.exp(x) + torch.exp(-x)) * 0.5


def asinh(x: Tensor) -> Tensor:
    size = torch.abs(x)
    found = torch.log(size + torch.sqrt(size * size + 1))
    return torch.where(x < 0, -found, found)


def nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    most = torch.finfo(torch.float32).max
    known = torch.where(x == x, x, nan or 0.0)
    return known.clamp(-most if neginf is None else neginf, most if posinf is None else posinf)


# --- pictures -----------------------------------------------------------------------------------------------------------


def unfold(x: Tensor, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Tensor:
    """`im2col`: the window of every place, as columns."""
    single = x.dim() == 3
    x = x.unsqueeze(0) if single else x
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    taps = [
        x[
            :,
            :,
            i * dilation[0] : i * dilation[0] + stride[0] * (height - 1) + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + stride[1] * (width - 1) + 1 : stride[1],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    columns = torch.stack(taps, 2).reshape(x.shape[0], x.shape[1] * len(taps), height * width)
    return columns.squeeze(0) if single else columns


def fold_patches(
    columns: Tensor, size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> Tensor:
    """`col2im` of windows that lie side by side, as patches of pictures do."""
    if list(kernel) != list(stride) or any(padding) or any(d != 1 for d in dilation):
        raise NotImplementedError("fold of windows that overlap or leave gaps")
    single = columns.dim() == 2
    columns = columns.unsqueeze(0) if single else columns
    rows, across = size[0] // kernel[0], size[1] // kernel[1]
    channels = columns.shape[1] // math.prod(kernel)
    apart = columns.reshape(columns.shape[0] * channels, *kernel, rows, across)
    picture = apart.permute(0, 3, 1, 4, 2).reshape(-1, channels, *size)
    return picture.squeeze(0) if single else picture


def pooled(x: Tensor, size: Sizes) -> Tensor:
    """Averages over as equal parts as there are, which `interpolate(mode="area")` asks for."""
    if all(length % count == 0 for length, count in zip(x.shape[-2:], size, strict=True)):
        return functional.avg_pool2d(
            x, [length // count for length, count in zip(x.shape[-2:], size, strict=True)]
        )
    for axis, count in zip((-2, -1), size, strict=True):
        length = x.shape[axis]
        if length == count:
            continue
        parts = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        x = torch.stack([x.narrow(axis, a, b - a).mean(axis) for a, b in parts], axis)
    return x


# --- over time ----------------------------------------------------------------------------------------------------------


def gru(*arguments: Any) -> Any:
    from torch._decomp import decompositions  # PyTorch's own, step by step

    return decompositions.gru_impl(*arguments)


def lstm(x: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool, *how: Any) -> Any:
    from torch._decomp import decompositions

    grouped = decompositions.gather_params(weights, has_biases, start[0].shape[2] != start[1].shape[2])
    begins = list(zip(*start, strict=True))
    layer = decompositions.one_layer_lstm
    out, ends = decompositions._rnn_helper(x, begins, grouped, has_biases, *how, layer)
    return out, *(torch.stack(states) for states in zip(*ends, strict=True))


_aten = torch.ops.aten
COMPOSED: dict[Any, Callable[..., Any]] = {
    _aten.movedim.int: movedim,
    _aten.movedim.intlist: movedim,
    _aten.swapaxes.default: swapped,
    _aten.swapdims.default: swapped,
    _aten.take_along_dim.default: take_along,
    _aten.argmax.default: argmax,
    _aten.argmin.default: argmin,
    _aten.max.dim: max_along,
    _aten.min.dim: min_along,
    _aten.one_hot.default: one_hot,
    _aten.bucketize.Tensor: bucketize,
    _aten.cumsum.default: cumsum,
    _aten.log_softmax.int: log_softmax,
    _aten._log_softmax.default: _log_softmax,
    _aten.linalg_norm.default: norm,
    _aten.bilinear.default: bilinear,
    _aten.remainder.Scalar: remainder,
    _aten.remainder.Tensor: remainder,
    _aten.fmod.Scalar: fmod,
    _aten.fmod.Tensor: fmod,
    _aten.floor_divide.default: floor_divide,
    _aten.floor_divide.Scalar: floor_divide,
    _aten.frac.default: frac,
    _aten.hypot.default: hypot,
    _aten.logaddexp.default: logaddexp,
    _aten.sinh.default: sinh,
    _aten.cosh.default: cosh,
    _aten.asinh.default: asinh,
    _aten.nan_to_num.default: nan_to_num,
    _aten.im2col.default: unfold,
    _aten.col2im.default: fold_patches,
    _aten.adaptive_avg_pool2d.default: pooled,
    _aten.lstm.input: lstm,
    _aten.gru.input: gru,
}

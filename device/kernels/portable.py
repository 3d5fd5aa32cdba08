# SPDX-License-Identifier: Apache-2.0
"""The kernels in NumPy, for machines without a compiler: the same arrays as `native.py`, to the same bits.

Work goes in blocks that stay in the cache. What this file does not do: memory order and refusals (`vector.py`), the cutting of
K (`slots.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.base import (
    F32,
    I8,
    I32,
    I64,
    U16,
    Against,
    Before,
    KernelWindow,
    Pieces,
    Reference,
)
from ditto_cosim.device.kernels.functions import (
    BLOCK_ELEMENTS,
    Array,
    exp32,
    f32,
    finish_moments,
    gelu_erf,
    gelu_tanh,
    integer_sums,
    silu,
)
from ditto_cosim.protocol.hardware import LowRule

_COUNTED_ELEMENTS = 1 << 17
_LOW: dict[LowRule, tuple[int, int]] = {"twos4": (8, 15), "mag4": (15, 30)}
"""d is low if d + first, read unsigned, is at most second."""


def _shifted(rows: I8, against: Before) -> I8:
    """Every row's predecessor in its chain."""
    shifted = np.empty_like(rows)
    shifted[1:] = rows[:-1]
    shifted[:: against.chain] = against.value
    return shifted


class PortableKernels:
    """See `base.Kernels`."""

    # --- rows and their counts ------------------------------------------------------------------------------------------

    def count_rows(self, current: I8, reference: I8 | int, rule: LowRule) -> I32:
        counted = np.empty((3, len(current)), np.int32)
        for part in _blocks(len(current), current.shape[1], _COUNTED_ELEMENTS):
            nonzero, full = _marks(
                current[part], reference if isinstance(reference, int) else reference[part], rule
            )
            counted[2, part] = _sum_last(full)
            counted[1, part] = _sum_last(nonzero)
        counted[0] = current.shape[1] - counted[1]
        counted[1] -= counted[2]
        return counted

    def count_against(
        self, current: I8, references: Sequence[Against], splits: tuple[int, ...], rule: LowRule
    ) -> tuple[U16, I64]:
        slots = np.empty((len(references), len(splits), len(current)), np.uint16)
        totals = np.zeros((len(references), 3), np.int64)
        for of_reference, total, against in zip(slots, totals, references, strict=True):
            reference = _shifted(current, against) if isinstance(against, Before) else against
            for chunk, (low, high) in zip(of_reference, pairwise(np.cumsum([0, *splits])), strict=True):
                other = reference if isinstance(reference, int) else reference[:, low:high]
                counted = self.count_rows(current[:, low:high], other, rule)
                chunk[:] = counted[1] + 2 * counted[2]
                total += counted.sum(1)
        return slots, totals

    def count_windows(
        self,
        current: I8,
        reference: I8 | int,
        kind: Reference,
        window: KernelWindow,
        pieces: Pieces,
        rule: LowRule,
    ) -> tuple[U16, int, int]:
        if kind == "row before":
            assert isinstance(reference, int)
            return self._count_down(current, reference, window, pieces, rule)
        segments = []
        for low, high in pairwise(pieces.cuts):
            part = current[..., low:high].reshape(-1, high - low)
            other = reference
            if not isinstance(other, int):
                other = other[..., low:high].reshape(-1, high - low)
            segments.append(self.count_rows(part, other, rule)[1:].reshape(2, *current.shape[:3]))
        return _sum_windows(segments, window, pieces)

    def _count_down(
        self, padded: I8, zero_point: int, window: KernelWindow, pieces: Pieces, rule: LowRule
    ) -> tuple[U16, int, int]:
        """Against the row before: within a line of windows that is the picture shifted by one stride, and only the first
        window of a line needs its rows."""
        stride = window.stride_w
        shifted = np.empty_like(padded)
        shifted[:, :, stride:] = padded[:, :, : padded.shape[2] - stride]
        shifted[:, :, :stride] = padded[:, :, :stride]
        slots, nonzero, full = self.count_windows(padded, shifted, "picture", window, pieces, rule)
        slots = slots.reshape(len(slots), window.batch, window.out_h, window.out_w)
        view = _view(padded, window)
        first, last = (np.ascontiguousarray(view[:, :, at]) for at in (0, -1))
        before = np.concatenate([np.full_like(last[:, :1], zero_point), last[:, :-1]], 1)
        # The shifted picture has counted the first windows against a wrong reference: take that back.
        wrong = np.ascontiguousarray(_view(shifted, window)[:, :, 0])
        channels = window.channels
        right, mistaken = (
            [
                self.count_rows(rows[..., low:high].reshape(-1, high - low), other[..., low:high].reshape(-1, high - low), rule)
                .reshape(3, window.batch * window.out_h, -1)
                for low, high in pairwise(pieces.cuts)
            ]
            for rows, other in ((first, before), (first, wrong))
        )  # fmt: skip
        assert channels == pieces.cuts[-1]
        for counts, chunk in zip(slots, _chunks(pieces), strict=True):
            line = np.zeros(window.batch * window.out_h, np.int32)
            for position, segment in chunk:
                met, taken = right[segment][:, :, position], mistaken[segment][:, :, position]
                line += met[1] + 2 * met[2]
                nonzero += int((met[1:] - taken[1:]).sum())
                full += int((met[2] - taken[2]).sum())
            counts[:, :, 0] = line.reshape(window.batch, window.out_h)
        return slots.reshape(len(slots), -1), nonzero, full

    def pad(self, pictures: I8, above: int, beside: int, value: int) -> I8:
        b, h, w, c = pictures.shape
        padded = np.full((b, h + 2 * above, w + 2 * beside, c), value, np.int8)
        padded[:, above : above + h, beside : beside + w] = pictures
        return padded

    def unroll(self, padded: I8, window: KernelWindow, k: int) -> I8:
        return np.ascontiguousarray(_view(padded, window)).reshape(-1, k)

    # --- values -----------------------------------------------------------------------------------------------------------

    def silu(self, x: F32, out: F32) -> None:
        _each(silu, x, out)

    def gelu(self, x: F32, out: F32, tanh: bool) -> None:
        _each(gelu_tanh if tanh else gelu_erf, x, out)

    def softmax(self, rows: F32, out: I8, sums: I32) -> bool:
        for part in _blocks(len(rows), rows.shape[1]):
            block = rows[part]
            peak = block.max(1, keepdims=True)
            if not np.all(peak < np.inf):
                return False
            drawn = peak > -np.inf
            out[part] = np.where(drawn, np.rint(f32(127) * exp32(block - np.where(drawn, peak, f32(0)))), 0)
            sums[part] = np.maximum(out[part].sum(1, dtype=np.int32), 1)
        return True

    def extremes(self, x: F32) -> tuple[np.float32, np.float32] | None:
        low, high = x.min(), x.max()
        return (low, high) if np.isfinite(low) and np.isfinite(high) else None

    def quantize(self, x: F32, out: I8, reciprocal: float, zero: float, bottom: float) -> bool:
        if not np.isfinite(x).all():
            return False

        def rounded(v: F32) -> Array:
            q: Array = np.rint(v * f32(reciprocal))
            q += f32(zero)
            return np.clip(q, f32(bottom), f32(127), out=q)

        _each(rounded, x, out)
        return True

    def add(self, a: F32, b: F32, out: F32) -> None:
        np.add(a, b, out=out)

    def add_row(self, x: F32, row: F32, out: F32) -> None:
        np.add(x, row.reshape(-1), out=out.reshape(x.shape))

    def concatenate(self, parts: Sequence[npt.NDArray[Any]], axis: int, out: npt.NDArray[Any]) -> None:
        np.concatenate(parts, axis, out=out)

    def dequantize_attention(self, rows: I32, out: F32, factor: float, divisors: F32) -> None:
        wide = out.reshape(rows.shape)
        np.multiply(rows, f32(factor), out=wide, dtype=np.float32, casting="unsafe")
        wide /= divisors.reshape(-1, 1)

    def dequantize(self, rows: I32, out: F32, scale: float, factor: F32 | None, bias: F32 | None) -> None:
        wide = out.reshape(rows.shape)
        factor = np.full(rows.shape[1], scale, np.float32) if factor is None else f32(scale) * factor
        for part in _blocks(len(rows), rows.shape[1]):
            np.multiply(rows[part], factor, out=wide[part], dtype=np.float32, casting="unsafe")
            if bias is not None:
                wide[part] += bias

    def layer_norm(self, x: F32, out: F32, gamma: F32 | None, beta: F32 | None, eps: float) -> bool:
        for part in _blocks(len(x), x.shape[1]):
            block = x[part]
            largest = np.maximum(block.max(1), -block.min(1))
            if not np.isfinite(largest).all():
                return False
            mean, rstd = finish_moments(*integer_sums(block, np.frexp(largest)[1]), x.shape[1], eps)
            np.subtract(block, mean[:, None], out=out[part])
            out[part] *= rstd[:, None]
        if gamma is not None:
            out *= gamma
        if beta is not None:
            out += beta
        return True

    def group_norm(
        self, x: F32, out: F32, groups: int, gamma: F32 | None, beta: F32 | None, eps: float
    ) -> bool:
        pixels, channels = x.shape
        inner = channels // groups
        values = np.ascontiguousarray(x.reshape(pixels, groups, inner).transpose(1, 0, 2)).reshape(groups, -1)
        largest = np.maximum(values.max(1), -values.min(1))
        if not np.isfinite(largest).all():
            return False
        sums = integer_sums(values, np.frexp(largest)[1])
        mean, rstd = (np.repeat(v, inner) for v in finish_moments(*sums, values.shape[1], eps))
        np.subtract(x, mean, out=out)
        out *= rstd
        if gamma is not None:
            out *= gamma
        if beta is not None:
            out += beta
        return True


def _blocks(rows: int, width: int, elements: int = BLOCK_ELEMENTS) -> list[slice]:
    step = max(1, elements // max(width, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _each(function: Callable[[F32], Array], x: F32, out: Array) -> None:
    for part in _blocks(x.size, 1):
        out[part] = function(x[part])


def _marks(current: npt.NDArray[Any], reference: npt.NDArray[Any] | int, rule: LowRule) -> tuple[I8, I8]:
    """Elementwise: is the difference non-zero, is it full (0 or 1 each)."""
    offset, most = _LOW[rule]
    d = np.subtract(current, reference, dtype=np.int16)
    nonzero = d != 0
    d += offset
    return nonzero.view(np.int8), (d.view(np.uint16) > most).view(np.int8)


def _sum_last(marks: I8) -> I32:
    """Sums of 0/1 marks along the last axis; eight at a time while a byte cannot overflow."""
    length = marks.shape[-1]
    if length % 8 or length > 8 * 255 or not marks.flags.c_contiguous:
        plain: I32 = marks.sum(-1, dtype=np.int32)
        return plain
    packed = marks.view(np.uint64).sum(-1, dtype=np.uint64)
    unpacked: I32 = packed[..., None].view(np.uint8).sum(-1, dtype=np.int32)
    return unpacked


def _view(padded: npt.NDArray[Any], w: KernelWindow) -> npt.NDArray[Any]:
    """Windows of a padded picture, [B, Ho, Wo, kernel positions, C], without a copy if the kernel has one line."""
    sb, sy, sx, sc = padded.strides
    shape = (w.batch, w.out_h, w.out_w, w.kernel_h, w.kernel_w, w.channels)
    strides = (sb, sy * w.stride_h, sx * w.stride_w, sy * w.dilation_h, sx * w.dilation_w, sc)
    windows = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    return windows.reshape(*shape[:3], w.kernel_h * w.kernel_w, w.channels)


def _chunks(pieces: Pieces) -> list[list[tuple[int, int]]]:
    edges = [0, *(int(end) for end in pieces.ends)]
    return [[(int(p), int(s)) for p, s in pieces.pairs[a:b]] for a, b in pairwise(edges)]


def _sum_windows(segments: Sequence[I32], w: KernelWindow, pieces: Pieces) -> tuple[U16, int, int]:
    """(low, full) counts of every pixel's segments [2, B, H, W] become slots of rows, and totals of non-zero and full."""

    def windowed(pixels: I32, position: int) -> I32:
        top, left = (position // w.kernel_w) * w.dilation_h, (position % w.kernel_w) * w.dilation_w
        high, wide = w.stride_h * (w.out_h - 1) + 1, w.stride_w * (w.out_w - 1) + 1
        return pixels[:, :, top : top + high : w.stride_h, left : left + wide : w.stride_w]

    slots = np.zeros((len(pieces.ends), w.batch, w.out_h, w.out_w), np.uint16)
    totals: I64 = np.zeros(2, np.int64)
    for counts, chunk in zip(slots, _chunks(pieces), strict=True):
        for position, segment in chunk:
            low, full = windowed(segments[segment], position)
            counts += (low + 2 * full).astype(np.uint16)
            totals += (low.sum(dtype=np.int64) + full.sum(dtype=np.int64), full.sum(dtype=np.int64))
    return slots.reshape(len(slots), -1), int(totals[0]), int(totals[1])

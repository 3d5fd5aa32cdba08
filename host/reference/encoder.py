# SPDX-License-Identifier: Apache-2.0
"""What an encoder meets in a layer's operands, in every mode: golden's own count of slots and classes.

Written from the text of `protocol/isa.py` (rows of a layer), `protocol/record.py` (works, chunks) and
`protocol/hardware.py` (what is low), and from nothing else; the device counts the same by itself.

    d = current − reference;  d = 0 makes no slot, a low d one, any other two;  original mode bypasses the classes.
    Reference: the zero point (original), the operand of the step before in which the layer ran (temporal), the row before
    (spatial; the first row of an image or head subtracts the zero point). A layer may have a temporal reference of its own: the
    anchor's operand (linear_increment, which has no other mode), or 0.

A convolution's rows are never made: what row (i, j) meets is a sum over its window of what its pixels meet, cut
where a chunk of K ends. Counts are NumPy's, whose comparisons and sums of small integers take a sixth of torch's time.
What this file does not do: values (`golden.py`), cycles (`lanes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from ditto_cosim.protocol.hardware import LowRule, Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS, Convolution, ints
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import split_k

I16 = npt.NDArray[np.int16]
I64 = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """One work of a layer in a mode."""

    slots: I64 | None
    """[chunks, groups × rows]; None in original mode, where every element makes two, and of codes"""
    zero: int
    low: int
    full: int
    channels: I64 | None = None
    """[2, channels] of a product of 4-bit codes: those other than 0; the same, as often as windows meet them."""


@dataclass(frozen=True, slots=True)
class LayerOperands:
    """A layer's operands in one step, as the encoder will see them."""

    arrays: tuple[Tensor, ...]
    """conv2d: the padded picture [B, H, W, C]. linear: [images, rows, K]. linear_increment: that, and the anchor's.
    matmul: a [G, M, K] and bᵀ [G, N, K]."""
    params: tuple[Tensor, ...]
    """Scale and zero point of each."""

    @property
    def zero_point(self) -> int:
        return int(self.params[0][1])


def arrange(command: Command, operands: list[Tensor]) -> LayerOperands:
    """The operands of a layer command."""
    if command.op in BLOCK_LAYER_OPS:
        return LayerOperands((operands[0],), ())
    if command.op == "matmul":
        a, b = operands[0], operands[2].transpose(-1, -2)
        rows = tuple(t.reshape(-1, *t.shape[-2:]) for t in (a, b))
        return LayerOperands(rows, (operands[1], operands[3]))
    x, params = operands[0], operands[1]
    if command.op in ("linear", "linear_increment"):
        images = x.shape[0] if x.dim() > 1 else 1
        rows = tuple(t.reshape(images, -1, x.shape[-1]) for t in (x, *operands[3:4]))
        return LayerOperands(rows, (params,))
    above, beside = ints(command.attrs, "padding")
    picture = torch.nn.functional.pad(
        x.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above), "constant", 0
    )
    if zero_point := int(params[1]):
        inside = torch.zeros(picture.shape[1:3], dtype=torch.bool)
        inside[above : picture.shape[1] - above, beside : picture.shape[2] - beside] = True
        picture = torch.where(inside[None, :, :, None], picture, torch.full_like(picture, zero_point))
    return LayerOperands((picture.contiguous(),), (params,))


def modes_of(
    command: Command, now: LayerOperands, before: LayerOperands | None
) -> tuple[tuple[Mode, ...], bool]:
    """The modes that a layer may run in, and whether something forbids differences to the step before."""
    if command.op == "linear_increment":
        return ("temporal",), False
    if "reference" in command.attrs:
        possible, forced = now.zero_point == 0, False
    else:
        possible = before is not None and comparable(command, now, before)
        forced = before is not None and not possible
    return (("original", "spatial", "temporal") if possible else ("original", "spatial")), forced


def comparable(command: Command, now: LayerOperands, before: LayerOperands) -> bool:
    """Whether differences to the previous step exist: same scales and zero points, and a static operand stayed."""
    same = all(torch.equal(a, b) for a, b in zip(now.params, before.params, strict=True))
    if command.op == "matmul" and command.attrs["static_b"]:
        return same and torch.equal(now.arrays[1], before.arrays[1])
    return same


class Encoder:
    """Counts for one low rule and one longest row."""

    def __init__(self, rule: LowRule, k_max: int) -> None:
        self.rule, self.k_max = rule, k_max

    def meets(
        self, command: Command, mode: Mode, now: LayerOperands, before: LayerOperands | None, weight: Tensor
    ) -> tuple[RowCounts, ...]:
        """The works of a layer in a mode, in the order of `record.layer_work`. `before` is needed in temporal mode, unless the
        layer has a reference of its own."""
        if command.op in BLOCK_LAYER_OPS:
            return (self._block(command, now.arrays[0], weight),)
        if command.op == "conv2d":
            return (self._conv2d(command, mode, now, before, weight),)
        found = []
        sides = 2 if command.op == "matmul" and mode == "temporal" and not command.attrs["static_b"] else 1
        for side in range(sides):
            d = _wide(now.arrays[side])
            if mode == "temporal" and command.op == "linear_increment":
                d -= _wide(now.arrays[1])
            elif mode == "temporal" and "reference" not in command.attrs:
                assert before is not None
                d -= _wide(before.arrays[side])
            elif mode == "spatial":
                d[:, 1:] -= d[:, :-1].copy()
                d[:, 0] -= now.zero_point
            elif mode == "original" and now.zero_point:
                d -= now.zero_point
            found.append(self._rows(d, by_row=mode != "original"))
        return tuple(found)

    def _block(self, command: Command, codes: Tensor, weight: Tensor) -> RowCounts:
        """Codes other than 0, and how many windows cover each pixel."""
        marks = (codes != 0).to(torch.float64)
        if command.op == "linear_block":
            met = by_channel = marks.reshape(-1, marks.shape[-1]).sum(0)
            elements = marks.numel()
        else:
            how, kernel = Convolution.of(command.attrs), weight.shape[2:]
            picture = (1, 1, marks.shape[2], marks.shape[3])
            ones = torch.ones(1, 1, *kernel, dtype=torch.float64)
            where: dict[str, Any] = {
                "stride": how.stride,
                "padding": how.padding,
                "dilation": how.dilation,
            }
            out = conv2d(torch.ones(picture, dtype=torch.float64), ones, **where)
            cover = conv2d_input(picture, ones, torch.ones_like(out), **where)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            met, by_channel = (marks * cover).sum((0, 2, 3)), marks.sum((0, 2, 3))
            elements = out.numel() * len(marks) * weight[0].numel()
        some = int(met.sum())
        if command.attrs["format"] == "mxint8":
            return RowCounts(None, elements - some, 0, some)
        channels = torch.stack([by_channel, met]).to(torch.int64).numpy()
        return RowCounts(None, elements - some, some, 0, channels)

    def _marks(self, d: I16) -> tuple[Marks, Marks]:
        """Of differences: not zero; neither zero nor low."""
        if self.rule == "twos4":
            return d != 0, (d + np.int16(8)).view(np.uint16) > 15  # −8 … 7; what is below wraps around
        return d != 0, np.abs(d) > 15

    def _rows(self, d: I16, by_row: bool) -> RowCounts:
        """Explicit rows, K last."""
        nonzero, full = self._marks(d.reshape(-1, d.shape[-1]))
        some, many = int(np.count_nonzero(nonzero)), int(np.count_nonzero(full))
        chunks = None
        if by_row:
            slots = nonzero.view(np.uint8) + full.view(np.uint8)
            ends = np.cumsum((0, *split_k(d.shape[-1], self.k_max)))
            chunks = np.stack([_sum(slots[:, a:b]) for a, b in pairwise(ends)])
        return RowCounts(chunks, d.size - some, some - many, many)

    def _conv2d(
        self, command: Command, mode: Mode, now: LayerOperands, before: LayerOperands | None, weight: Tensor
    ) -> RowCounts:
        picture, kernel = _wide(now.arrays[0]), (weight.shape[2], weight.shape[3])
        stride = ints(command.attrs, "stride")
        windows = _Windows(kernel, (stride[0], stride[1]), (picture.shape[1], picture.shape[2]))
        k = kernel[0] * kernel[1] * picture.shape[3]
        if mode == "spatial":
            d = np.zeros_like(picture)
            d[:, :, stride[1] :] = picture[:, :, stride[1] :] - picture[:, :, : -stride[1]]
        elif mode == "temporal":
            assert before is not None
            d = picture - _wide(before.arrays[0])
        else:
            d = picture - np.int16(now.zero_point)
        nonzero, full = (mark.view(np.uint8) for mark in self._marks(d))
        slots = windows.sums(nonzero + full, (k,) if mode == "original" else split_k(k, self.k_max))
        some = windows.sums(nonzero, (k,))
        if mode == "spatial":  # the first window of a line follows the last one of the line above
            first = windows.column(picture, 0)
            last = windows.column(picture, windows.out[1] - 1)
            above = np.concatenate([np.full_like(last[:, :1], now.zero_point), last[:, :-1]], 1)
            edge = self._rows(first - above, by_row=True)
            assert edge.slots is not None
            shape = (len(picture), windows.out[0])
            slots[..., 0] = edge.slots.reshape(-1, *shape)
            some[0, ..., 0] = np.count_nonzero(first - above, axis=-1)
        elements, met = some.size * k, int(some.sum())
        many = int(slots.sum()) - met
        by_row = None if mode == "original" else slots.reshape(len(slots), -1)
        return RowCounts(by_row, elements - met, met - many, many)


def _wide(operand: Tensor) -> I16:
    """A copy in which differences have room."""
    return operand.numpy().astype(np.int16, order="C")


def _sum(counts: npt.NDArray[np.uint8]) -> I64:
    """Counts of at most 2, summed over the last axis."""
    narrow: Any = np.uint16 if 2 * counts.shape[-1] < 1 << 16 else np.int64  # four times as fast
    found: I64 = counts.sum(-1, dtype=narrow).astype(np.int64)
    return found


@dataclass(frozen=True, slots=True)
class _Windows:
    """A convolution's windows over a padded picture of this height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    picture: tuple[int, int]

    @property
    def out(self) -> tuple[int, int]:
        high, wide = (
            (size - k) // s + 1 for size, k, s in zip(self.picture, self.kernel, self.stride, strict=True)
        )
        return high, wide

    def pixels(self, position: int) -> tuple[slice, slice, slice]:
        """For every window, its pixel number `position` in the order (u, v)."""
        u, v = divmod(position, self.kernel[1])
        (sh, sw), (high, wide) = self.stride, self.out
        return (
            slice(None),
            slice(u, u + sh * (high - 1) + 1, sh),
            slice(v, v + sw * (wide - 1) + 1, sw),
        )

    def column(self, picture: I16, j: int) -> I16:
        """The windows in column j as rows [B, Ho, K], elements in the order (u, v, c)."""
        parts = [picture[self.pixels(p)][:, :, j] for p in range(self.kernel[0] * self.kernel[1])]
        return np.concatenate(parts, -1)

    def sums(self, marks: npt.NDArray[np.uint8], chunks: tuple[int, ...]) -> I64:
        """Marks [B, H, W, C] summed over every window, chunk of K by chunk of K: [chunks, B, Ho, Wo]."""
        channels, whole = marks.shape[-1], _sum(marks)
        found, begin = [], 0
        for length in chunks:
            end = begin + length
            total = np.zeros_like(whole[self.pixels(0)])
            for position, low, high in _cuts(begin, end, channels):
                part = whole if (low, high) == (0, channels) else _sum(marks[..., low:high])
                total += part[self.pixels(position)]
            found.append(total)
            begin = end
        return np.stack(found)


def _cuts(begin: int, end: int, channels: int) -> Iterator[tuple[int, int, int]]:
    """Elements begin … end of a window, pixel by pixel: (position, first channel, channel behind the last)."""
    for position in range(begin // channels, -(-end // channels)):
        at = position * channels
        yield position, max(begin - at, 0), min(end - at, channels)

# SPDX-License-Identifier: Apache-2.0
"""What an encoder meets in a layer's operands, in every mode: golden's own count of slots and classes, in torch.

Written from the text of `protocol/isa.py` (rows of a layer), `protocol/record.py` (works, chunks) and
`protocol/hardware.py` (what is low), and from nothing else; the device counts the same by itself.

    d = current − reference;  d = 0 makes no slot, a low d one, any other two;  original mode bypasses the classes.
    Reference: the zero point (original), the operand of the step before in which the layer ran (temporal), the row before
    (spatial; the first row of an image or head subtracts the zero point). A layer may have a temporal reference of its own: the
    anchor's operand (linear_increment, which has no other mode), or 0.

A convolution's rows are never made: what row (i, j) meets is a sum over its window of what its pixels meet, cut
where a chunk of K ends. What this file does not do: values (`golden.py`), cycles (`lanes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from ditto_cosim.protocol.hardware import LowRule, Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS, Convolution, ints
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import split_k


@dataclass(frozen=True, slots=True)
class RowCounts:
    """One work of a layer in a mode."""

    slots: Tensor
    """[chunks, groups × rows] int64"""
    zero: int
    low: int
    full: int
    channels: Tensor | None = None
    """[2, channels] int64 of a product of 4-bit codes: those other than 0; the same, as often as windows meet them."""


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
            rows = now.arrays[side]
            reference: Tensor | int = now.zero_point
            if mode == "temporal" and command.op == "linear_increment":
                reference = now.arrays[1]
            elif mode == "temporal" and "reference" in command.attrs:
                reference = 0
            elif mode == "temporal":
                assert before is not None
                reference = before.arrays[side]
            elif mode == "spatial":
                reference = torch.cat([torch.full_like(rows[:, :1], now.zero_point), rows[:, :-1]], 1)
            found.append(
                self._rows(rows.short() - (reference if isinstance(reference, int) else reference.short()))
            )
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
            return RowCounts(torch.zeros(0), elements - some, 0, some)
        channels = torch.stack([by_channel, met]).to(torch.int64)
        return RowCounts(torch.zeros(0), elements - some, some, 0, channels)

    def _marks(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Of differences: not zero; neither zero nor low."""
        if self.rule == "twos4":
            return d != 0, (d < -8) | (d > 7)
        return d != 0, d.abs() > 15

    def _rows(self, d: Tensor) -> RowCounts:
        """Explicit rows, K last."""
        nonzero, full = self._marks(d.reshape(-1, d.shape[-1]))
        slots = nonzero.byte() + full.byte()
        lengths = list(split_k(d.shape[-1], self.k_max))
        chunks = torch.stack([c.sum(1) for c in torch.split(slots, lengths, dim=1)])
        some, many = int(nonzero.sum()), int(full.sum())
        return RowCounts(chunks, d.numel() - some, some - many, many)

    def _conv2d(
        self, command: Command, mode: Mode, now: LayerOperands, before: LayerOperands | None, weight: Tensor
    ) -> RowCounts:
        picture, kernel = now.arrays[0].short(), (weight.shape[2], weight.shape[3])
        stride = ints(command.attrs, "stride")
        windows = _Windows(kernel, (stride[0], stride[1]), (picture.shape[1], picture.shape[2]))
        k = kernel[0] * kernel[1] * picture.shape[3]
        if mode == "spatial":
            d = torch.zeros_like(picture)
            d[:, :, stride[1] :] = picture[:, :, stride[1] :] - picture[:, :, : -stride[1]]
        elif mode == "temporal":
            assert before is not None
            d = picture - before.arrays[0].short()
        else:
            d = picture - now.zero_point
        nonzero, full = (mark.byte() for mark in self._marks(d))
        slots = windows.sums(nonzero + full, split_k(k, self.k_max))
        some = windows.sums(nonzero, (k,))
        if mode == "spatial":  # the first window of a line follows the last one of the line above
            first = windows.column(picture, 0)
            last = windows.column(picture, windows.out[1] - 1)
            above = torch.cat([torch.full_like(last[:, :1], now.zero_point), last[:, :-1]], 1)
            edge = self._rows(first - above)
            shape = (len(picture), windows.out[0])
            slots[..., 0] = edge.slots.reshape(-1, *shape)
            some[0, ..., 0] = self._marks(first - above)[0].sum(-1)
        elements, met = some.numel() * k, int(some.sum())
        many = int(slots.sum()) - met
        return RowCounts(slots.reshape(len(slots), -1), elements - met, met - many, many)


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

    def column(self, picture: Tensor, j: int) -> Tensor:
        """The windows in column j as rows [B, Ho, K], elements in the order (u, v, c)."""
        parts = [picture[self.pixels(p)][:, :, j] for p in range(self.kernel[0] * self.kernel[1])]
        return torch.cat(parts, -1)

    def sums(self, marks: Tensor, chunks: tuple[int, ...]) -> Tensor:
        """Marks [B, H, W, C] summed over every window, chunk of K by chunk of K: int64 [chunks, B, Ho, Wo]."""
        channels, whole = marks.shape[-1], marks.sum(-1)
        found, begin = [], 0
        for length in chunks:
            end = begin + length
            total = torch.zeros_like(whole[self.pixels(0)])
            for position, low, high in _cuts(begin, end, channels):
                part = whole if (low, high) == (0, channels) else marks[..., low:high].sum(-1)
                total += part[self.pixels(position)]
            found.append(total)
            begin = end
        return torch.stack(found)


def _cuts(begin: int, end: int, channels: int) -> Iterator[tuple[int, int, int]]:
    """Elements begin … end of a window, pixel by pixel: (position, first channel, channel behind the last)."""
    for position in range(begin // channels, -(-end // channels)):
        at = position * channels
        yield position, max(begin - at, 0), min(end - at, channels)

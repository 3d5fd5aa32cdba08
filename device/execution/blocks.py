# SPDX-License-Identifier: Apache-2.0
"""Layers on block-scaled operands: rows for the two arrays, the detector's tags, and counts by channel.

Contract: 4-bit codes go to the backend's two arrays (`block_gemm`), each channel to the one that its tag names; 8-bit codes are
products of the backend's own tile, a block a product, and the scales are multiplied here. Either way the same exact sum.
There is one mode, `original`: scales that change from step to step leave nothing to take a difference to.

What this file does not do: quantize (`kernels/blocks.py`), take time (`timing/hetero.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.backends.base import (
    I8,
    I32,
    I64,
    Backend,
    BlockBackend,
    DetectingBackend,
    Gemm,
    Tags,
    WrittenBack,
    has_detector,
)
from ditto_cosim.device.execution.layers import Layer, Operands, Ran, Works
from ditto_cosim.device.kernels.slots import Windows, pad
from ditto_cosim.device.timing.hetero import Detector, LiveTags
from ditto_cosim.protocol.blocks import FORMATS, BlockFormat
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import LowRule, Mode
from ditto_cosim.protocol.isa import Convolution, integer
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import SubOp, Work, split_k

Array = npt.NDArray[Any]


class BlockLayer(Layer):
    """`conv2d_block` and `linear_block`; a linear layer is a convolution of single pixels."""

    def __init__(
        self,
        command: Command,
        k_max: int,
        rule: LowRule,
        weights: tuple[I8, I32],
        operand: tuple[int, ...],
        result: tuple[int, ...],
        detector: Detector | None,
    ) -> None:
        """`operand` and `result`: shapes. Without a detector every channel goes to the array that `all_sparse` says."""
        super().__init__(command, k_max, rule)
        self.form = FORMATS[cast(BlockFormat, command.attrs["format"])]
        self.block = integer(command.attrs, "block")
        self.result = result
        self.is_conv = command.op == "conv2d_block"
        codes, scales = weights
        if self.is_conv:
            how = Convolution.of(command.attrs)
            self.padding, kernel = how.padding, (codes.shape[2], codes.shape[3])
            self.windows = Windows(kernel, how.stride, (result[2], result[3]), how.dilation)
            codes = np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
            scales = np.ascontiguousarray(scales.transpose(0, 2, 3, 1))
            self.pixels = operand[0] * operand[2] * operand[3]
        else:
            codes, scales = codes[:, None], scales[:, None]
            self.pixels = math.prod(operand[:-1])
        self.channels = codes.shape[-1]
        self.fill = -self.channels % self.block
        self.taps = codes.size // (len(codes) * self.channels)
        self.w = np.ascontiguousarray(_filled(codes, self.fill).reshape(len(codes), -1))
        self.w_scales = np.ascontiguousarray(scales.reshape(len(scales), -1))
        of_tap = np.arange(self.channels + self.fill, dtype=np.int32)
        of_tap[self.channels :] = -1
        self.channel: I32 = np.tile(of_tap, self.taps)
        self.tags = LiveTags(detector or Detector(), self.pixels)
        self.detects = detector is not None
        self.all_sparse = False
        self.sparse: Tags = np.zeros(self.channels, bool)

    @property
    def four_bits(self) -> bool:
        return self.form.bits == 4

    # --- one step -------------------------------------------------------------------------------------------------------

    def modes(self) -> tuple[Mode, ...]:
        return ("original",)

    def begin(self, operands: Sequence[Array]) -> bool:
        self.params = ()
        self.current = self._arrange(operands)
        if self.four_bits:
            counted = self._nonzero(self.current[0])
            self.sparse = (
                self.tags.of_step(self.step, counted)
                if self.detects
                else np.full(self.channels, self.all_sparse)
            )
        return False

    def counting(self, modes: Sequence[Mode]) -> Callable[[], Works]:
        codes, sparse = self.current[0], self.sparse
        return lambda: {"original": (self._counted(codes, sparse),)}

    def run(self, mode: Mode, backend: Backend) -> tuple[Array, tuple[Ran, ...]]:
        if self.four_bits and self.detects and has_detector(backend):
            self._hold_tags(backend)
        codes, scales = (self._rows(part) for part in self.current)
        self.current = ()
        sums, ran = (self._on_arrays if self.four_bits else self._on_tile)(codes, scales, backend)
        return self._shape(sums), (ran,)

    def _hold_tags(self, backend: DetectingBackend) -> None:
        """The tags of this step against the backend's own detector, which sees the input as it is written back."""
        codes: I8 = np.ascontiguousarray(self.current[0].reshape(-1, self.channels).T)
        detector = self.tags.detector
        fresh = detector.source == "fresh"
        nonzero = self._nonzero(self.current[0])
        counted = self.pixels - nonzero >= detector.least(self.pixels)
        update = self.step % detector.interval == 0
        listed = self.sparse if fresh else None
        name, least = self.command.name, detector.least(self.pixels)
        backend.hold_tags(WrittenBack(name, codes, least, counted, nonzero, listed, update))

    def check(self, ran: Sequence[Ran], counts: Sequence[SubOp], backend: str) -> None:
        """Whether the arrays met the codes that their operands hold, and kept what their backend holds them to."""
        for of_backend in (r.audit for r in ran if r.audit is not None):
            of_backend()
        counted = counts[0].channels
        if counted is None:
            return
        wrong = np.flatnonzero(ran[0].slots != counted[1])
        if len(wrong):
            raise BackendError(
                f"layer {self.command.name!r}: backend {backend!r} met {ran[0].slots[wrong[0]]} codes other than 0 in channel "
                f"{wrong[0]}, its operands hold {counted[1][wrong[0]]}"
            )

    # --- products -------------------------------------------------------------------------------------------------------

    def _on_arrays(self, codes: I8, scales: I32, backend: Backend) -> tuple[I64, Ran]:
        unsigned = codes.view(np.uint8) if self.form.low == 0 else codes
        made = cast(BlockBackend, backend).block_gemm(
            unsigned, scales, self.w, self.w_scales, self.channel, self.sparse
        )
        arrays = None
        if made.dense_cycles is not None and made.sparse_cycles is not None:
            arrays = made.dense_cycles, made.sparse_cycles
        return made.acc, Ran("original", made.nonzero.astype(np.int64), None, arrays=arrays, audit=made.audit)

    def _on_tile(self, codes: I8, scales: I32, backend: Backend) -> tuple[I64, Ran]:
        """A group of products a block: the tile's 32 bits hold a block's sum, its scales come after."""
        rows, blocks = scales.shape
        a = np.ascontiguousarray(codes.reshape(rows, blocks, -1).transpose(1, 0, 2))
        w = np.ascontiguousarray(self.w.reshape(len(self.w), blocks, -1).transpose(1, 2, 0))
        sums: I64 = np.zeros((rows, len(self.w)), np.int64)
        made = backend.gemm(Gemm(self.command.name, a, 0, w, "original"))
        for at in range(blocks):
            part = made.accumulators[at].astype(np.int64)
            part *= scales[:, at, None]
            part *= self.w_scales[:, at].astype(np.int64)
            sums += part
        return sums, Ran("original", made.slots, None)

    # --- rows and counts ------------------------------------------------------------------------------------------------

    def _arrange(self, operands: Sequence[Array]) -> Operands:
        """Codes and scales with channels last: [B, H, W, C], or rows."""
        parts = operands[0], operands[1]
        if not self.is_conv:
            return tuple(np.ascontiguousarray(p).reshape(-1, p.shape[-1]) for p in parts)
        return tuple(np.ascontiguousarray(p.transpose(0, 2, 3, 1)) for p in parts)

    def _rows(self, part: Array) -> Array:
        """[rows, K] or [rows, blocks], of codes filled up to whole blocks."""
        fill = self.fill if part.dtype == np.int8 else 0
        filled = _filled(part, fill)
        if not self.is_conv:
            return filled
        bytes_ = np.ascontiguousarray(filled).view(
            np.int8
        )  # windows are unrolled byte by byte, a scale as four
        rows = self.windows.unroll(pad(bytes_, *self.padding, 0))
        return rows.view(part.dtype)

    def _nonzero(self, codes: Array) -> I64:
        """By channel."""
        found: I64 = np.count_nonzero(codes.reshape(-1, self.channels), axis=0).astype(np.int64)
        return found

    def _counted(self, codes: Array, sparse: Tags) -> SubOp:
        rows = math.prod(self.result) // len(self.w)
        k = self.taps * self.channels
        met = self._met(codes != 0)
        some = int(met.sum())
        wide = 0 if self.four_bits else some
        channels = None
        if self.four_bits:
            channels = np.stack([self._nonzero(codes), met, sparse]).astype(np.uint32)
        work = Work(1, rows, k, len(self.w))
        splits = split_k(k, self.k_max)
        return SubOp(work, splits, None, rows * k - some, some - wide, wide, channels)

    def _met(self, marks: Array) -> I64:
        """How often windows meet marked codes, by channel: tap by tap, over the pixels that the tap covers."""
        if not self.is_conv:
            return self._nonzero(marks)
        kernel, stride, out, dilation = (
            self.windows.kernel,
            self.windows.stride,
            self.windows.out,
            self.windows.dilation,
        )
        found: I64 = np.zeros(self.channels, np.int64)
        for u in range(kernel[0]):
            for v in range(kernel[1]):
                at = [
                    _covered(size, begin * d - p, s, n)
                    for size, begin, d, p, s, n in zip(
                        marks.shape[1:3], (u, v), dilation, self.padding, stride, out, strict=True
                    )
                ]
                found += np.count_nonzero(marks[:, at[0], at[1]], axis=(0, 1, 2))
        return found

    def _shape(self, accumulators: Array) -> Array:
        if not self.is_conv:
            return accumulators.reshape(self.result)
        batch, n, high, wide = self.result
        return accumulators.reshape(batch, high, wide, n).transpose(0, 3, 1, 2)

    # --- of a layer with temporal state ---------------------------------------------------------------------------------

    @property
    def state_bytes(self) -> int:
        return 2 * int(self.channels)

    @property
    def _images(self) -> int:
        return 1

    def _count(self, modes: Sequence[Mode], current: Operands, previous: Operands) -> Works:
        return {"original": (self._counted(current[0], self.sparse),)}

    def _jobs(self, mode: Mode) -> list[Gemm]:
        raise NotImplementedError("a block-scaled layer runs as one product")

    # --- what replay cannot rebuild -------------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, bytes]:
        """The detector's memory."""
        kept = {"held": self.tags.held, "before": self.tags.before}
        return {name: np.packbits(bits).tobytes() for name, bits in kept.items() if bits is not None}

    def restore(self, data: Mapping[str, bytes]) -> None:
        def bits(name: str) -> Tags | None:
            if name not in data:
                return None
            return np.unpackbits(np.frombuffer(data[name], np.uint8), count=self.channels).astype(bool)

        self.tags.held, self.tags.before = bits("held"), bits("before")


def _filled(codes: Array, fill: int) -> Array:
    """Zeros behind the last axis."""
    return np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, fill)]) if fill else codes


def _covered(size: int, offset: int, stride: int, windows: int) -> slice:
    """Of a line of pixels, those that a tap at this offset meets as its windows move: none outside the picture."""
    first = max(0, (stride - 1 - offset) // stride)
    last = min(windows - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0)
    return slice(offset + first * stride, offset + last * stride + 1, stride)

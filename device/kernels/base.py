# SPDX-License-Identifier: Apache-2.0
"""What the compiled kernels and their NumPy forms both offer, and the choice between them.

Arrays in, arrays out; all of them contiguous but the rows that are counted. `native.py` is the compiled form, `portable.py`
runs where there is no compiler; tests hold the two together, bit for bit. What this file does not do: compute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import LowRule

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

Reference = Literal["picture", "pixel", "row before"]
"""What a convolution's row is compared with: another picture's, one pixel everywhere, or the row before."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How chunks of K are made of segments of channels at kernel positions (`slots.py`)."""

    cuts: I64
    """[segments + 1]: channels at which segments begin and end."""
    pairs: I64
    """[…, (kernel position, segment)], chunk after chunk."""
    ends: I64
    """[chunks]: pairs up to and with each chunk."""


class KernelWindow(ctypes.Structure):
    """`DittoWindows` of rows.cpp."""

    batch: int
    height: int
    width: int
    channels: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    out_h: int
    out_w: int

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("batch", "height", "width", "channels"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "out_h", "out_w"),
        )
    )


class Before(NamedTuple):
    """A reference: the row before within chains of so many rows; before the first, the value."""

    chain: int
    value: int


Against = npt.NDArray[np.int8] | int | Before
"""What rows are compared with: others, one value everywhere, or the row before."""


class Kernels(Protocol):
    """One form of the kernels."""

    def count_against(
        self, current: I8, references: Sequence[Against], splits: tuple[int, ...], rule: LowRule
    ) -> tuple[U16, I64]:
        """Rows [rows, K] compared with each reference: slots [references, chunks, rows], and elements in all, [references, zero
        | low | full]."""
        ...

    def count_rows(self, current: I8, reference: I8 | int, rule: LowRule) -> I32:
        """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
        ...

    def count_windows(
        self,
        current: I8,
        reference: I8 | int,
        kind: Reference,
        window: KernelWindow,
        pieces: Pieces,
        rule: LowRule,
    ) -> tuple[U16, int, int]:
        """Slots [chunks, rows] of a convolution's rows, and how many elements are not zero and full, over all of them."""
        ...

    def pad(self, pictures: I8, above: int, beside: int, value: int) -> I8:
        """[B, H, W, C] with a border of one value."""
        ...

    def unroll(self, padded: I8, window: KernelWindow, k: int) -> I8:
        """The rows of a convolution, [rows, K]."""
        ...

    def silu(self, x: F32, out: F32) -> None: ...

    def gelu(self, x: F32, out: F32, tanh: bool) -> None: ...

    def softmax(self, rows: F32, out: I8, sums: I32) -> bool:
        """Bytes and sums of [rows, width]; False if a row's greatest value is NaN or +infinite."""
        ...

    def extremes(self, x: F32) -> tuple[np.float32, np.float32] | None:
        """(least, greatest) value, or None if one is NaN or infinite."""
        ...

    def quantize(self, x: F32, out: I8, reciprocal: float, zero: float, bottom: float) -> bool:
        """False if a value is NaN or infinite."""
        ...

    def add(self, a: F32, b: F32, out: F32) -> None: ...

    def add_row(self, x: F32, row: F32, out: F32) -> None:
        """[rows, width] plus one row."""
        ...

    def concatenate(self, parts: Sequence[npt.NDArray[Any]], axis: int, out: npt.NDArray[Any]) -> None:
        """Contiguous parts of one dtype into a contiguous result."""
        ...

    def dequantize_attention(self, rows: I32, out: F32, factor: float, divisors: F32) -> None: ...

    def dequantize(self, rows: I32, out: F32, scale: float, factor: F32 | None, bias: F32 | None) -> None:
        """rows × (scale × a factor a column), or × scale, plus a bias a column."""
        ...

    def layer_norm(self, x: F32, out: F32, gamma: F32 | None, beta: F32 | None, eps: float) -> bool:
        """Of [rows, width]; False if a value is NaN or infinite."""
        ...

    def group_norm(
        self, x: F32, out: F32, groups: int, gamma: F32 | None, beta: F32 | None, eps: float
    ) -> bool:
        """Of [pixels, channels]; False if a value is NaN or infinite."""
        ...


@cache
def kernels() -> Kernels:
    """The compiled form where there is a compiler, NumPy's elsewhere."""
    from ditto_cosim.device.kernels import native
    from ditto_cosim.device.kernels.portable import PortableKernels

    return native.kernels() or PortableKernels()

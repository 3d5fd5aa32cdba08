# SPDX-License-Identifier: Apache-2.0
"""What the encoder sees: elements by class and slots by row, for every mode, without running a row.

Contract: d = current − reference; d = 0 makes no slot, a low d one, any other two. Low is −8 ≤ d ≤ 7 (`twos4`) or |d| ≤ 15
(`mag4`). Slots are counted per chunk of K (`split_k`), because every chunk is encoded on its own.
A convolution's rows are windows of one padded picture, so its counts are sums over windows of counts per pixel: a kernel's
size cheaper than counting its unrolled rows; the rows themselves, for backends, are unrolled here too. What this file does
not do: products (backends), time (`timing/schedule.py`), and the loops over elements (`native.py`, `portable.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.base import Against, KernelWindow, Pieces, Reference, kernels
from ditto_cosim.protocol.hardware import LowRule

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
U16 = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts of one work."""

    slots: U16
    """[chunks, rows]"""
    zero: int
    low: int
    full: int


def classify_rows(current: I8, reference: I8 | int, rule: LowRule) -> I32:
    """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
    return kernels().count_rows(current, reference, rule)


def count_rows(current: I8, reference: Against, splits: tuple[int, ...], rule: LowRule) -> Counted:
    """Counts of explicit rows [rows, K]."""
    return count_against(current, (reference,), splits, rule)[0]


def count_against(
    current: I8, references: Sequence[Against], splits: tuple[int, ...], rule: LowRule
) -> list[Counted]:
    """Counts of explicit rows against each reference."""
    slots, totals = kernels().count_against(current, references, splits, rule)
    return [Counted(of, *total) for of, total in zip(slots, totals.tolist(), strict=True)]


def pad(pictures: I8, above: int, beside: int, value: int) -> I8:
    """[B, H, W, C] with a border of one value; contiguous."""
    pictures = np.ascontiguousarray(pictures)
    return kernels().pad(pictures, above, beside, value) if above or beside else pictures


@dataclass(frozen=True, slots=True)
class Windows:
    """How a convolution's rows lie in its padded pictures [B, H, W, C]: row (b, i, j), elements (u, v, c)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    out: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def unroll(self, padded: I8) -> I8:
        """The rows themselves, [B × Ho × Wo, Kh × Kw × C]."""
        k = self.kernel[0] * self.kernel[1] * padded.shape[3]
        return kernels().unroll(padded, self.over(padded), k)

    def over(self, padded: npt.NDArray[Any]) -> KernelWindow:
        """These windows in pictures of this shape."""
        return _window(self, padded.shape)


@lru_cache(maxsize=1024)
def _window(windows: Windows, padded: tuple[int, ...]) -> KernelWindow:
    return KernelWindow(*padded, *windows.kernel, *windows.stride, *windows.dilation, *windows.out)


@lru_cache(maxsize=1024)
def pieces(splits: tuple[int, ...], channels: int) -> Pieces:
    """The cuts of channels at which chunks begin or end, and what every chunk is made of."""
    edges = [int(e) for e in np.cumsum([0, *splits])]
    cuts = sorted({e % channels for e in edges} | {0, channels})
    chunks: list[list[tuple[int, int]]] = []
    for first, last in pairwise(edges):
        chunk = []
        for position in range(first // channels, -(-last // channels)):
            for s, (low, high) in enumerate(pairwise(cuts)):
                if first <= position * channels + low and position * channels + high <= last:
                    chunk.append((position, s))
        chunks.append(chunk)
    pairs = np.array([pair for chunk in chunks for pair in chunk], np.int64)
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
    return Pieces(np.array(cuts, np.int64), pairs, ends)


def count_windows(
    current: I8, reference: I8 | int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """Counts of a convolution whose reference is another padded picture of the same shape, or one value."""
    kind: Reference = "pixel" if isinstance(reference, int) else "picture"
    return _counted(current, reference, kind, windows, splits, rule)


def count_windows_spatial(
    padded: I8, zero_point: int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """Counts of a convolution whose reference is the row before (the zero point for the first row of a picture)."""
    return _counted(padded, zero_point, "row before", windows, splits, rule)


def _counted(
    current: I8,
    reference: I8 | int,
    kind: Reference,
    windows: Windows,
    splits: tuple[int, ...],
    rule: LowRule,
) -> Counted:
    slots, nonzero, full = kernels().count_windows(
        current, reference, kind, windows.over(current), pieces(splits, current.shape[3]), rule
    )
    return Counted(slots, slots.shape[1] * sum(splits) - nonzero, nonzero - full, full)

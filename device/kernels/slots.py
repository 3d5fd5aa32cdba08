"""What the encoder sees: elements by class and slots by row, for every mode, without running a row.

Contract: d = current − reference; d = 0 makes no slot, a low d one, any other two. Low is −8 ≤ d ≤ 7 (`twos4`) or |d| ≤ 15
(`mag4`). Slots are counted per chunk of K (`split_k`), because every chunk is encoded on its own.
A convolution's rows are windows of one padded picture, so its counts are sums over windows of counts per pixel: a kernel's
size cheaper than counting its unrolled rows; the rows themselves, for backends, are unrolled here too. What this file does
not do: products (backends) and time (`timing/schedule.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.native import Kernels, KernelWindow, Pieces, Reference, kernels
from ditto_cosim.protocol.hardware import LowRule

I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]

_BLOCK_ELEMENTS = 1 << 17
_LOW: dict[LowRule, tuple[int, int]] = {"twos4": (8, 15), "mag4": (15, 30)}
"""d is low if d + first, read unsigned, is at most second."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts of one work."""

    slots: U16
    """[chunks, rows]"""
    zero: int
    low: int
    full: int


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


def classify_rows(current: I8, reference: I8 | int, rule: LowRule) -> I32:
    """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
    compiled = kernels()
    if compiled is not None:
        return compiled.count_rows(current, reference, rule)
    return classify_rows_numpy(current, reference, rule)


def classify_rows_numpy(current: I8, reference: I8 | int, rule: LowRule) -> I32:
    """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
    counted = np.empty((3, len(current)), np.int32)
    step = max(1, _BLOCK_ELEMENTS // current.shape[1])
    for start in range(0, len(current), step):
        part = slice(start, start + step)
        nonzero, full = _marks(
            current[part], reference if isinstance(reference, int) else reference[part], rule
        )
        counted[2, part] = _sum_last(full)
        counted[1, part] = _sum_last(nonzero)
    counted[0] = current.shape[1] - counted[1]
    counted[1] -= counted[2]
    return counted


def count_rows(current: I8, reference: I8 | int, splits: tuple[int, ...], rule: LowRule) -> Counted:
    """Counts of explicit rows [rows, K]."""
    slots = np.empty((len(splits), len(current)), np.uint16)
    totals = np.zeros(3, np.int64)
    at = 0
    for i, length in enumerate(splits):
        part = slice(at, at + length)
        counted = classify_rows(
            current[:, part], reference if isinstance(reference, int) else reference[:, part], rule
        )
        slots[i] = counted[1] + 2 * counted[2]
        totals += counted.sum(1)
        at += length
    return Counted(slots, *(int(t) for t in totals))


def pad(pictures: I8, above: int, beside: int, value: int) -> I8:
    """[B, H, W, C] with a border of one value; contiguous."""
    compiled = kernels()
    if not (above or beside):
        return np.ascontiguousarray(pictures)
    if compiled is not None:
        return compiled.pad(pictures, above, beside, value)
    return pad_numpy(pictures, above, beside, value)


def pad_numpy(pictures: I8, above: int, beside: int, value: int) -> I8:
    """As `pad`."""
    b, h, w, c = pictures.shape
    padded = np.full((b, h + 2 * above, w + 2 * beside, c), value, np.int8)
    padded[:, above : above + h, beside : beside + w] = pictures
    return padded


@dataclass(frozen=True, slots=True)
class Windows:
    """How a convolution's rows lie in its padded pictures [B, H, W, C]: row (b, i, j), elements (u, v, c)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    out: tuple[int, int]

    def unroll(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows themselves, [B × Ho × Wo, Kh × Kw × C]."""
        k = self.kernel[0] * self.kernel[1] * padded.shape[3]
        compiled = kernels()
        if compiled is not None and padded.dtype == np.int8:
            return compiled.unroll(padded, _window(self, padded.shape), k)
        return np.ascontiguousarray(self._view(padded)).reshape(-1, k)

    def first_column(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows with j = 0, [B, Ho, K]."""
        return np.ascontiguousarray(self._view(padded)[:, :, 0]).reshape(len(padded), self.out[0], -1)

    def last_column(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows with j = Wo − 1, [B, Ho, K]."""
        return np.ascontiguousarray(self._view(padded)[:, :, -1]).reshape(len(padded), self.out[0], -1)

    def _view(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        b, _, _, c = padded.shape
        (kh, kw), (sh, sw), (ho, wo) = self.kernel, self.stride, self.out
        sb, sy, sx, sc = padded.strides
        return np.lib.stride_tricks.as_strided(
            padded, (b, ho, wo, kh, kw, c), (sb, sy * sh, sx * sw, sy, sx, sc), writeable=False
        )

    def windowed(self, pixels: npt.NDArray[Any], u: int, v: int) -> npt.NDArray[Any]:
        """For every row, the count of its pixel (u, v): [B, Ho, Wo] of [B, H, W]."""
        (sh, sw), (ho, wo) = self.stride, self.out
        return pixels[:, u : u + sh * (ho - 1) + 1 : sh, v : v + sw * (wo - 1) + 1 : sw]


@lru_cache(maxsize=1024)
def _coverage(windows: Windows, height: int, width: int) -> I64:
    """In how many windows every pixel lies."""
    covered = np.zeros((1, height, width), np.int64)
    for u in range(windows.kernel[0]):
        for v in range(windows.kernel[1]):
            part = windows.windowed(covered, u, v)
            part += 1
    return covered


@lru_cache(maxsize=1024)
def _segments(splits: tuple[int, ...], channels: int) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Channel cuts at which chunks begin or end, and for every chunk its (kernel position, segment) pairs."""
    edges = np.cumsum([0, *splits])
    cuts = sorted({int(e) % channels for e in edges} | {0, channels})
    chunks: list[list[tuple[int, int]]] = []
    for first, last in pairwise(edges):
        chunk = []
        for position in range(first // channels, -(-last // channels)):
            for s, (low, high) in enumerate(pairwise(cuts)):
                if first <= position * channels + low and position * channels + high <= last:
                    chunk.append((position, s))
        chunks.append(chunk)
    return cuts, chunks


@lru_cache(maxsize=1024)
def _window(windows: Windows, padded: tuple[int, ...]) -> KernelWindow:
    return KernelWindow(*padded, *windows.kernel, *windows.stride, *windows.out)


@lru_cache(maxsize=1024)
def _pieces(splits: tuple[int, ...], channels: int) -> Pieces:
    cuts, chunks = _segments(splits, channels)
    pairs = np.array([pair for chunk in chunks for pair in chunk], np.int64)
    return Pieces(
        np.array(cuts, np.int64), pairs, np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
    )


def _compiled_windows(
    compiled: Kernels,
    current: I8,
    reference: I8 | int,
    kind: Reference,
    windows: Windows,
    splits: tuple[int, ...],
    rule: LowRule,
) -> Counted:
    window, pieces = _window(windows, current.shape), _pieces(splits, current.shape[3])
    slots, nonzero, full = compiled.count_windows(current, reference, kind, window, pieces, rule)
    return Counted(slots, slots.shape[1] * sum(splits) - nonzero, nonzero - full, full)


def count_windows(
    current: I8, reference: I8 | int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """Counts of a convolution whose reference is another padded picture of the same shape, or one value."""
    compiled = kernels()
    if compiled is not None:
        kind: Reference = "pixel" if isinstance(reference, int) else "picture"
        return _compiled_windows(compiled, current, reference, kind, windows, splits, rule)
    return count_windows_numpy(current, reference, windows, splits, rule)


def count_windows_spatial(
    padded: I8, zero_point: int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """Counts of a convolution whose reference is the row before (the zero point for the first row of a picture)."""
    compiled = kernels()
    if compiled is not None:
        return _compiled_windows(compiled, padded, zero_point, "row before", windows, splits, rule)
    return count_windows_spatial_numpy(padded, zero_point, windows, splits, rule)


def count_windows_numpy(
    current: I8, reference: I8 | int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """As `count_windows`."""
    batch, _, _, channels = current.shape
    cuts, chunks = _segments(splits, channels)
    shape = current.shape[:3]
    pixel_slots: list[U16] = []
    covered = _coverage(windows, *shape[1:]).ravel()
    full = nonzero = 0
    for low, high in pairwise(cuts):
        counted = classify_rows(
            current[..., low:high].reshape(-1, high - low),
            reference if isinstance(reference, int) else reference[..., low:high].reshape(-1, high - low),
            rule,
        )
        low_total, full_total = counted[1:].reshape(2, batch, -1).sum(1, dtype=np.int64) @ covered
        full += int(full_total)
        nonzero += int(low_total + full_total)
        pixel_slots.append((counted[1] + 2 * counted[2]).astype(np.uint16).reshape(shape))
    kw = windows.kernel[1]
    slots = np.zeros((len(splits), batch, *windows.out), np.uint16)
    for counts, chunk in zip(slots, chunks, strict=True):
        for position, segment in chunk:
            counts += windows.windowed(pixel_slots[segment], position // kw, position % kw)
    elements = batch * windows.out[0] * windows.out[1] * sum(splits)
    return Counted(slots.reshape(len(splits), -1), elements - nonzero, nonzero - full, full)


def count_windows_spatial_numpy(
    padded: I8, zero_point: int, windows: Windows, splits: tuple[int, ...], rule: LowRule
) -> Counted:
    """As `count_windows_spatial`.

    Within a line of windows that is the picture shifted by one stride; only the first window of a line needs its rows.
    """
    stride = windows.stride[1]
    shifted = np.empty_like(padded)
    shifted[:, :, stride:] = padded[:, :, : padded.shape[2] - stride]
    shifted[:, :, :stride] = padded[:, :, :stride]
    inner = count_windows_numpy(padded, shifted, windows, splits, rule)
    batch, (ho, wo) = len(padded), windows.out
    slots = inner.slots.reshape(len(splits), batch, ho, wo)
    totals = np.array([inner.zero, inner.low, inner.full], np.int64)
    first, last = windows.first_column(padded), windows.last_column(padded)
    before = np.concatenate([np.full_like(last[:, :1], zero_point), last[:, :-1]], 1)
    # The shifted picture has counted the first windows against a wrong reference: take that back.
    wrong = windows.first_column(shifted)
    k = first.shape[2]
    line = (batch * ho, k)
    right = count_rows(first.reshape(line), before.reshape(line), splits, rule)
    mistaken = count_rows(first.reshape(line), wrong.reshape(line), splits, rule)
    slots[..., 0] = right.slots.reshape(len(splits), batch, ho)
    totals += np.array([right.zero, right.low, right.full]) - np.array(
        [mistaken.zero, mistaken.low, mistaken.full]
    )
    return Counted(slots.reshape(len(splits), -1), *(int(t) for t in totals))

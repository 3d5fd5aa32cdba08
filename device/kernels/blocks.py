# SPDX-License-Identifier: Apache-2.0
"""Block-scaled numbers on the device: codes and scales of a tensor, exact products, and back to binary32.

Implements the text of `protocol/isa.py` to the bit, as `vector.py` does. A product's scales are folded into its codes,
c × S, so that it is one matrix product in binary64, over pieces of K so short that every sum is exact; the pieces add up in
int64. What this file does not do: choose arrays for channels, or take time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.functions import F32, Array, f32
from ditto_cosim.protocol.blocks import (
    FORMATS,
    MX_EXPONENT_MIN,
    MX_FRACTION_BITS,
    MX_WINDOW,
    SCALE_BITS,
    SCALE_MAX,
    SECOND_LEVEL_MIN,
    BlockFormat,
    e4m3_scale,
)
from ditto_cosim.protocol.errors import NonFiniteError

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

NUMBERS: I32 = np.array([e4m3_scale(code) for code in range(127)], np.int32)
"""E4M3, ascending."""
_MIDDLES: F64 = (NUMBERS[:-1] + NUMBERS[1:]) / 2.0


def e4m3(values: F32) -> I32:
    """The nearest numbers, half to even, in units of 2⁻⁹."""
    units = values.astype(np.float64) * 2**SCALE_BITS
    code = np.searchsorted(_MIDDLES, units, "left")  # a tie stays below …
    tie = (code < len(_MIDDLES)) & (_MIDDLES[np.minimum(code, len(_MIDDLES) - 1)] == units)
    code += tie & (code % 2 == 1)  # … unless the code above is the even one
    found: I32 = NUMBERS[code]
    return found


def quantize(x: F32, form: BlockFormat, block: int, axis: int, where: str) -> tuple[I8, I32, F32]:
    """Codes, scales and params."""
    if not np.isfinite(x).all():
        raise NonFiniteError(f"{where}: its input holds NaN or infinity")
    last = np.moveaxis(x, axis, -1)
    channels = last.shape[-1]
    rows = np.zeros((*last.shape[:-1], -(-channels // block) * block), np.float32)
    rows[..., :channels] = last
    parts = rows.reshape(*last.shape[:-1], -1, block)
    largest: F32 = parts.max(-1) if form == "uint4" else np.abs(parts).max(-1)
    np.maximum(largest, 0, out=largest)
    make = _float_scaled if FORMATS[form].is_float_scaled else _power_scaled
    codes, scales, t = make(parts, largest, form)
    flat = codes.reshape(rows.shape)[..., :channels]
    return (
        np.moveaxis(flat, -1, axis).astype(np.int8),
        np.ascontiguousarray(np.moveaxis(scales, -1, axis)),
        np.array([t, 0], np.float32),
    )


def _float_scaled(parts: F32, largest: F32, form: BlockFormat) -> tuple[F32, I32, np.float32]:
    top = f32(FORMATS[form].high)
    t = max(f32(largest.max() / (f32(SCALE_MAX / 2**SCALE_BITS) * top)), f32(SECOND_LEVEL_MIN))
    scales = e4m3(np.minimum(largest / (top * t), f32(SCALE_MAX / 2**SCALE_BITS)))
    unit = (scales * f32(2.0**-SCALE_BITS)).astype(np.float32) * t
    empty = scales == 0
    codes = np.rint(parts / np.where(empty, f32(1), unit)[..., None])
    codes[empty] = 0
    return np.clip(codes, FORMATS[form].low, FORMATS[form].high, out=codes), scales, t


def _power_scaled(parts: F32, largest: F32, form: BlockFormat) -> tuple[F32, I32, np.float32]:
    empty = largest == 0
    exponents = np.frexp(largest)[1] - 1
    highest = int(exponents[~empty].max()) if not empty.all() else MX_EXPONENT_MIN
    lowest = max(highest - MX_WINDOW, MX_EXPONENT_MIN)
    np.maximum(exponents, lowest, out=exponents)
    scaled = np.ldexp(parts, (MX_FRACTION_BITS - exponents)[..., None])
    codes = np.copysign(np.minimum(np.floor(np.abs(scaled) + f32(0.5)), FORMATS[form].high), scaled)
    scales = np.where(empty, 0, np.left_shift(1, exponents - lowest)).astype(np.int32)
    codes[empty] = 0
    return codes, scales, f32(2.0 ** (lowest + SCALE_BITS - MX_FRACTION_BITS))


def folded(codes: Array, scales: I32) -> F64:
    """c × S of rows [rows, K] whose blocks have scales [rows, blocks]."""
    rows, k = codes.shape
    blocks = scales.shape[1]
    product = codes.reshape(rows, blocks, k // blocks) * scales[:, :, None].astype(np.float64)
    return product.reshape(rows, k)


def multiply(a: F64, b: F64, largest: int) -> I64:
    """a[rows, K] · b[N, K]ᵀ, of which no product exceeds `largest`: exact."""
    piece = max(1, 2**53 // max(1, largest))
    total: I64 = np.zeros((len(a), len(b)), np.int64)
    for start in range(0, a.shape[1], piece):
        part = slice(start, start + piece)
        total += (a[:, part] @ b[:, part].T).astype(np.int64)
    return total


def dequantize(acc: I64, params: F32, w_t: F32, bias: F32 | None, axis: int) -> F32:
    factor = (np.float64(params[0]) * w_t.astype(np.float64)) * 2.0 ** (-2 * SCALE_BITS)
    last = np.moveaxis(acc, axis, -1)
    y = (last.astype(np.float64) * factor).astype(np.float32)
    if bias is not None:
        y += bias
    return np.moveaxis(y, -1, axis)

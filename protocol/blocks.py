# SPDX-License-Identifier: Apache-2.0
"""Block-scaled numbers: the formats of SQ-DM, and their scales as exact integers.

A block is G neighbours along the input channels of one pixel (activations) or of one output channel and tap (weights). It
shares one scale S, an integer in units of 2⁻⁹; beside it stands one second-level scale t, a binary32 number, for a whole
tensor of activations or one output channel of weights:

    value = c × S × 2⁻⁹ × t          c: the element's code

    format   codes      S                                              t
    uint4    0…15       E4M3 of the block's max ÷ (15 t), ≤ 229,376    so that the largest S is 448 = 229,376 × 2⁻⁹
    int4     −7…7       E4M3 of the block's max|x| ÷ (7 t)             the same
    mxint8   −127…127   2^(e − e₀), e = ⌊log₂ max|x|⌋, e₀ ≤ e ≤ e₀+16  2^(e₀ + 3), so that value = c ÷ 64 × 2^e

With integer scales a product of two such tensors, Σ over blocks of (Σ c·c′) S S′, is an exact int64 whatever its order:
at most 2⁵⁵ for 144 blocks of 32. `isa.py` has the arithmetic of each command. SQ-DM's first page gives the 4 bits, notes of
readers FP8 scales and MXINT8 at both ends; block size, second-level scale and the window of 16 exponents are ours.

What this file does not hold: anything that works on arrays. Host and device each have their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

BlockFormat = Literal["uint4", "int4", "mxint8"]

BLOCK = 32
"""G by default: with it, and throughput 1 : 2 : 4, the published 3.78 × and 72 % hang together (derived)."""
BLOCKS = (16, 32, 64)
"""What G may be."""

SCALE_BITS = 9
"""A scale is an integer in units of 2⁻⁹, the smallest positive number of E4M3."""
E4M3_CODES = 127
"""Non-negative codes 0…126; 127 is its NaN."""
SCALE_MAX = 229_376
"""448 × 2⁹, the largest finite number of E4M3."""
MX_WINDOW = 16
"""Exponents below the tensor's largest that mxint8 tells apart; a block further down shares the lowest."""
MX_EXPONENT_MIN = -100
"""Lowest e₀: below, t would leave the normal numbers."""
MX_FRACTION_BITS = 6
"""mxint8's element is a sign and 1.6 bits."""
SECOND_LEVEL_MIN = 2.0**-100
"""Lowest t of uint4 and int4."""


@dataclass(frozen=True, slots=True)
class Format:
    """Codes of one format."""

    name: BlockFormat
    low: int
    high: int
    bits: int
    """An element takes in memory."""

    @property
    def is_float_scaled(self) -> bool:
        """Whether its blocks carry E4M3 scales (else powers of two)."""
        return self.bits == 4

    @property
    def weights(self) -> BlockFormat:
        """The format of the weights that its codes are multiplied with."""
        return "int4" if self.bits == 4 else "mxint8"

    @property
    def largest(self) -> int:
        """Product of code and scale, at most."""
        return self.high * (SCALE_MAX if self.is_float_scaled else 1 << MX_WINDOW)


FORMATS: dict[BlockFormat, Format] = {
    "uint4": Format("uint4", 0, 15, 4),
    "int4": Format("int4", -7, 7, 4),
    "mxint8": Format("mxint8", -127, 127, 8),
}


def k_max(activations: BlockFormat, weights: BlockFormat) -> int:
    """Longest K whose sum cannot leave int64."""
    return int((2**63 - 1) // (FORMATS[activations].largest * FORMATS[weights].largest))


def e4m3_scale(code: int) -> int:
    """The number of a non-negative E4M3 code, in units of 2⁻⁹."""
    if not 0 <= code < E4M3_CODES:
        raise ValueError(f"E4M3 code {code} is outside 0…{E4M3_CODES - 1}")
    exponent, mantissa = divmod(code, 8)
    return mantissa if exponent == 0 else (8 + mantissa) << (exponent - 1)


def e4m3_code(scale: int) -> int:
    """The code whose number this is; `scale` must be one of them."""
    exponent = max(0, scale.bit_length() - 4)
    mantissa, rest = divmod(scale, 1 << exponent)
    code = mantissa if scale < 8 else 8 * exponent + mantissa
    if rest or not 0 <= scale <= SCALE_MAX:
        raise ValueError(f"{scale} × 2⁻⁹ is not a number of E4M3")
    return code


def e4m3_round(value: float | Fraction) -> int:
    """The nearest number of E4M3, half to even, in units of 2⁻⁹; beyond the largest, the largest."""
    units = Fraction(value) * 2**SCALE_BITS
    if units < 0:
        raise ValueError(f"a scale is not negative: {value}")
    if units >= SCALE_MAX:
        return SCALE_MAX
    step: int = 1 << max(0, math.floor(units).bit_length() - 4)
    rounded: int = (units / step).__round__()  # half to even
    return rounded * step


def blocks_of(channels: int, block: int) -> int:
    """Blocks that so many neighbours make; the last may be short."""
    return -(-channels // block)

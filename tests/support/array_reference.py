# SPDX-License-Identifier: Apache-2.0
"""The reference SQ-DM's RTL is held to: integer sums, scales read from E4M3 by the book, the written contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.timing.contract import ArrayContract

Array = npt.NDArray[Any]


def e4m3(code: int) -> int:
    """An E4M3 number in units of 2⁻⁹."""
    exponent, mantissa = code >> 3 & 15, code & 7
    return int((1 + mantissa / 8) * 2.0 ** (exponent - 7) * 512) if exponent else mantissa


class SumReference(ArrayContract):
    """`sim_harness.array_regression.ArrayReference`."""

    @property
    def detector(self) -> ArrayContract:
        return self

    def accumulators(self, codes: Array, scales: Array, weights: Array, weight_scales: Array) -> Array:
        rows, blocks = scales.shape
        number = np.vectorize(e4m3, otypes=[np.int64])
        a, w = number(scales), number(weight_scales)
        parts = np.einsum(
            "mbg,bgn->mbn",
            codes.reshape(rows, blocks, -1),
            weights.astype(np.int64).reshape(blocks, -1, weights.shape[1]),
        )
        return np.einsum("mbn,mb,bn->mn", parts, a, w)

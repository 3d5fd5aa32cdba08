# SPDX-License-Identifier: Apache-2.0
"""A backend as somebody else would write one: NumPy alone, differences formed literally, nothing clever.

It starts in a moment (no torch), so tests that kill devices use it; and it shows that a backend from
elsewhere fits.
"""

from __future__ import annotations

import numpy as np

from ditto_cosim.device.backends.base import Gemm, GemmResult
from ditto_cosim.device.chips import Chip


class PlainBackend:
    name = "plain"
    measures = False

    def __init__(self, chip: Chip) -> None:
        self.geometry = chip.geometry

    def gemm(self, job: Gemm) -> GemmResult:
        difference = job.current.astype(np.int64) - np.asarray(job.reference, np.int64)
        accumulators = (difference @ job.weights.astype(np.int64)).astype(np.int32)
        low_rule = self.geometry.low_rule
        low = (difference >= -8) & (difference <= 7) if low_rule == "twos4" else np.abs(difference) <= 15
        per_element = np.where(difference == 0, 0, np.where(low, 1, 2))
        if job.mode == "original":
            per_element = np.full(difference.shape, 2)
        zero, one, two = (int((per_element == count).sum()) for count in range(3))
        return GemmResult(accumulators, per_element.sum(-1, dtype=np.int32), zero, one, two, None)

    def close(self) -> None:
        """Holds nothing."""

# SPDX-License-Identifier: Apache-2.0
"""A backend in thirty lines: the seam that an FPGA board's driver fills in.

    PYTHONPATH=examples ditto conform board:NumpyBoard
    PYTHONPATH=examples ditto generate --backend board:NumpyBoard --steps 3 --verify

A real board would send `current`, `reference` and `weights` to its tile, split beyond its K and N, and read accumulators,
slots and cycles back. This one computes them with NumPy, slowly, and so shows all that is asked of a backend.
"""

import numpy as np

from ditto_cosim.device.backends.base import Gemm, GemmResult
from ditto_cosim.device.chips import Chip

LOW = {"twos4": (-8, 7), "mag4": (-15, 15)}


class NumpyBoard:
    """Computes every product from its differences, as the lanes do."""

    name = "numpy-board"
    measures = False  # True once `cycles` are counted by the board

    def __init__(self, chip: Chip) -> None:
        self.geometry = chip.geometry

    def gemm(self, job: Gemm) -> GemmResult:
        d = job.current.astype(np.int64) - job.reference
        accumulators = np.matmul(d.astype(np.float64), job.weights.astype(np.float64)).astype(np.int64)
        first, last = LOW[self.geometry.low_rule]
        zero = d == 0
        full = (d < first) | (d > last)
        if job.mode == "original":
            zero, full = np.zeros_like(zero), np.ones_like(full)
        low = ~zero & ~full
        return GemmResult(
            accumulators=accumulators.astype(np.int32),
            slots=(low + 2 * full).sum(2).astype(np.int32),
            zero=int(zero.sum()),
            low=int(low.sum()),
            full=int(full.sum()),
            cycles=None,
        )

    def close(self) -> None:
        """A board would be given back here."""

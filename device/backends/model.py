"""Backend `model`: the same accumulators and slot counts as the RTL, computed by integer matrix products.

Needs neither a compiler nor Verilator. It does not measure cycles: those come from the written contract. Exactness rests on
W·(x − reference) = W·x − W·reference in integers modulo 2³², so no 9-bit difference is ever formed for the product.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from ditto_cosim.device.backends.base import I8, I32, Gemm, GemmResult
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.units.slots import classify_rows

# The operands are read-only views; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class ModelBackend:
    """See the file's header."""

    name = "model"
    measures = False

    def __init__(self, chip: Chip) -> None:
        self.geometry = chip.geometry

    def gemm(self, job: Gemm) -> GemmResult:
        groups, rows, k = job.current.shape
        n = job.weights.shape[2]
        out: I32 = np.empty((groups, rows, n), np.int32)
        counts = np.empty((groups, 3, rows), np.int32)
        for g in range(groups):
            weights = _matrix(job.weights[g])
            accumulators = torch._int_mm(_matrix(job.current[g]), weights)
            if isinstance(job.reference, int):
                if job.reference:
                    accumulators -= job.reference * weights.sum(0, dtype=torch.int32)
            else:
                accumulators -= torch._int_mm(_matrix(job.reference[g]), weights)
            out[g] = accumulators.numpy()
            if job.mode == "original":
                counts[g] = np.array([0, 0, k])[:, None]
            else:
                reference = job.reference if isinstance(job.reference, int) else job.reference[g]
                counts[g] = classify_rows(job.current[g], reference, self.geometry.low_rule)
        zero, low, full = (int(c) for c in counts.sum((0, 2)))
        return GemmResult(out, counts[:, 1] + 2 * counts[:, 2], zero, low, full, None)

    def close(self) -> None:
        """Holds nothing."""


def _matrix(a: I8) -> torch.Tensor:
    """`torch._int_mm` returns garbage where an axis of length 1 has a stray stride; a copy has none."""
    return torch.from_numpy(a if min(a.shape) > 1 else a.copy())

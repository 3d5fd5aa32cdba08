# SPDX-License-Identifier: Apache-2.0
"""Backend `model`: the same accumulators and slot counts as the RTL, computed by integer matrix products.

Needs neither a compiler nor Verilator. It does not measure cycles: those come from the written contract. Where the processor
multiplies int8 (VNNI) and PyTorch is there to do it, W·(x − reference) = W·x − W·reference in integers modulo 2³², so no
9-bit difference is ever formed; elsewhere differences are multiplied in binary32 by NumPy, in pieces of K so short that every
sum is exact. Block-scaled products are binary64 ones, kept exact in the same way (`kernels/blocks.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ditto_cosim.device.backends.base import (
    I8,
    I32,
    BlockProducts,
    Codes,
    Gemm,
    GemmResult,
    Tags,
    check_blocks,
)
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.kernels import blocks
from ditto_cosim.device.kernels.slots import classify_rows

if TYPE_CHECKING:
    import torch

# The operands are read-only views; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

EXACT_K = (1 << 24) // (255 * 128)
"""Differences times weights whose sum binary32 holds exactly, in whatever order it is formed."""
_SMALL_MACS = 1 << 19
"""Products of a group below which a call costs more than binary32 does: heads of attention at a small model's sizes."""


class ModelBackend:
    """See the file's header."""

    name = "model"
    measures = False

    def __init__(self, chip: Chip) -> None:
        self.geometry = chip.geometry
        self._multiply = _fastest_product()

    def gemm(self, job: Gemm) -> GemmResult:
        groups, rows, k = job.current.shape
        out: I32 = np.empty((groups, rows, job.weights.shape[2]), np.int32)
        counts = np.empty((groups, 3, rows), np.int32)
        together = groups > 1 and rows * k * out.shape[2] <= _SMALL_MACS
        if together:
            _f32_product(job.current, job.reference, job.weights, out)
        for g in range(groups):
            reference = job.reference if isinstance(job.reference, int) else job.reference[g]
            if not together:
                self._multiply(job.current[g], reference, job.weights[g], out[g])
            if job.mode == "original":
                counts[g] = np.array([0, 0, k])[:, None]
            else:
                counts[g] = classify_rows(job.current[g], reference, self.geometry.low_rule)
        zero, low, full = (int(c) for c in counts.sum((0, 2)))
        return GemmResult(out, counts[:, 1] + 2 * counts[:, 2], zero, low, full, None)

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        check_blocks(a, a_scales, w, w_scales, channel, sparse)
        left, right = blocks.folded(a, a_scales), blocks.folded(w, w_scales)
        largest = int(np.abs(left).max()) * int(np.abs(right).max())
        met = np.count_nonzero(a, axis=0)
        inside = channel >= 0
        nonzero = np.bincount(channel[inside], met[inside], minlength=len(sparse)).astype(np.int64)
        return BlockProducts(blocks.multiply(left, right, largest), None, None, nonzero)

    def close(self) -> None:
        """Holds nothing."""


def _fastest_product() -> Callable[[I8, I8 | int, I8, I32], None]:
    try:
        import torch
    except ImportError:  # a device may be installed alone
        return _f32_product
    return _int8_product if torch.cpu.get_capabilities().get("avx512_vnni") else _f32_product


def _int8_product(current: I8, reference: I8 | int, weights: I8, out: I32) -> None:
    """out = current·weights − reference·weights by int8 products."""
    import torch

    w = _matrix(weights)
    accumulators = torch._int_mm(_matrix(current), w)
    if not isinstance(reference, int):
        accumulators -= torch._int_mm(_matrix(reference), w)
    elif reference:
        accumulators -= reference * w.sum(0, dtype=torch.int32)
    out[:] = accumulators.numpy()


def _matrix(a: I8) -> torch.Tensor:
    """`torch._int_mm` returns garbage where an axis of length 1 has a stray stride; a copy has none."""
    import torch

    return torch.from_numpy(a if min(a.shape) > 1 else a.copy())


def _f32_product(current: I8, reference: I8 | int, weights: I8, out: I32) -> None:
    """out = (current − reference)·weights by binary32 products of pieces of K; of one matrix, or of many."""
    for start in range(0, weights.shape[-2], EXACT_K):
        piece = slice(start, start + EXACT_K)
        differences = current[..., piece].astype(np.float32)
        differences -= reference if isinstance(reference, int) else reference[..., piece]
        partial = differences @ weights[..., piece, :].astype(np.float32)
        if start == 0:
            out[:] = partial
        else:
            out += partial.astype(np.int32)

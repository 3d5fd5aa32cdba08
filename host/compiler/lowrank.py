# SPDX-License-Identifier: Apache-2.0
"""A layer's weights as a product of two thin matrices: plain and channel-aware SVD, and both factors on 8-bit grids.

    weigh(samples)                 per-channel weights from magnitudes, sample by sample (CA), or from magnitudes of changes (CD)
    factorize(W, rank, left, right) -> A [N, R], B [R, K]: the rank-R matrix nearest to W in ‖D_L·(W − A·B)·D_R‖

Singular values lie in A, so that B's rows are alike in size. Binary64 throughout. As in the authors' code: magnitudes are
min-max normalised over channels per sample, averaged, square-rooted, and not smaller than a thousandth of the largest.
What this file does not do: meet data (`pipeline/factor.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ditto_cosim.host.compiler.factors import FactorsError

EPSILON = 1e-6
EXPONENT = 0.5
LARGEST_RATIO = 1000.0


@dataclass
class Magnitudes:
    """Mean over samples of one side's normalised magnitudes a channel."""

    total: Tensor | None = None
    samples: int = 0

    def add(self, values: Tensor) -> None:
        """Of one batch, [samples, …, channels]: tokens are averaged over, samples count alike."""
        each = values.double().abs().reshape(len(values), -1, values.shape[-1]).mean(1)
        low, high = each.amin(1, keepdim=True), each.amax(1, keepdim=True)
        normalised = ((each - low + EPSILON) / (high - low + EPSILON)).sum(0)
        self.total = normalised if self.total is None else self.total + normalised
        self.samples += len(values)

    def weights(self) -> Tensor:
        """A weight a channel."""
        if self.total is None:
            raise FactorsError("factors: no data were seen, so there are no magnitudes to weigh channels by")
        rooted = (self.total / self.samples) ** EXPONENT
        return torch.maximum(rooted, rooted.max() / LARGEST_RATIO) + EPSILON


def factorize(
    weight: Tensor, rank: int, left: Tensor | None = None, right: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A and B for `weight` [N, K]; `left` [N] and `right` [K] are the diagonals of D_L and D_R, all ones without."""
    w = weight.detach().double()
    left = torch.ones(w.shape[0], dtype=w.dtype) if left is None else left.double()
    right = torch.ones(w.shape[1], dtype=w.dtype) if right is None else right.double()
    u, s, v = torch.linalg.svd(left[:, None] * w * right, full_matrices=False)
    return (u[:, :rank] * s[:rank]) / left[:, None], v[:rank] / right


def quantized(factor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 with a scale a row."""
    largest = factor.abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest)).float()
    return torch.clamp(torch.round(factor / scale[:, None].double()), -127, 127).to(torch.int8), scale

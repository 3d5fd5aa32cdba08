# SPDX-License-Identifier: Apache-2.0
"""Two arrays side by side (SQ-DM): which channels go where, and what a layer takes.

Contract (spec: layer schedule and detector; sizes and rates are ours)
    tags     channel c of a layer's input is sparse in a step iff at least ⌈θ × pixels⌉ of its codes are 0.
             fresh: counted in this step, while the layer before writes the input back; carried: those counted in the step
             before, all dense in the first. They are counted again every `interval` steps and kept in between.
    dense    every element of a dense channel is one product with each of N weights
    sparse   every code that is not 0 of a sparse channel is, taps outside the picture left out
    cost     multiplier cycles of a product on a 4b×8b multiplier: 1 with a 4-bit code, 2 with 8 bits, 4 with 16, so that
             throughput is 4 : 2 : 1. 8-bit layers run on the dense array alone, or are shared out (a design's choice).
    layer    max(⌈dense × cost ÷ P_D⌉, ⌈sparse × cost ÷ P_S⌉) + FILL_CYCLES, then a barrier: the sums of both arrays meet, and
             the detector needs all of it. A wrong tag costs time and never a bit.

The published sources give the threshold (30 %), the update in every step and the two kinds of arrays (one reader's notes);
where the tags come from, rates and the fill are ours. What this file does not do: DRAM, the vector unit (the engine), or the
lane of either array (`dense_lane.py`, `sparse_lane.py`), which the RTL is held to.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
TagSource = Literal["fresh", "carried"]

FILL_CYCLES = 8
"""From a layer's first operand to its first sum: a code's way through distribution, multiplier and an adder tree of 32."""

NONZERO, PRODUCTS, TAGS = range(3)
"""Rows of a layer's counts by channel: codes other than 0; the same, as often as windows meet them; the run's own tags."""


@dataclass(frozen=True, slots=True)
class Detector:
    """When a channel is sparse."""

    threshold: float = 0.30
    """θ: least share of zero codes."""
    interval: int = 1
    """U: steps from one count to the next."""
    source: TagSource = "fresh"

    def least(self, pixels: int) -> int:
        """Zero codes that make a channel of so many sparse: the number that the comparator holds."""
        return int(-(-Fraction(str(self.threshold)) * pixels // 1))

    def tags(self, nonzero: I64, pixels: int) -> Bools:
        """[steps, channels] of non-zero codes, from step 0 on without a gap -> tags."""
        counted = pixels - nonzero >= self.least(pixels)
        if self.source == "carried":
            counted = np.concatenate([np.zeros_like(counted[:1]), counted[:-1]])
        steps = np.arange(len(counted))
        found: Bools = counted[steps - steps % self.interval]
        return found


@dataclass(slots=True)
class LiveTags:
    """A detector over the steps of a run, for one layer."""

    detector: Detector
    pixels: int
    held: Bools | None = None
    before: Bools | None = None
    """What the step before counted."""

    def of_step(self, step: int, nonzero: I64) -> Bools:
        """The tags of this step, whose input has so many codes other than 0 in each channel."""
        counted = self.pixels - nonzero >= self.detector.least(self.pixels)
        offered = counted
        if self.detector.source == "carried":
            offered = np.zeros_like(counted) if self.before is None else self.before
        if self.held is None or step % self.detector.interval == 0:
            self.held = offered
        self.before = counted
        return self.held


@dataclass(frozen=True, slots=True)
class Arrays:
    """Cycles and products of the two arrays, of one shape."""

    dense_cycles: I64
    sparse_cycles: I64
    dense_products: I64
    sparse_products: I64

    @property
    def total(self) -> I64:
        return np.maximum(self.dense_cycles, self.sparse_cycles) + FILL_CYCLES


def arrays(dense: I64, sparse: I64, cost: int, dense_multipliers: int, sparse_multipliers: int) -> Arrays:
    """What products of each array take; an array without multipliers must have none."""
    return Arrays(
        -(-dense * cost // max(1, dense_multipliers)),
        -(-sparse * cost // max(1, sparse_multipliers)),
        dense,
        sparse,
    )

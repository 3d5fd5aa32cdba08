# SPDX-License-Identifier: Apache-2.0
"""The reference the RTL is held to.

Products in float64 (exact far beyond 2³¹), everything else from the written contract.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class LaneReference:
    """`sim_harness.regression.Reference` over the device's lane model."""

    def __init__(self, lane: ModuleType) -> None:
        self.counts = lane.row_counts
        self.times = lane.tile_times
        self.stalled_times = lane.stalled_times
        self.weight_load_cycles = lane.weight_load_cycles

    def accumulators(self, current: Array, reference: Array, weights: Array) -> Array:
        difference = current.astype(np.float64) - reference
        return (difference @ weights.astype(np.float64)).astype(np.int32)

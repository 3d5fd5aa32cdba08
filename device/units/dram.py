"""DRAM: HBM2-like channels × banks × rows.

Cycle contract of a stream (closed form, per channel, DRAMsim3's controller): n requests of 64 bytes take
    first_cycles + burst_cycles × n
and at saturation a refresh steals `refresh_cycles` of every `refresh_interval_cycles`, none before the first interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
REQUEST_BYTES = 64


@dataclass(frozen=True)
class DramConfig:
    """Timings in controller cycles (1 ns); the defaults are DRAMsim3's HBM2_8Gb_x128."""

    channels: int = 8
    bytes_per_cycle: int | None = None
    """Replaces everything else: an ideal pipe of this width, as the `paper` preset assumes."""
    burst_cycles: int = 2
    first_cycles: int = 29
    refresh_cycles: int = 315
    refresh_interval_cycles: int = 3900
    turnaround_cycles: int = 22

    @cached_property
    def peak_bytes_per_cycle(self) -> float:
        return self.bytes_per_cycle or self.channels * REQUEST_BYTES / self.burst_cycles

    def stream_cycles(self, nbytes: I64) -> I64:
        """Cycles of reading or writing contiguous bytes spread over all channels; 0 bytes take none."""
        if self.bytes_per_cycle is not None:
            return -(-nbytes // self.bytes_per_cycle)
        requests = -(-nbytes // (REQUEST_BYTES * self.channels))
        busy = self.first_cycles + self.burst_cycles * requests
        usable = self.refresh_interval_cycles - self.refresh_cycles
        late = np.maximum(busy - self.refresh_interval_cycles, 0)
        refreshes = np.where(busy > self.refresh_interval_cycles, 1 + late // usable, 0)
        return np.where(nbytes > 0, busy + refreshes * self.refresh_cycles, 0)

# SPDX-License-Identifier: Apache-2.0
"""DRAM: geometry and timings of HBM2-like channels × banks × rows, where an address lies, and what a stream takes.

Contract: `stream_ns` is the closed form for contiguous bytes: first_ns + burst × requests per channel, and refresh. The defaults
are DRAMsim3's HBM2_8Gb_x128 at 1 ns. What serves requests: `memory.py` in the loop, `first_ready.py` as a model apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
AddressMapping = Literal["coarse", "fine"]

REQUEST_BYTES = 64


@dataclass(frozen=True)
class DramConfig:
    """Geometry and timings. Times are nanoseconds, whatever the chip's clock."""

    channels: int = 8
    mapping: AddressMapping = "coarse"
    """From the lowest address bit up. coarse: column, channel, bank, group, row. fine: channel, group, column, bank, row."""
    bytes_per_cycle: int | None = None
    """Replaces everything else: an ideal pipe of this width, as the `paper` preset assumes."""
    groups: int = 4
    banks_per_group: int = 4
    row_requests: int = 32
    burst_ns: int = 2
    cas_ns: int = 14
    write_cas_ns: int = 4
    row_to_column_ns: int = 14
    precharge_ns: int = 14
    row_active_ns: int = 34
    row_cycle_ns: int = 48
    activate_same_group_ns: int = 6
    activate_ns: int = 4
    four_activates_ns: int = 30
    read_to_precharge_ns: int = 5
    write_to_precharge_ns: int = 22
    read_to_write_ns: int = 14
    write_to_read_ns: int = 12
    write_to_read_same_group_ns: int = 14
    refresh: bool = True
    refresh_interval_ns: int = 3900
    refresh_ns: int = 260
    read_queue: int = 32
    write_buffer: int = 32
    bank_queue: int = 8
    hits_before_close: int = 4
    drain_when_idle: int = 8
    window: int | None = None
    """At most this many reads outstanding per channel (writes are posted); None: as many as the queues hold."""

    @property
    def peak_bytes_per_ns(self) -> float:
        return self.channels * REQUEST_BYTES / self.burst_ns

    def peak_bytes_per_cycle(self, clock_mhz: int) -> float:
        """Of the chip's cycles."""
        return self.bytes_per_cycle or self.peak_bytes_per_ns * 1000 / clock_mhz

    @property
    def first_ns(self) -> int:
        """What the first read of a stream takes beyond its own burst: activate, column, return."""
        return self.row_to_column_ns + self.cas_ns + 1

    @property
    def refresh_loss_ns(self) -> int:
        """What one refresh takes from a saturated channel: run out, close, refresh, open, first column."""
        around = self.cas_ns + self.precharge_ns + self.row_to_column_ns
        return self.refresh_ns + around + self.read_to_precharge_ns + 4 * self.burst_ns

    def stream_ns(self, nbytes: int) -> int:
        """Reading or writing contiguous bytes spread over all channels, from a memory just woken; 0 bytes take none."""
        busy = self._unrefreshed_ns(nbytes)
        late = busy - self.refresh_interval_ns
        if self.refresh and late > 0:
            busy += (1 + late // (self.refresh_interval_ns - self.refresh_loss_ns)) * self.refresh_loss_ns
        return busy

    def sustained_cycles(self, nbytes: int, clock_mhz: int) -> int:
        """In the chip's cycles, of a stream that begins anywhere between two refreshes: each nanosecond pays its share."""
        if self.bytes_per_cycle is not None:
            return -(-nbytes // self.bytes_per_cycle)
        busy = self._unrefreshed_ns(nbytes)
        if self.refresh:
            usable = self.refresh_interval_ns - self.refresh_loss_ns
            busy -= -busy * self.refresh_loss_ns // usable
        return -(-busy * clock_mhz // 1000)

    def _unrefreshed_ns(self, nbytes: int) -> int:
        requests = -(-nbytes // (REQUEST_BYTES * self.channels))
        return self.first_ns + self.burst_ns * requests if nbytes else 0

    def decode(self, addresses: I64) -> tuple[I64, I64, I64]:
        """Channel, bank (group × banks_per_group + bank) and row of each address."""
        rest = addresses // REQUEST_BYTES
        if self.mapping == "coarse":
            rest = rest // self.row_requests
            rest, channel = rest // self.channels, rest % self.channels
            rest, bank = rest // self.banks_per_group, rest % self.banks_per_group
            row, group = rest // self.groups, rest % self.groups
        else:
            rest, channel = rest // self.channels, rest % self.channels
            rest, group = rest // self.groups, rest % self.groups
            rest = rest // self.row_requests
            row, bank = rest // self.banks_per_group, rest % self.banks_per_group
        return channel, group * self.banks_per_group + bank, row

# SPDX-License-Identifier: Apache-2.0
"""A first-ready DRAM controller, cycle by cycle: what a trace of requests costs, and how long its reads wait.

Interface: `simulate(config, addresses, writes) -> Traffic`; `Channel(config).run(bank, row, write)`, the reference.

Contract
    A request is 64 bytes. Each channel takes its own in order, as many a cycle as there is room for, into a read queue or a write
    buffer. In every cycle, in this order:
    commands   the banks take turns, the one behind the last to be served first; of a bank's queue the first request that can
               do something does: its column to the open row, an activate, or a precharge. Only the oldest precharges, and only
               where no queued request hits the open row or `hits_before_close` columns have gone to it. A second command goes
               in the same cycle if one of the two is a column and the other is not.
    forward    one request moves on, the first whose bank's queue has room. Writes wait until their buffer is full (or more than
               `drain_when_idle` wait and the banks are empty); then as many as wait are moved, and no read in between. What is
               left when the trace ends follows the last read.
    refresh    when it is due, banks are closed one a cycle as they may be, and all are blocked for `refresh_ns`.
    Cycles in which nothing can happen are skipped: time jumps to the next at which a bound of some command falls.

This is DRAMsim3's discipline written anew; `tests/unit/test_dram.py` and `ditto bench dram` hold it against that simulator's
table. `kernels/dram.cpp` equals it in every figure. What it does not do: merge requests to one address, block one channel for
another, sleep; serve the engine (`memory.py` does, reserving in order).
"""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.dram import REQUEST_BYTES, DramConfig

I64 = npt.NDArray[np.int64]
LONG_AGO = -(1 << 40)
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a trace of requests came to."""

    cycles: int
    """First acceptance to last data, over all channels."""
    requests: int
    row_hits: int
    read_latency_cycles: float
    """Mean, from the read's own acceptance."""

    @property
    def bytes_per_cycle(self) -> float:
        return self.requests * REQUEST_BYTES / max(self.cycles, 1)


class ChannelTraffic(NamedTuple):
    """The same of one channel; the reads' latencies added up."""

    cycles: int
    row_hits: int
    waited_cycles: int


def simulate(config: DramConfig, addresses: I64, writes: npt.NDArray[np.bool_]) -> Traffic:
    """Requests in order, each channel taking its own as fast as it can."""
    channel, bank, row = config.decode(addresses)
    found = [
        _channel(config, bank[mine], row[mine], writes[mine])
        for mine in (channel == c for c in range(config.channels))
        if mine.any()
    ]
    return Traffic(
        cycles=max((f.cycles for f in found), default=0),
        requests=len(addresses),
        row_hits=sum(f.row_hits for f in found),
        read_latency_cycles=sum(f.waited_cycles for f in found) / max(int((~writes).sum()), 1),
    )


def _channel(config: DramConfig, bank: I64, row: I64, write: npt.NDArray[np.bool_]) -> ChannelTraffic:
    compiled = kernels()
    if compiled is None:
        return Channel(config).run(bank, row, write)
    return ChannelTraffic(*compiled.dram_channel(controller_row(config), bank, row, write))


class _Request(NamedTuple):
    bank: int
    row: int
    write: bool
    since: int
    """Its acceptance."""


class _Bank:
    """An open row, what waits for the bank, and the first cycles of its next commands."""

    __slots__ = ("activate_at", "column_at", "group", "hits", "precharge_at", "queue", "row")

    def __init__(self, group: int) -> None:
        self.group = group
        self.row = -1
        self.hits = 0
        self.queue: list[_Request] = []
        self.activate_at = self.column_at = self.precharge_at = 0


class Channel:
    """One channel, from rest."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.banks = [
            _Bank(i // config.banks_per_group) for i in range(config.groups * config.banks_per_group)
        ]
        self.reads: list[_Request] = []
        self.writes: list[_Request] = []
        self.draining = 0
        self.turn = 0
        self.read_at = [LONG_AGO] * config.groups
        self.write_at = LONG_AGO
        self.activated = deque([LONG_AGO] * 4, maxlen=4)
        self.activated_group = -1
        self.refresh_at = config.refresh_interval_ns if config.refresh else NEVER
        self.outstanding: list[int] = []
        """When the reads under way return, where a window counts them."""
        self.unissued = 0
        self.end = self.row_hits = self.waited_cycles = 0

    def run(self, bank: I64, row: I64, write: npt.NDArray[np.bool_]) -> ChannelTraffic:
        """All of a trace, from cycle 0 on."""
        coming = deque(zip(bank.tolist(), row.tolist(), write.tolist(), strict=True))
        now = 0
        while coming or self.reads or self.writes or any(b.queue for b in self.banks):
            self._accept(coming, now)
            acted = self._command(now)
            acted |= self._forward(last=not coming)
            now = now + 1 if acted else self._next_bound(now)
        return ChannelTraffic(self.end, self.row_hits, self.waited_cycles)

    # --- queues ---------------------------------------------------------------------------------------------

    def _accept(self, coming: deque[tuple[int, int, bool]], now: int) -> None:
        config = self.config
        while coming:
            bank, row, write = coming[0]
            if len(self.writes if write else self.reads) >= (
                config.write_buffer if write else config.read_queue
            ):
                return
            if config.window is not None:
                while self.outstanding and self.outstanding[0] < now:
                    heappop(self.outstanding)
                if self.unissued + len(self.outstanding) >= config.window:
                    return
                self.unissued += not write
            coming.popleft()
            (self.writes if write else self.reads).append(_Request(bank, row, write, now))

    def _forward(self, last: bool) -> bool:
        config = self.config
        if not self.draining and self.writes:
            idle = not any(b.queue for b in self.banks)
            flush = last and not self.reads
            if len(self.writes) >= config.write_buffer or (
                idle and (len(self.writes) > config.drain_when_idle or flush)
            ):
                self.draining = len(self.writes)
        queue = self.writes if self.draining else self.reads
        for i, request in enumerate(queue):
            bank = self.banks[request.bank]
            if len(bank.queue) < config.bank_queue:
                bank.queue.append(request)
                del queue[i]
                self.draining -= self.draining > 0
                return True
        return False

    # --- commands -------------------------------------------------------------------------------------------

    def _command(self, now: int) -> bool:
        """The cycle's one or two commands; whether there was any."""
        if now >= self.refresh_at:
            return self._refresh(now)
        first = self._next_ready(now)
        if first is None:
            return False
        columns = self._issue(*first, now)
        second = self._next_ready(now)
        if second is not None and self._is_column(*second) != columns:
            self._issue(*second, now)
        return True

    def _next_ready(self, now: int) -> tuple[_Bank, int] | None:
        """The next bank that can do something, and for which of its requests."""
        for _ in self.banks:
            self.turn = (self.turn + 1) % len(self.banks)
            bank = self.banks[self.turn]
            if bank.queue and (index := self._first_ready(bank, now)) >= 0:
                return bank, index
        return None

    def _first_ready(self, bank: _Bank, now: int) -> int:
        queue = bank.queue
        if bank.row < 0:
            return 0 if now >= max(bank.activate_at, self._activate_at(bank.group)) else -1
        if queue[0].row != bank.row and now >= bank.precharge_at:
            hit = any(request.row == bank.row for request in queue)
            if not hit or bank.hits >= self.config.hits_before_close:
                return 0
        if now >= bank.column_at:
            for index, request in enumerate(queue):
                bus = self.write_at if request.write else self.read_at[bank.group]
                if request.row == bank.row and now >= bus:
                    return index
        return -1

    def _activate_at(self, group: int) -> int:
        """The channel's own bound: the distance to the last activate, and four to a window."""
        config = self.config
        gap = config.activate_same_group_ns if group == self.activated_group else config.activate_ns
        return max(self.activated[-1] + gap, self.activated[0] + config.four_activates_ns)

    @staticmethod
    def _is_column(bank: _Bank, index: int) -> bool:
        return bank.queue[index].row == bank.row

    def _issue(self, bank: _Bank, index: int, now: int) -> bool:
        """What the request needs next; whether that was its column."""
        config, request = self.config, bank.queue[index]
        if bank.row < 0:
            bank.row, bank.hits = request.row, 0
            bank.activate_at = now + config.row_cycle_ns
            bank.precharge_at = now + config.row_active_ns
            bank.column_at = now + config.row_to_column_ns
            self.activated.append(now)
            self.activated_group = bank.group
            return False
        if request.row != bank.row:
            bank.row = -1
            bank.activate_at = max(bank.activate_at, now + config.precharge_ns)
            return False
        del bank.queue[index]
        self.row_hits += bank.hits > 0
        bank.hits += 1
        if request.write:
            self.write_at = now + config.burst_ns
            self.read_at = [now + config.write_to_read_ns] * config.groups
            self.read_at[bank.group] = now + config.write_to_read_same_group_ns
            bank.precharge_at = max(bank.precharge_at, now + config.write_to_precharge_ns)
            done = now + config.write_cas_ns + config.burst_ns
        else:
            self.write_at = now + config.read_to_write_ns
            self.read_at = [now + config.burst_ns] * config.groups
            bank.precharge_at = max(bank.precharge_at, now + config.read_to_precharge_ns)
            done = now + config.cas_ns + config.burst_ns
            self.waited_cycles += done - request.since
            if config.window is not None:
                heappush(self.outstanding, done)
                self.unissued -= 1
        self.end = max(self.end, done)
        return True

    def _refresh(self, now: int) -> bool:
        config = self.config
        for bank in self.banks:
            if bank.row >= 0 and now >= bank.precharge_at:
                bank.row = -1
                bank.activate_at = max(bank.activate_at, now + config.precharge_ns)
                return True
        if any(bank.row >= 0 or now < bank.activate_at for bank in self.banks):
            return False
        for bank in self.banks:
            bank.activate_at = now + config.refresh_ns
        self.refresh_at += config.refresh_interval_ns
        return True

    def _next_bound(self, now: int) -> int:
        """The next cycle in which something may become possible."""
        config, last = self.config, self.activated[-1]
        bounds = [self.refresh_at, self.write_at, *self.read_at]
        bounds += [last + config.activate_ns, last + config.activate_same_group_ns]
        bounds += [self.activated[0] + config.four_activates_ns]
        bounds += [done + 1 for done in self.outstanding[:1]]
        for bank in self.banks:
            bounds += [bank.activate_at, bank.column_at, bank.precharge_at]
        return min((bound for bound in bounds if bound > now), default=now + 1)


def controller_row(config: DramConfig) -> I64:
    """Its fields in the order of `Config` in dram.cpp, which is that of `DramConfig`'s fields behind `bytes_per_cycle`."""
    fields = astuple(config)[3:]
    return np.array([-1 if value is None else int(value) for value in fields], np.int64)

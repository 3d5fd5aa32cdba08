# SPDX-License-Identifier: Apache-2.0
"""DRAM: HBM2-like channels × banks × rows behind a first-ready controller; what a trace of requests costs.

Contract
    A request is 64 bytes. Requests of one channel enter in order into a read queue or a write buffer as there is room, move
    on, one a cycle, to a queue per bank (any whose bank has room), and leave as column commands. Of all banks the earliest
    possible column goes first. A bank takes its oldest request to the open row; it closes the row for its oldest request
    when no queued request hits it, or, after `hits_before_close` hits, as soon as a precharge may be given. Writes wait
    until the buffer is full (or the banks are empty and `drain_when_idle` wait), then all that were waiting go; no read
    leaves its queue meanwhile. Refresh closes and blocks a channel. Consecutive requests to one row are one entry, so a
    stream costs Python one turn per row and bank queue. `stream_ns` is the closed form for contiguous bytes:
    first_ns + burst × requests per channel, and refresh.

Held against DRAMsim3 and Ramulator 2.1 in `tests/unit/test_dram.py` and `ditto bench dram`; the defaults are DRAMsim3's
HBM2_8Gb_x128 at 1 ns. What it does not do: command-bus conflicts, head-of-line blocking between channels, power states;
serve the engine (`memory.py` does, reserving in order).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
AddressMapping = Literal["coarse", "fine"]

REQUEST_BYTES = 64
NEVER = -(10**9)


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


def simulate(config: DramConfig, addresses: I64, writes: npt.NDArray[np.bool_]) -> Traffic:
    """Requests in order, each channel taking its own as fast as it can."""
    channel, bank, row = config.decode(addresses)
    last = hits = 0
    waited = 0.0
    for c in range(config.channels):
        mine = channel == c
        if not mine.any():
            continue
        controller = Channel(config)
        last = max(last, controller.run(bank[mine], row[mine], writes[mine]))
        hits += controller.row_hits
        waited += controller.waited_cycles
    reads = int((~writes).sum())
    return Traffic(last, len(addresses), hits, waited / max(reads, 1))


class _Bank:
    """Timing state and queue of one bank. Queue entries: [row, write, count, since]."""

    __slots__ = ("activate_at", "column_at", "group", "hits", "load", "precharge_at", "queue", "row")

    def __init__(self, group: int) -> None:
        self.group = group
        self.row = -1
        self.hits = 0
        self.load = 0
        self.queue: list[list[int]] = []
        self.activate_at = 0
        self.column_at = 0
        self.precharge_at = 0


class Channel:
    """One channel's controller; state outlives a trace, so that a caller may go on where it stopped."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.banks = [
            _Bank(i // config.banks_per_group) for i in range(config.groups * config.banks_per_group)
        ]
        self.now = 0
        self.row_hits = 0
        self.waited_cycles = 0.0
        self._active: list[int] = []
        self._reads: list[list[int]] = []
        self._writes: list[list[int]] = []
        self._read_load = self._write_load = 0
        self._draining = 0
        self._last_column = NEVER
        self._last_write = False
        self._last_group = 0
        self._activates = [NEVER] * 4
        self._activate_group = -1
        self._next_refresh = config.refresh_interval_ns if config.refresh else 1 << 62
        self._outstanding: list[int] = []
        self._unreturned = self._window_floor = 0
        self._turn = 0
        self._forwarded_at = 0

    def run(self, bank: I64, row: I64, write: npt.NDArray[np.bool_], at: int = 0) -> int:
        """Takes the requests in order, from cycle `at` on, and returns the cycle of the last data."""
        runs = _runs(bank, row, write)
        self.now = max(self.now, at)
        ahead, end = 0, at
        while True:
            ahead = self._admit(runs, ahead)
            self._forward()
            if not self._active:
                if ahead == len(runs) and not self._read_load and not self._write_load:
                    return end
                continue
            end = max(end, self._issue())

    # --- queues ---------------------------------------------------------------------------------------------

    def _admit(self, runs: list[list[int]], ahead: int) -> int:
        config = self.config
        while ahead < len(runs):
            run = runs[ahead]
            bank, row, write, count = run
            room = config.write_buffer - self._write_load if write else config.read_queue - self._read_load
            since = self.now
            if config.window is not None:
                room, since = min(room, 1), self._window_cycle(config.window)
                if since < 0:
                    break
                self._window_floor = max(self._window_floor, since)
            if room <= 0:
                break
            taken = min(room, count)
            self._unreturned += 0 if write else taken
            queue = self._writes if write else self._reads
            if queue and queue[-1][0] == bank and queue[-1][1] == row and since == queue[-1][3] == self.now:
                queue[-1][2] += taken
            else:
                queue.append([bank, row, taken, since])
            if write:
                self._write_load += taken
            else:
                self._read_load += taken
            if taken == count:
                ahead += 1
            else:
                run[3] = count - taken
        return ahead

    def _window_cycle(self, window: int) -> int:
        """When the next request may enter: a cycle after enough reads returned; −1 if that is not known yet."""
        since, back = max(self.now, self._window_floor), self._outstanding
        while self._unreturned >= window or (back and back[0] < since):
            if not back:
                return -1
            since = max(since, back.pop(0) + 1)
            self._unreturned -= 1
        return since

    def _forward(self) -> None:
        """From the read queue or the write buffer to the banks."""
        config = self.config
        if self._draining == 0 and self._write_load:
            idle = not self._active and (self._write_load > config.drain_when_idle or not self._read_load)
            if self._write_load >= config.write_buffer or idle:
                self._draining = self._write_load
        budget = max(1, self.now - self._forwarded_at)
        self._forwarded_at = self.now
        if self._draining:
            moved = self._move(self._writes, True, min(budget, self._draining))
            budget -= moved
            self._draining -= moved
            self._write_load -= moved
            if self._draining:
                return
        if self._read_load and budget > 0:
            self._read_load -= self._move(self._reads, False, min(budget, self._read_load))

    def _move(self, queue: list[list[int]], write: bool, limit: int) -> int:
        depth, moved, i = self.config.bank_queue, 0, 0
        while i < len(queue) and moved < limit:
            number, row, count, since = entry = queue[i]
            bank = self.banks[number]
            room = min(depth - bank.load, limit - moved, count)
            if room <= 0:
                i += 1
                continue
            if bank.load == 0:
                insort(self._active, number)
            tail = bank.queue[-1] if bank.queue else None
            if tail is not None and tail[0] == row and tail[1] == write and max(tail[3], since) <= self.now:
                tail[3] = (tail[3] * tail[2] + since * room) // (tail[2] + room)
                tail[2] += room
            else:
                bank.queue.append([row, int(write), room, since])
            bank.load += room
            moved += room
            if room == count:
                del queue[i]
            else:
                entry[2] = count - room
                i += 1
        return moved

    # --- commands -------------------------------------------------------------------------------------------

    def _issue(self) -> int:
        """Commits the earliest possible column (and those that follow it in its row); returns its last data's cycle."""
        config = self.config
        read_from, write_from = self._bus_times()
        best_at, best_number, best_entry, best_hit = 1 << 62, -1, 0, True
        open_from = self._next_activate_cycle()
        turn = bisect_right(self._active, self._turn)
        for number in self._active[turn:] + self._active[:turn]:
            bank = self.banks[number]
            queue = bank.queue
            hit, close_at = -1, self._close_cycle(bank)
            for i, entry in enumerate(queue):
                if entry[0] == bank.row:
                    at = max(bank.column_at, entry[3], self._bus_time(bank, entry[1], read_from, write_from))
                    if at < close_at and (hit < 0 or at < best_at):
                        hit = i
                        if at < best_at:
                            best_at, best_number, best_entry, best_hit = at, number, i, True
            if queue[0][0] != bank.row and (hit < 0 or bank.hits >= config.hits_before_close):
                opened = max(
                    self._open_cycle(bank, queue[0][3]), open_from[bank.group == self._activate_group]
                )
                bus = self._bus_time(bank, queue[0][1], read_from, write_from)
                at = max(opened + config.row_to_column_ns, bus)
                if at < best_at:
                    best_at, best_number, best_entry, best_hit = at, number, 0, False
        if best_at >= self._next_refresh:
            self._refresh()
            return 0
        return self._commit(self.banks[best_number], best_number, best_entry, best_at, best_hit)

    def _commit(self, bank: _Bank, number: int, index: int, at: int, hit: bool) -> int:
        config = self.config
        row, write, count, since = entry = bank.queue[index]
        if not hit:
            opened = max(
                self._open_cycle(bank, since),
                self._next_activate_cycle()[bank.group == self._activate_group],
            )
            self._activates = [*self._activates[1:], opened]
            self._activate_group = bank.group
            bank.row, bank.hits = row, 0
            bank.activate_at = opened + config.row_cycle_ns
            bank.precharge_at = opened + config.row_active_ns
            bank.column_at = opened + config.row_to_column_ns
        taken = count
        if index and bank.queue[0][0] != row:
            taken = min(count, max(1, config.hits_before_close - bank.hits))
        self.row_hits += taken - (not hit)
        bank.hits += taken
        last = at + (taken - 1) * config.burst_ns
        self._last_column, self._last_write, self._last_group = last, bool(write), bank.group
        reach = config.write_to_precharge_ns if write else config.read_to_precharge_ns
        bank.precharge_at = max(bank.precharge_at, last + reach)
        bank.load -= taken
        if taken == count:
            del bank.queue[index]
        else:
            entry[2] = count - taken
        if bank.load == 0:
            self._active.remove(number)
        self._turn = number
        self.now = max(self.now, at)
        if write:
            done = last + config.write_cas_ns + config.burst_ns
        else:
            done = last + config.cas_ns + config.burst_ns + 1
            self.waited_cycles += taken * (done - since) - config.burst_ns * taken * (taken - 1) / 2
            if config.window is not None:
                for i in range(taken):
                    insort(self._outstanding, done - i * config.burst_ns)
        return done

    def _bus_times(self) -> tuple[tuple[int, int], int]:
        config, last = self.config, self._last_column
        if self._last_write:
            read = (last + config.write_to_read_ns, last + config.write_to_read_same_group_ns)
            return read, last + config.burst_ns
        free = last + config.burst_ns
        return (free, free), last + config.read_to_write_ns

    def _bus_time(self, bank: _Bank, write: int, read_from: tuple[int, int], write_from: int) -> int:
        return write_from if write else read_from[bank.group == self._last_group]

    def _next_activate_cycle(self) -> tuple[int, int]:
        """Earliest activate in another group and in the group of the last one."""
        config = self.config
        four = self._activates[0] + config.four_activates_ns
        last = self._activates[-1]
        return max(four, last + config.activate_ns), max(four, last + config.activate_same_group_ns)

    def _close_cycle(self, bank: _Bank) -> int:
        """When the oldest request, waiting for another row behind hits enough, takes the bank from those still queued."""
        oldest = bank.queue[0]
        if oldest[0] == bank.row or bank.hits < self.config.hits_before_close:
            return 1 << 62
        return max(bank.precharge_at, oldest[3])

    def _open_cycle(self, bank: _Bank, since: int) -> int:
        """When this bank could be activated for a request waiting since then, other banks aside."""
        if bank.row < 0:
            return max(bank.activate_at, since)
        return max(bank.activate_at, max(bank.precharge_at, since) + self.config.precharge_ns)

    def _refresh(self) -> None:
        config = self.config
        start = max(self._next_refresh, max(b.precharge_at for b in self.banks))
        start = max(start, self._last_column + config.cas_ns) + config.precharge_ns
        ready = start + config.refresh_ns
        for bank in self.banks:
            bank.row, bank.activate_at = -1, max(bank.activate_at, ready)
        self._next_refresh += config.refresh_interval_ns
        self.now = max(self.now, start)


def _runs(bank: I64, row: I64, write: npt.NDArray[np.bool_]) -> list[list[int]]:
    """[bank, row, write, count] of consecutive requests to one row."""
    change = (np.diff(bank) != 0) | (np.diff(row) != 0) | (np.diff(write.astype(np.int8)) != 0)
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    counts = np.diff(np.concatenate([starts, [len(bank)]]))
    columns = (bank[starts], row[starts], write[starts].astype(np.int64), counts)
    return [list(run) for run in zip(*(c.tolist() for c in columns), strict=True)]

"""Transaction-level time: sockets, targets that keep their own busy-until state, a step simulated in chunks.

Interface
    Transaction(address, nbytes, write)
    Target.b_transport(transaction, at) -> done      `at` must not decrease; that is an assertion, not a hope
    Pipe(bytes_per_cycle), Dram(config)              targets
    simulate_groups(config, chunk_bytes, groups) -> StepTimeline

Loosely timed in the SystemC sense: an initiator calls `b_transport` with the cycle at which it asks and gets
the cycle at which the transfer is done; contention and back-pressure are the target's. Time is an integer
count of cycles. Where initiators overlap (DMA in of a later chunk beside DMA out of an earlier one) a heap
serves the earlier request first, ties by kind (in before out) and number, so that the same run is the same
run.

`simulate_groups` is what `pricing/pricer.py`'s closed form stands for: chunks through DMA in → lanes → vector unit →
DMA out, two chunk buffers in front of the lanes and two behind the vector unit, DRAM state kept from group to
group. How far the two differ is measured by `ditto bench price` and bounded by a test.

What this file does not do: say how long the lanes or the vector unit need (they are given).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ditto_cosim.device.timing.dram import REQUEST_BYTES, Channel, DramConfig

BUFFERS = 2


@dataclass(frozen=True, slots=True)
class Transaction:
    """Contiguous bytes."""

    address: int
    nbytes: int
    write: bool


class Target(Protocol):
    """What an initiator's socket is bound to."""

    def b_transport(self, transaction: Transaction, at: int) -> int:
        """Takes the transaction at a cycle and returns the cycle at which it is done."""
        ...


@dataclass
class Pipe:
    """A link of fixed width that serves one transaction after another."""

    bytes_per_cycle: int
    busy_until: int = 0
    last_at: int = field(default=0, repr=False)

    def b_transport(self, transaction: Transaction, at: int) -> int:
        assert at >= self.last_at, f"time went back from {self.last_at} to {at}"
        self.last_at = at
        self.busy_until = max(self.busy_until, at) - (-transaction.nbytes // self.bytes_per_cycle)
        return self.busy_until


class Dram:
    """All channels of a memory. A transaction is spread over them by address; it is done when its last byte
    is."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.channels = [Channel(config) for _ in range(config.channels)]
        self.last_at = 0

    def b_transport(self, transaction: Transaction, at: int) -> int:
        assert at >= self.last_at, f"time went back from {self.last_at} to {at}"
        self.last_at = at
        first = transaction.address // REQUEST_BYTES
        last = -(-(transaction.address + transaction.nbytes) // REQUEST_BYTES)
        addresses = np.arange(first, last, dtype=np.int64) * REQUEST_BYTES
        channel, bank, row = self.config.decode(addresses)
        done = at
        for number, controller in enumerate(self.channels):
            mine = channel == number
            if mine.any():
                writes = np.full(int(mine.sum()), transaction.write)
                done = max(done, controller.run(bank[mine], row[mine], writes, at))
        return done


@dataclass(frozen=True, slots=True)
class GroupWork:
    """What one group asks of the units."""

    bytes_in: int
    bytes_out: int
    lane_cycles: int
    vector_cycles: int


@dataclass(frozen=True, slots=True)
class StepTimeline:
    """When each group ended, and how long each unit was busy."""

    ends: tuple[int, ...]
    dram_transactions: int

    @property
    def total_cycles(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def group_cycles(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip((0, *self.ends[:-1]), self.ends, strict=True))


def simulate_groups(config: DramConfig, chunk_bytes: int, groups: Sequence[GroupWork]) -> StepTimeline:
    """Groups one after another; within a group, chunks overlap as the buffers allow."""
    memory: Target = Pipe(config.bytes_per_cycle) if config.bytes_per_cycle is not None else Dram(config)
    now, address, served = 0, 0, 0
    ends = []
    for group in groups:
        chunks = max(1, -(-(group.bytes_in + group.bytes_out) // chunk_bytes))
        end = _one_group(memory, group, chunks, now, address)
        address += -(-(group.bytes_in + group.bytes_out) // REQUEST_BYTES) * REQUEST_BYTES
        address %= 1 << 30
        served += 2 * chunks
        now = end
        ends.append(now)
    return StepTimeline(tuple(ends), served)


def _one_group(memory: Target, group: GroupWork, chunks: int, start: int, address: int) -> int:
    inward, outward = _parts(group.bytes_in, chunks), _parts(group.bytes_out, chunks)
    lanes, vector = _parts(group.lane_cycles, chunks), _parts(group.vector_cycles, chunks)
    write_address = address + group.bytes_in
    lane_free = vector_free = start
    lane_started: list[int] = []
    written: list[int] = []
    waiting = [(start, 0, 0)]  # cycle at which it may be asked, 0 in / 1 out, chunk
    clock, end = start, start
    while waiting:
        asked, kind, chunk = heapq.heappop(waiting)
        clock = max(clock, asked)
        if kind == 1:
            done = _transfer(memory, write_address, outward[chunk], True, clock)
            write_address += outward[chunk]
            written.append(done)
            end = max(end, done)
            continue
        arrived = _transfer(memory, address, inward[chunk], False, clock)
        address += inward[chunk]
        begun = max(arrived, lane_free)
        lane_started.append(begun)
        lane_free = begun + lanes[chunk]
        held = written[chunk - BUFFERS] if chunk >= BUFFERS and len(written) > chunk - BUFFERS else start
        vector_free = max(lane_free, vector_free, held) + vector[chunk]
        heapq.heappush(waiting, (vector_free, 1, chunk))
        if chunk + 1 < chunks:
            room = lane_started[chunk + 1 - BUFFERS] if chunk + 1 >= BUFFERS else start
            heapq.heappush(waiting, (max(arrived, room), 0, chunk + 1))
        end = max(end, vector_free)
    return end


def _transfer(memory: Target, address: int, nbytes: int, write: bool, at: int) -> int:
    return memory.b_transport(Transaction(address, nbytes, write), at) if nbytes else at


def _parts(whole: int, count: int) -> list[int]:
    """Whole numbers that add up to `whole`, as equal as they can be."""
    return [whole * (i + 1) // count - whole * i // count for i in range(count)]

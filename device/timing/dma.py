# SPDX-License-Identifier: Apache-2.0
"""DMA: three engines that move a step's chunks between DRAM and buffer, each in program order.

Contract (TLM-2.0: initiators; their sockets are bound to link and memory)
    early      weights and temporal state            late   what earlier groups of the step made
    write      results
    A reader asks for its next chunk when the engine is free (`issue_cycles` a transfer), fewer than `queue_depth` of its
    transfers are under way, there is room in its part of the buffer, and the chunk may be read: not before the lanes are done
    with the group `prefetch_layers` + 1 before (0: not before the group before has ended), a late one not before what it
    needs is written. The writer takes results as they come. A transfer holds the link (`bytes_per_cycle`) and the memory;
    it is done when both are. Bytes that stay on the chip need no transfer, but the same order.

What it does not do: decide which bytes (`traffic.py`) or keep DRAM's state (`memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ditto_cosim.device.timing.flow import Flow, Wait, share
from ditto_cosim.device.timing.kernel import NEVER, Credits, Payload, Pipe, Target

REGION_BYTES = (1 << 28) + 80 * 1024
"""Each engine walks addresses of its own; the skew keeps neighbours out of each other's banks."""

Forwarding = Literal["chunk", "whole"]


@dataclass(frozen=True, slots=True)
class DmaPolicy:
    """A chip's choices."""

    chunk_bytes: int
    """Most bytes of a transfer; a group moves in as many chunks as its largest part needs."""
    queue_depth: int = 4
    """Transfers an engine may have under way."""
    prefetch_layers: int = 1
    """How many groups ahead of the lanes a reader may be; 0: layers do not overlap."""
    issue_cycles: int = 1
    bytes_per_cycle: int = 0
    """Width of the link; 0: as wide as the memory."""
    forwarding: Forwarding = "chunk"
    """`chunk`: a result may be read back as soon as the part in question is written. `whole`: when all is."""


class Bus:
    """Link and memory as one socket."""

    def __init__(self, link: Pipe, memory: Target) -> None:
        self.link, self.memory = link, memory
        self.busy_until = 0
        self.transactions = 0
        self.log: list[tuple[Payload, int, int]] | None = None
        """Payload, asked, done; where somebody wants to know."""

    def b_transport(self, payload: Payload, at: int) -> int:
        if not payload.nbytes:
            return at
        done = max(self.memory.b_transport(payload, at), self.link.b_transport(payload, at))
        self.busy_until = max(self.busy_until, done)
        self.transactions += 1
        if self.log is not None:
            self.log.append((payload, at, done))
        return done


class _Engine:
    """What the three have in common: an order, a queue, addresses."""

    def __init__(self, flow: Flow, bus: Bus, policy: DmaPolicy, room: Credits, region: int) -> None:
        self.flow, self.bus, self.policy, self.room = flow, bus, policy, room
        self.group = self.chunk = 0
        self.free = 0
        self._address = region * REGION_BYTES
        self._under_way = [0] * policy.queue_depth
        """When the last few transfers are done, the oldest first."""

    def _transfer(self, nbytes: int, write: bool, at: int) -> int:
        if not nbytes:
            self.free = at
            return at
        done = max(self.bus.b_transport(Payload(self._address, nbytes, write), at), self._under_way[-1])
        self._address += -(-nbytes // 64) * 64
        self._under_way = [*self._under_way[1:], done]
        self.free = at + self.policy.issue_cycles
        return done

    def _next(self) -> None:
        self.chunk += 1
        if self.chunk == self.flow.works[self.group].chunks:
            self.group, self.chunk = self.group + 1, 0


class Reader(_Engine):
    """Early or late bytes."""

    def __init__(self, flow: Flow, bus: Bus, policy: DmaPolicy, room: Credits, late: bool) -> None:
        super().__init__(flow, bus, policy, room, int(late))
        self.late = late

    def ready(self) -> int:
        at = max(self.free, self._allowed())
        if at >= NEVER or self.group == len(self.flow.works):
            return NEVER if self.flow.closed else at
        if self.late:
            at = max(at, self.flow.made(self.group, self.chunk)[1])
        nbytes = self._nbytes()
        if nbytes:
            at = max(at, self._under_way[0], self.room.when(nbytes))
        return at

    def act(self, at: int) -> bool:
        if self.group == len(self.flow.works):
            return False
        passed, nbytes = self.flow.passed[self.group], self._nbytes()
        made, written = self.flow.made(self.group, self.chunk) if self.late else (0, 0)
        allowed = max(written, self._allowed())
        wait = Wait(made, allowed, self.bus.busy_until > allowed)
        self.room.take(nbytes)
        done = self._transfer(nbytes, False, at)
        (passed.late if self.late else passed.early).append(done)
        (passed.late_wait if self.late else passed.early_wait).append(wait)
        self._next()
        return True

    def _allowed(self) -> int:
        ahead = self.policy.prefetch_layers
        if not ahead:
            return self.flow.end(self.group - 1)
        return self.flow.lanes_done(self.group - 1 - ahead)

    def _nbytes(self) -> int:
        work = self.flow.works[self.group]
        return work.late_share(self.chunk) if self.late else share(work.early_bytes, work.chunks, self.chunk)


class Writer(_Engine):
    """Results; the last one ends its group."""

    def __init__(self, flow: Flow, bus: Bus, policy: DmaPolicy, room: Credits) -> None:
        super().__init__(flow, bus, policy, room, 2)

    def ready(self) -> int:
        if self.group == len(self.flow.works):
            return NEVER
        result = self.flow.passed[self.group].result
        if self.chunk == len(result):
            return NEVER
        at = max(self.free, result[self.chunk])
        return max(at, self._under_way[0]) if self._nbytes() else at

    def act(self, at: int) -> bool:
        flow, passed, nbytes = self.flow, self.flow.passed[self.group], self._nbytes()
        done = self._transfer(nbytes, True, at)
        done = max(done, passed.written[-1] if passed.written else flow.end(self.group - 1))
        self.room.give(nbytes, done)
        passed.written.append(done)
        if self.chunk + 1 == flow.works[self.group].chunks:
            flow.ends.append(done)
        self._next()
        return True

    def _nbytes(self) -> int:
        work = self.flow.works[self.group]
        return share(work.out_bytes, work.chunks, self.chunk)

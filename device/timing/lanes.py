# SPDX-License-Identifier: Apache-2.0
"""The lanes in the loop: they take chunks in program order, and say what they waited for.

Contract (TLM-2.0: an initiator on the buffer's port)
    A chunk starts when its early and late bytes have arrived, the lanes are free, and the vector unit has taken what the
    chunk `accumulator_chunks` before left it. It takes its share of the group's cycles (`schedule.py`, or what the RTL
    measured), and at least as long as the buffer's port needs for its bytes. Its room in the buffer is free when it is done.
    Every cycle of the lanes, worked or waited, has one cause: weight_load, encode, compute; vector (the vector unit is making
    what they need, or has not taken what they made), dram (bytes are on their way behind others), fill (nobody is busy:
    latency, a round trip through DRAM, a reader not allowed ahead). `Causes` cuts that line at the ends of the groups, so
    the causes of a group add up to its cycles: those from the end of the group before to its own.

What it does not do: know rows or slots.
"""

from __future__ import annotations

from collections.abc import Iterator

from ditto_cosim.device.timing.flow import Flow, Wait, share
from ditto_cosim.device.timing.kernel import NEVER, Credits, Payload, Pipe

CAUSES = ("compute", "encode", "weight_load", "vector", "dram", "fill")
COMPUTE, ENCODE, LOAD, VECTOR, DRAM, FILL = range(6)


class Causes:
    """The lanes' line of time, cause after cause, and its cuts."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.until = 0
        self._parts: list[tuple[int, int]] = []
        self._cut = 0
        self._at = 0
        self._part = 0

    def add(self, until: int, cause: int) -> None:
        if until > self.until:
            self._parts.append((until, cause))
            self.until = until

    def settled(self) -> Iterator[tuple[int, ...]]:
        """Cycles by cause of every group that has ended and whose causes are known by now, once."""
        while self._cut < len(self.flow.ends) and self.flow.ends[self._cut] <= self.until:
            end, found = self.flow.ends[self._cut], [0] * len(CAUSES)
            while self._at < end:
                until, cause = self._parts[self._part]
                found[cause] += min(until, end) - self._at
                self._at = min(until, end)
                self._part += until <= end
            self._cut += 1
            yield tuple(found)


class Lanes:
    """All lanes of the chip as one server."""

    def __init__(
        self, flow: Flow, port: Pipe, early: Credits, late: Credits, accumulator_chunks: int
    ) -> None:
        self.flow, self.port, self.early, self.late = flow, port, early, late
        self.causes = Causes(flow)
        self.group = self.chunk = 0
        self.free = 0
        self._left: list[tuple[int, int]] = [(0, 0)] * accumulator_chunks
        """Group and number of its parts that the last few chunks had left to the vector unit, the oldest first."""

    def ready(self) -> int:
        if self.group == len(self.flow.works):
            return NEVER
        passed = self.flow.passed[self.group]
        if self.chunk >= len(passed.early) or self.chunk >= len(passed.late):
            return NEVER
        return max(self.free, passed.early[self.chunk], passed.late[self.chunk], self._taken())

    def act(self, at: int) -> bool:
        work, passed, chunk = self.flow.works[self.group], self.flow.passed[self.group], self.chunk
        self._waited(at)
        for cycles, cause in (
            (work.load_cycles, LOAD),
            (work.starved_cycles, ENCODE),
            (work.busy_cycles, COMPUTE),
        ):
            self.causes.add(self.causes.until + share(cycles, work.chunks, chunk), cause)
        through = Payload(0, share(work.port_bytes, work.chunks, chunk), False)
        self.causes.add(self.port.b_transport(through, at), ENCODE)
        self.free = self.causes.until
        passed.lanes.append(self.free)
        self.early.give(share(work.early_bytes, work.chunks, chunk), self.free)
        self.late.give(work.late_share(chunk), self.free)
        self._left = [*self._left[1:], (self.group, work.parts_after(chunk))]
        self.chunk += 1
        if self.chunk == work.chunks:
            self.group, self.chunk = self.group + 1, 0
        return True

    def finish(self) -> None:
        """The step is over: what follows the lanes' last chunk has causes too."""
        if self.flow.passed:
            self.causes.add(self.flow.passed[-1].result[-1], VECTOR)
            self.causes.add(self.flow.ends[-1], FILL)

    def _taken(self) -> int:
        group, parts = self._left[0]
        if not parts:
            return 0
        streamed = self.flow.passed[group].streamed
        return streamed[parts - 1] if parts <= len(streamed) else NEVER

    def _waited(self, at: int) -> None:
        if at == self.causes.until:
            return
        passed, chunk = self.flow.passed[self.group], self.chunk
        if self._taken() == at:
            self.causes.add(at, VECTOR)
            return
        wait: Wait = passed.late_wait[chunk]
        if passed.early[chunk] > passed.late[chunk]:
            wait = passed.early_wait[chunk]
        self.causes.add(min(wait.made, at), VECTOR)
        self.causes.add(min(wait.allowed, at), FILL)
        self.causes.add(at, DRAM if wait.queued else FILL)

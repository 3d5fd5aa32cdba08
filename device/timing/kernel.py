# SPDX-License-Identifier: Apache-2.0
"""The kernel of time: payloads, sockets, bounded buffers, and one calendar. Time is an integer count of the chip's cycles.

Contract (SystemC TLM-2.0, loosely timed)
    socket      an initiator holds a `Target` and calls `b_transport(payload, at) -> done`: at which cycle it asks, at which
                the transfer is over. `at` never decreases at a target; `done ≥ at`. Contention is the target's own state.
    credits     a bounded buffer: bytes are taken before a transfer is asked for and given back at a known cycle.
    calendar    asks every initiator for the first cycle in which it can act and lets the earliest act, once. Of several at
                the same cycle the first in the order of binding acts, so the same run is the same run.
    decoupling  an initiator may act ahead of the cycles its earlier transfers end in (they are known when it asks).

What it does not do: know what is moved or why (`dma.py`, `lanes.py`, `vector_time.py`), or be fast (`kernels/engine.cpp`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ditto_cosim.protocol.errors import DittoError

NEVER = 1 << 62
"""The cycle of what waits for somebody else."""


class TimeError(DittoError):
    """A model that breaks the contract of time; the message names it and both cycles."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A generic payload: contiguous bytes, read or written."""

    address: int
    nbytes: int
    write: bool


class Target(Protocol):
    """What a socket is bound to."""

    def b_transport(self, payload: Payload, at: int) -> int:
        """Takes the payload at a cycle and returns the cycle at which it is done."""
        ...


@dataclass(slots=True)
class Pipe:
    """A link or port of fixed width that serves one transfer after another; width 0 serves all at once."""

    bytes_per_cycle: int
    free: int = 0

    def b_transport(self, payload: Payload, at: int) -> int:
        if not self.bytes_per_cycle or not payload.nbytes:
            return at
        self.free = max(self.free, at) - (-payload.nbytes // self.bytes_per_cycle)
        return self.free


class WatchedTarget:
    """A target of somebody else's, held to the contract."""

    def __init__(self, target: Target) -> None:
        self.target, self.name = target, type(target).__name__

    def b_transport(self, payload: Payload, at: int) -> int:
        done = self.target.b_transport(payload, at)
        if not isinstance(done, int) or done < at:
            raise TimeError(
                f"memory model {self.name}: asked in cycle {at} for {payload.nbytes} bytes, it answers {done!r}; "
                "b_transport returns the cycle in which the transfer is done, an int not before it was asked"
            )
        return done


class Credits:
    """Room in a bounded buffer. What is given back counts from its cycle on."""

    __slots__ = ("_given", "_since", "free")

    def __init__(self, capacity_bytes: int) -> None:
        self.free = capacity_bytes
        self._since = 0
        self._given: deque[tuple[int, int]] = deque()

    def when(self, nbytes: int) -> int:
        """The first cycle with so much room, as far as what has been given back says; else NEVER."""
        while self.free < nbytes and self._given:
            self._since, given = self._given.popleft()
            self.free += given
        return self._since if self.free >= nbytes else NEVER

    def take(self, nbytes: int) -> None:
        self.free -= nbytes

    def give(self, nbytes: int, at: int) -> None:
        """Cycles of successive calls must not decrease."""
        self._given.append((at, nbytes))


class Initiator(Protocol):
    """Whoever acts."""

    def ready(self) -> int:
        """The first cycle in which it can act, from what is known now; NEVER if that depends on another's act."""
        ...

    def act(self, at: int) -> bool:
        """Acts once. False: it would, but must be told of more work first."""
        ...


class Calendar:
    """Merges initiators in time."""

    def __init__(self, initiators: Sequence[Initiator]) -> None:
        self.initiators = tuple(initiators)
        self.now = 0

    def run(self) -> None:
        """Until nobody can act, or the next to act lacks work."""
        while True:
            at, first = NEVER, None
            for initiator in self.initiators:
                ready = initiator.ready()
                if ready < at:
                    at, first = ready, initiator
            if first is None:
                return
            if at < self.now:
                raise TimeError(f"time went back from cycle {self.now} to {at}")
            self.now = at
            if not first.act(at):
                return

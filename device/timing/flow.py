# SPDX-License-Identifier: Apache-2.0
"""A step in flight: what each group asks of the units, and at which cycles its chunks passed them.

Contract
    A group (`traffic.py`) moves in `chunks` equal chunks through read → lanes → vector unit → write. Two kinds of bytes are
    read: *early* ones exist before the step (weights, temporal state), *late* ones are made in it (`needs`: the group that
    makes the last of them). When rows are longer than the tile (`passes` > 1) the lanes meet every row in each pass: late
    bytes are all read in the first pass, results appear in the last. `after_cycles` of the vector unit follow a reduction
    over the whole result and begin when all of it has passed.
    `Flow` is the blackboard of the initiators; nothing in it acts.

What it does not do: decide when anything happens (`dma.py`, `lanes.py`, `vector_time.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ditto_cosim.device.timing.kernel import NEVER


@dataclass(frozen=True, slots=True)
class GroupWork:
    """What one group asks of the units. Field order is that of the compiled form."""

    chunks: int = 1
    early_bytes: int = 0
    late_bytes: int = 0
    out_bytes: int = 0
    load_cycles: int = 0
    """The lanes wait for weights from the buffer …"""
    starved_cycles: int = 0
    """… for the encoder …"""
    busy_cycles: int = 0
    """… and work."""
    port_bytes: int = 0
    """Between buffer and lanes."""
    streamed_cycles: int = 0
    after_cycles: int = 0
    passes: int = 1
    needs: int = -1
    """Index of a group before this one, −1: nothing made in this step."""
    whole: int = 0
    """1: all of it must be there before any of it is of use."""

    @property
    def row(self) -> tuple[int, ...]:
        """In the order of the fields."""
        return (
            *(self.chunks, self.early_bytes, self.late_bytes, self.out_bytes),
            *(self.load_cycles, self.starved_cycles, self.busy_cycles, self.port_bytes),
            *(self.streamed_cycles, self.after_cycles, self.passes, self.needs, self.whole),
        )

    def needed_lane_chunk(self, part: int) -> int:
        """The lanes' chunk after which a part of the result exists."""
        return ((self.passes - 1) * self.chunks + part) // self.passes

    def parts_after(self, lane_chunk: int) -> int:
        """How many parts of the result exist after a chunk of the lanes."""
        return max(0, self.passes * (lane_chunk + 1) - (self.passes - 1) * self.chunks)

    def late_share(self, chunk: int) -> int:
        first_pass = -(-self.chunks // self.passes)
        return share(self.late_bytes, first_pass, chunk) if chunk < first_pass else 0


def share(whole: int, count: int, index: int) -> int:
    """One of `count` whole numbers that add up to `whole`, as equal as they can be."""
    return whole * (index + 1) // count - whole * index // count


@dataclass(slots=True)
class Passed:
    """At which cycle each chunk of a group was read, computed, and written."""

    early: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    streamed: list[int] = field(default_factory=list)
    """Through the first part of the vector unit's work."""
    result: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    early_wait: list[Wait] = field(default_factory=list)
    late_wait: list[Wait] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a chunk came no sooner."""

    made: int
    """Until this cycle the vector unit was still making it;"""
    allowed: int
    """until this one it was not allowed to be read (unwritten, or prefetch too far ahead);"""
    queued: bool
    """then other transfers were before it."""


class Flow:
    """A step's groups and where they are."""

    def __init__(self) -> None:
        self.works: list[GroupWork] = []
        self.passed: list[Passed] = []
        self.ends: list[int] = []
        self.closed = False

    def push(self, work: GroupWork) -> None:
        self.works.append(work)
        self.passed.append(Passed())

    def lanes_done(self, group: int) -> int:
        if group < 0:
            return 0
        if group >= len(self.works) or len(self.passed[group].lanes) < self.works[group].chunks:
            return NEVER
        return self.passed[group].lanes[-1]

    def end(self, group: int) -> int:
        if group < 0:
            return 0
        return self.ends[group] if group < len(self.ends) else NEVER

    def made(self, group: int, chunk: int) -> tuple[int, int]:
        """When what a late chunk needs was through the vector unit, and when it was written."""
        work = self.works[group]
        if work.needs < 0:
            return 0, 0
        source, passed = self.works[work.needs], self.passed[work.needs]
        part = source.chunks - 1
        if not work.whole:  # its share and one part more: the rows at the border
            part = min(part, -(-(chunk + 1) * source.chunks // work.chunks))
        if part >= len(passed.written):
            return NEVER, NEVER
        return passed.result[part], passed.written[part]

# SPDX-License-Identifier: Apache-2.0
"""When everything in a step happened: transfers, lanes and vector unit, chunk by chunk, at the engine's own times.

Interface
    moments(columns, chip, design, step) -> StepMoments
    StepMoments.pieces                   what each unit did, from when to when; the DMA engines' pieces carry bytes
    .fill(room), .bandwidth(bins)        bytes in a part of the buffer by cycle; DRAM bytes a cycle over time

Contract: the engine's reference form plays the step again as `price_run` has it, and its log is read. A unit's pieces do
not overlap, and their lengths add up to its busy cycles; a transfer's piece lasts from when it is asked for to when it
is done, so transfers overlap. A chunk's bytes fill their part of the buffer from being asked for (results: from being
made) until the lanes are done with them (results: until written).
What this file does not do: draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.recorded import RecordColumns, rows_of_step
from ditto_cosim.device.timing.dma import REGION_BYTES
from ditto_cosim.device.timing.engine import PythonStep, run_step
from ditto_cosim.device.timing.flow import GroupWork, Passed, share
from ditto_cosim.protocol.hardware import MODES

I64 = npt.NDArray[np.int64]

Unit = Literal["read_early", "read_late", "load", "encode", "compute", "vector", "write"]
UNITS: tuple[Unit, ...] = ("read_early", "read_late", "load", "encode", "compute", "vector", "write")
DMA_UNITS: tuple[Unit, ...] = ("read_early", "read_late", "write")
"""In the order of the engines' address regions."""
Room = Literal["early", "late", "results"]
ROOMS: tuple[Room, ...] = ("early", "late", "results")
Engine = Iterator[tuple[int, int]]
"""When a DMA engine's transfers were asked for and done, in order."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something a unit did."""

    unit: Unit
    group: int
    """0: the commands before the first layer; then the layers."""
    chunk: int
    start: int
    end: int
    nbytes: int = 0


@dataclass(frozen=True)
class StepMoments:
    """One step of the chip's time, from cycle 0."""

    step: int
    names: tuple[str, ...]
    """Of the groups."""
    modes: tuple[str, ...]
    """Of the groups; empty where no layer is."""
    ends: tuple[int, ...]
    """Cycle at which each group ends."""
    pieces: tuple[Happening, ...]
    rooms: dict[Room, int]
    """Size in bytes of each part of the buffer that streams."""
    held: dict[Room, tuple[tuple[int, int], ...]]
    """(cycle, change in bytes), in order."""

    @property
    def cycles(self) -> int:
        return self.ends[-1]

    def busy(self, unit: Unit) -> int:
        return sum(p.end - p.start for p in self.pieces if p.unit == unit)

    def fill(self, room: Room) -> Iterator[tuple[int, int]]:
        """(cycle, bytes held from then on)."""
        level = 0
        for at, change in self.held[room]:
            level += change
            yield at, level

    def bandwidth(self, bins: int) -> tuple[I64, npt.NDArray[np.float64]]:
        """Begin of each bin, and DRAM bytes a cycle in it: a transfer's bytes are spread over its time."""
        edges = np.linspace(0, self.cycles, bins + 1)
        found = np.zeros(bins)
        for p in self.pieces:
            if not p.nbytes:
                continue
            low, high = np.clip(edges[:-1], p.start, p.end), np.clip(edges[1:], p.start, p.end)
            found += p.nbytes * (high - low) / max(p.end - p.start, 1)
        return edges[:-1].astype(np.int64), found / np.diff(edges)


def moments(columns: RecordColumns, chip: Chip, design: Design, step: int) -> StepMoments:
    """Everything in one step of the record, as a run under this chip and design would have it."""
    config, rows = rows_of_step(columns, chip, design, step)
    played = PythonStep(config, log=True)
    run_step(played, rows)
    flow, log = played.flow, played.bus.log
    assert log is not None
    moved: list[list[tuple[int, int]]] = [[], [], []]
    for payload, asked, done in log:
        moved[payload.address // REGION_BYTES].append((asked, done))
    engines = [iter(transfers) for transfers in moved]
    pieces: list[Happening] = []
    held: dict[Room, list[tuple[int, int]]] = {room: [] for room in ROOMS}
    for g, (work, passed) in enumerate(zip(flow.works, flow.passed, strict=True)):
        for c in range(work.chunks):
            early, late = share(work.early_bytes, work.chunks, c), work.late_share(c)
            out = share(work.out_bytes, work.chunks, c)
            lanes_end = passed.lanes[c]
            reads: tuple[tuple[Unit, Room, int, Engine], ...] = (
                ("read_early", "early", early, engines[0]),
                ("read_late", "late", late, engines[1]),
            )
            for unit, room, nbytes, engine in reads:
                if nbytes:
                    asked, done = next(engine)
                    pieces.append(Happening(unit, g, c, asked, done, nbytes))
                    held[room] += [(asked, nbytes), (lanes_end, -nbytes)]
            pieces += _lanes(g, c, work, lanes_end)
            if out:
                asked, done = next(engines[2])
                pieces.append(Happening("write", g, c, asked, done, out))
                held["results"] += [(passed.result[c], out), (passed.written[c], -out)]
        pieces += _vector(g, work, passed)
    modes = _modes(columns, step)
    return StepMoments(
        step,
        ("before the first layer", *(c.name for c in columns.program.layers)),
        ("", *modes),
        tuple(flow.ends),
        tuple(sorted(pieces, key=lambda p: (p.start, UNITS.index(p.unit)))),
        {
            "early": config.early_room_bytes,
            "late": config.late_room_bytes,
            "results": config.out_room_bytes,
        },
        {room: tuple(sorted(changes)) for room, changes in held.items()},
    )


def _lanes(group: int, chunk: int, work: GroupWork, end: int) -> Iterator[Happening]:
    """What the lanes did with a chunk, one after another up to its end."""
    parts: tuple[tuple[Unit, int], ...] = (
        ("load", share(work.load_cycles, work.chunks, chunk)),
        ("encode", share(work.starved_cycles, work.chunks, chunk)),
        ("compute", share(work.busy_cycles, work.chunks, chunk)),
    )
    at = end - sum(cycles for _, cycles in parts)
    for unit, cycles in parts:
        if cycles:
            yield Happening(unit, group, chunk, at, at + cycles)
        at += cycles


def _vector(group: int, work: GroupWork, passed: Passed) -> Iterator[Happening]:
    """What the vector unit did of a group."""
    for cycles, ends in ((work.streamed_cycles, passed.streamed), (work.after_cycles, passed.result)):
        for c in range(work.chunks):
            if took := share(cycles, work.chunks, c):
                yield Happening("vector", group, c, ends[c] - took, ends[c])


def _modes(columns: RecordColumns, step: int) -> tuple[str, ...]:
    return tuple(MODES[mode] for mode in columns.ran[columns.steps.index(step)])

# SPDX-License-Identifier: Apache-2.0
"""The engine: the units of a chip bound together, and what a step of groups takes. Live runs and prices call it alike.

Interface
    EngineConfig(...)                       rooms, policies, memory; a chip has one per program and design (`pricing/`)
    begin_step(config, memory=None) -> StepTiming  .push(work) in program order; .settled() -> groups that ended since; .close()
    PythonStep, CompiledStep                the reference, and what stands for it where there is a compiler
    run_steps(config, rows) -> causes, …    whole steps at once

Contract
    Ranks in the calendar, for acts of one cycle: writer, vector unit, lanes, late reader, early reader: what frees room
    goes before what takes it. A step begins with empty buffers on a memory at rest. Its last cycle is the last result's.
    Both forms equal each other to the cycle (`tests/unit/test_engine.py`).

What it does not do: say what a group asks for (`pricing/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.dma import Bus, DmaPolicy, Reader, Writer
from ditto_cosim.device.timing.dram import DramConfig
from ditto_cosim.device.timing.flow import Flow, GroupWork
from ditto_cosim.device.timing.kernel import Calendar, Credits, Pipe, Target, TimeError, WatchedTarget
from ditto_cosim.device.timing.lanes import CAUSES, Lanes
from ditto_cosim.device.timing.memory import memory_of
from ditto_cosim.device.timing.vector_time import VectorUnit

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EngineConfig:
    """Everything about the units that a step's time depends on."""

    dma: DmaPolicy
    early_room_bytes: int
    late_room_bytes: int
    out_room_bytes: int
    port_bytes_per_cycle: int
    accumulator_chunks: int
    dram: DramConfig
    clock_mhz: int


class StepTiming(Protocol):
    """One step's time as it is told of its groups."""

    def push(self, work: GroupWork) -> None: ...

    def close(self) -> None:
        """No group follows."""
        ...

    def settled(self) -> Iterator[tuple[int, ...]]:
        """Cycles by cause (`CAUSES`) of every group that has ended since, in program order; they add up to its cycles."""
        ...

    @property
    def transactions(self) -> int: ...


class PythonStep:
    """The reference: initiators, sockets, a calendar."""

    def __init__(self, config: EngineConfig, memory: Target | None = None, log: bool = False) -> None:
        flow, policy = Flow(), config.dma
        early, late, out = (
            Credits(room) for room in (config.early_room_bytes, config.late_room_bytes, config.out_room_bytes)
        )
        target = memory_of(config.dram, config.clock_mhz) if memory is None else WatchedTarget(memory)
        self.bus = Bus(Pipe(policy.bytes_per_cycle), target)
        self.bus.log = [] if log else None
        self.flow = flow
        self.lanes = Lanes(flow, Pipe(config.port_bytes_per_cycle), early, late, config.accumulator_chunks)
        self.calendar = Calendar(
            (
                Writer(flow, self.bus, policy, out),
                VectorUnit(flow, out),
                self.lanes,
                Reader(flow, self.bus, policy, late, late=True),
                Reader(flow, self.bus, policy, early, late=False),
            )
        )

    def push(self, work: GroupWork) -> None:
        self.flow.push(work)

    def close(self) -> None:
        self.flow.closed = True
        self.calendar.run()
        if len(self.flow.ends) != len(self.flow.works):
            raise TimeError(
                f"engine: group {len(self.flow.ends)} never ends: {self.flow.works[len(self.flow.ends)]}"
            )
        self.lanes.finish()

    def settled(self) -> Iterator[tuple[int, ...]]:
        self.calendar.run()
        return self.lanes.causes.settled()

    @property
    def transactions(self) -> int:
        return self.bus.transactions


class CompiledStep:
    """The same, compiled."""

    def __init__(self, config: EngineConfig) -> None:
        compiled = kernels()
        assert compiled is not None, "asked for without a compiler"
        self._engine = compiled.engine(_flat(config))
        self._groups = 0

    def push(self, work: GroupWork) -> None:
        self._engine.push(np.array([work.row], np.int64))
        self._groups += 1

    def close(self) -> None:
        if not self._engine.close():
            raise TimeError("engine: a group never ends")

    def settled(self) -> Iterator[tuple[int, ...]]:
        for row in self._engine.settle(self._groups, len(CAUSES)).tolist():
            yield tuple(row)

    @property
    def transactions(self) -> int:
        return self._engine.transactions


def begin_step(config: EngineConfig, memory: Target | None = None) -> StepTiming:
    """A step of either form."""
    if memory is not None or kernels() is None:
        return PythonStep(config, memory)
    return CompiledStep(config)


def run_steps(config: EngineConfig, rows: I64) -> tuple[I64, I64]:
    """Causes [steps, groups, causes] and transactions [steps] of steps [steps, groups, fields of a `GroupWork`]."""
    compiled = kernels()
    if compiled is not None:
        return compiled.engine_steps(_flat(config), rows, len(CAUSES))
    found = [run_step(PythonStep(config), step) for step in rows.tolist()]
    return np.array([causes for causes, _ in found], np.int64), np.array([n for _, n in found], np.int64)


def run_step(step: StepTiming, rows: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], int]:
    """Causes of each group of a whole step, and how many transactions it took."""
    for row in rows:
        step.push(GroupWork(*row))
    step.close()
    return list(step.settled()), step.transactions


def _flat(config: EngineConfig) -> I64:
    """In the order of `Config` in engine.cpp."""
    dma, d = config.dma, config.dram
    return np.array(
        [
            *(dma.queue_depth, dma.prefetch_layers, dma.issue_cycles, dma.bytes_per_cycle),
            *(config.early_room_bytes, config.late_room_bytes, config.out_room_bytes),
            *(config.port_bytes_per_cycle, config.accumulator_chunks, config.clock_mhz),
            *(
                d.bytes_per_cycle or 0,
                d.channels,
                d.mapping == "fine",
                d.groups,
                d.banks_per_group,
                d.row_requests,
            ),
            *(d.burst_ns, d.cas_ns, d.write_cas_ns, d.row_to_column_ns, d.precharge_ns, d.row_active_ns),
            *(d.row_cycle_ns, d.activate_same_group_ns, d.activate_ns, d.four_activates_ns),
            *(d.read_to_precharge_ns, d.write_to_precharge_ns, d.read_to_write_ns, d.write_to_read_ns),
            *(d.write_to_read_same_group_ns, d.refresh, d.refresh_interval_ns, d.refresh_ns),
        ],
        np.int64,
    )

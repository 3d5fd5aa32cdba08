# SPDX-License-Identifier: Apache-2.0
"""Contracts: what the groups of a step take, given what each asks of the units.

Interface
    memory_named("module:Class", chip)      another memory behind the same socket
    contract_of(chip, design, rooms, memory) -> Contract
        .measures                     whether the lanes' measured cycles may stand in for modelled ones
        .begin() -> Told              a live run's step: .tell(cost, lanes) in program order, .settled(), .close()
        .steps(costs, chosen, lanes)  -> causes [steps, groups, CAUSES] of whole steps

    Pipelined    chips with timing = "tlm": the engine (`timing/engine.py`); groups overlap as buffers and policies allow
    Aggregate    timing = "paper": compute and DRAM time added, the vector unit hidden, groups one after another
    OnRoofline   designs with a roofline, on any chip: max(MACs ÷ peak, bytes ÷ bandwidth) + kernels × launch

Every cycle has one cause, so a group's causes add up to its cycles.

What this file does not do: count anything (`pricer.py`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Protocol

import numpy as np

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design, Roofline
from ditto_cosim.device.pricing.cost import I64, GroupCost, LaneColumns
from ditto_cosim.device.timing.buffers import Rooms
from ditto_cosim.device.timing.engine import (
    EngineConfig,
    PythonStep,
    StepTiming,
    begin_step,
    run_step,
    run_steps,
)
from ditto_cosim.device.timing.flow import GroupWork
from ditto_cosim.device.timing.kernel import Target
from ditto_cosim.device.timing.memory import find_memory

MOST_CHUNKS = 256
"""A group of more moves in so many larger ones, as far as the buffer has room: what begins and ends it is then that share
of it too coarse. `ditto bench price` prints how much that comes to."""

Causes = tuple[int, ...]
MakeMemory = Callable[[], Target]


class Told(Protocol):
    """A step of a live run, as the contract is told of it."""

    def tell(self, cost: GroupCost, lanes: LaneColumns) -> None: ...

    def settled(self) -> Iterator[Causes]:
        """Of the groups that ended since, in program order."""
        ...

    def close(self) -> None: ...


class Contract(ABC):
    """See the file's header."""

    measures = False
    overlaps = False
    """Whether a group's cycles depend on its neighbours."""

    @abstractmethod
    def begin(self) -> Told: ...

    @abstractmethod
    def steps(self, costs: Sequence[GroupCost], chosen: I64, lanes: LaneColumns) -> I64:
        """`chosen` [steps, groups] indexes `costs`; lanes are [steps, groups]."""

    def alone(self, costs: Sequence[GroupCost], lanes: LaneColumns) -> I64:
        """Cycles of groups with nobody beside them, lanes [steps, groups]."""
        chosen = np.broadcast_to(np.arange(len(costs)), lanes.total.shape)
        cycles: I64 = self.steps(costs, chosen, lanes).sum(axis=-1)
        return cycles

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys and equal asking, equal causes."""
        return (type(self).__name__,)


class _OneByOne(Contract):
    """Groups that do not overlap."""

    def begin(self) -> Told:
        return _Settled(self)

    def steps(self, costs: Sequence[GroupCost], chosen: I64, lanes: LaneColumns) -> I64:
        return np.stack(np.broadcast_arrays(*self.causes(_Asked(costs, chosen), lanes)), axis=-1)

    @abstractmethod
    def causes(self, asked: _Asked, lanes: LaneColumns) -> tuple[I64, ...]:
        """In the order of `CAUSES`."""


class _Asked:
    """Columns of the costs that were chosen."""

    def __init__(self, costs: Sequence[GroupCost], chosen: I64) -> None:
        self._costs, self._chosen = costs, chosen

    def __getattr__(self, name: str) -> I64:
        column: I64 = np.array([getattr(c, name) for c in self._costs], np.int64)[self._chosen]
        return column


class _Settled:
    """Every group ends when it is told of."""

    def __init__(self, contract: _OneByOne) -> None:
        self._contract = contract
        self._ready: list[Causes] = []

    def tell(self, cost: GroupCost, lanes: LaneColumns) -> None:
        found = self._contract.steps([cost], np.zeros(lanes.total.shape, np.int64), lanes)
        self._ready.append(tuple(found.reshape(-1).tolist()))

    def settled(self) -> Iterator[Causes]:
        ready, self._ready = self._ready, []
        return iter(ready)

    def close(self) -> None:
        pass


class Aggregate(_OneByOne):
    def causes(self, asked: _Asked, lanes: LaneColumns) -> tuple[I64, ...]:
        none = np.zeros_like(lanes.total)
        return lanes.busy, lanes.starved, lanes.weight_load, none, asked.dram_cycles, none


class OnRoofline(_OneByOne):
    def __init__(self, roofline: Roofline, clock_ghz: float) -> None:
        self.roofline, self.clock_ghz = roofline, clock_ghz

    @property
    def key(self) -> tuple[object, ...]:
        return type(self).__name__, self.roofline, self.clock_ghz

    def causes(self, asked: _Asked, lanes: LaneColumns) -> tuple[I64, ...]:
        card, clock = self.roofline, self.clock_ghz
        compute = np.rint(asked.macs / card.macs_per_ns * clock).astype(np.int64)
        memory = np.rint(asked.bytes * card.item_bytes / card.bytes_per_ns * clock).astype(np.int64)
        launch = np.rint(asked.kernels * card.launch_ns * clock).astype(np.int64)
        none = np.zeros_like(compute)
        return compute, none, none, none, np.maximum(memory - compute, 0), launch


LOAD, STARVED, BUSY, NEEDS = (
    [f.name for f in fields(GroupWork)].index(name)
    for name in ("load_cycles", "starved_cycles", "busy_cycles", "needs")
)
"""Where a `GroupWork`'s row has them."""


@lru_cache(maxsize=16)
def _rows_of(config: EngineConfig) -> dict[tuple[int, int], tuple[GroupCost, tuple[int, ...]]]:
    """What has been found out, for all contracts of a configuration."""
    return {}


class Pipelined(Contract):
    measures = overlaps = True

    def __init__(self, config: EngineConfig, memory: MakeMemory | None = None) -> None:
        self.config, self.memory = config, memory
        self.most_chunks = MOST_CHUNKS
        self._rows = _rows_of(config)

    @property
    def key(self) -> tuple[object, ...]:
        return type(self).__name__, self.config, self.memory

    def begin(self) -> Told:
        return _Running(self, begin_step(self.config, self.memory and self.memory()))

    def steps(self, costs: Sequence[GroupCost], chosen: I64, lanes: LaneColumns) -> I64:
        return self._run(self.rows(costs, chosen, lanes))

    def alone(self, costs: Sequence[GroupCost], lanes: LaneColumns) -> I64:
        rows = self.rows(costs, np.broadcast_to(np.arange(len(costs)), lanes.total.shape), lanes)
        rows[..., NEEDS] = -1
        cycles: I64 = self._run(rows.reshape(-1, 1, rows.shape[-1])).sum(axis=(1, 2))
        return cycles.reshape(lanes.total.shape)

    def _run(self, rows: I64) -> I64:
        if self.memory is not None:
            made = [run_step(PythonStep(self.config, self.memory()), step)[0] for step in rows.tolist()]
            return np.array(made, np.int64)
        return _answers.steps(self.config, rows)

    def rows(self, costs: Sequence[GroupCost], chosen: I64, lanes: LaneColumns) -> I64:
        """`GroupWork`s [steps, groups, fields]."""
        table = np.array([self.row(c) for c in costs], np.int64).reshape(len(costs), -1)
        rows: I64 = table[chosen]
        rows[..., LOAD], rows[..., STARVED], rows[..., BUSY] = lanes.weight_load, lanes.starved, lanes.busy
        return rows

    def row(self, cost: GroupCost) -> tuple[int, ...]:
        """Of a cost without lanes; pricers make each cost once and ask for it in every step."""
        key = id(cost), self.most_chunks
        if key not in self._rows:
            self._rows[key] = (
                cost,
                self.work(cost).row,
            )  # the cost is kept, so that its identity stays its own
        return self._rows[key][1]

    def work(self, cost: GroupCost, lanes: LaneColumns | None = None) -> GroupWork:
        """What the engine is asked for."""
        config, group = self.config, cost.group
        room = min(config.early_room_bytes, config.late_room_bytes, config.out_room_bytes) // 2
        chunk = max(config.dma.chunk_bytes, min(-(-cost.largest_part_bytes // self.most_chunks), room))
        chunks = max(1, -(-cost.largest_part_bytes // chunk))
        return GroupWork(
            chunks=chunks,
            early_bytes=cost.early_bytes,
            late_bytes=cost.late_bytes,
            out_bytes=cost.out_bytes,
            load_cycles=0 if lanes is None else int(lanes.weight_load),
            starved_cycles=0 if lanes is None else int(lanes.starved),
            busy_cycles=0 if lanes is None else int(lanes.busy),
            port_bytes=cost.through_bytes,
            streamed_cycles=cost.streamed_cycles,
            after_cycles=cost.after_cycles,
            passes=cost.passes,
            needs=-1 if group.producer is None else group.producer,
            whole=int(group.whole or cost.passes > 1 or config.dma.forwarding == "whole"),
        )


class _Running:
    """The engine, told group by group."""

    def __init__(self, contract: Pipelined, step: StepTiming) -> None:
        self._contract, self._step = contract, step

    def tell(self, cost: GroupCost, lanes: LaneColumns) -> None:
        row = self._contract.row(cost)
        of_lanes = int(lanes.weight_load), int(lanes.starved), int(lanes.busy)
        whole: Causes = (*row[:LOAD], *of_lanes, *row[BUSY + 1 :])
        self._step.push(GroupWork(*whole))

    def settled(self) -> Iterator[Causes]:
        return self._step.settled()

    def close(self) -> None:
        self._step.close()


def memory_named(name: str, chip: Chip) -> MakeMemory | None:
    """Another memory model for a chip, `module:Class`, made anew for every step; none: the chip's own."""
    if not name:
        return None
    make = find_memory(name)
    return lambda: make(chip.dram, chip.clock_mhz)


def contract_of(chip: Chip, design: Design, rooms: Rooms, memory: MakeMemory | None = None) -> Contract:
    """The contract that a chip and a design are priced by."""
    if design.roofline is not None:
        return OnRoofline(design.roofline, chip.clock_ghz)
    if chip.timing == "paper":
        return Aggregate()
    config = EngineConfig(
        dma=chip.dma,
        early_room_bytes=rooms.early_bytes,
        late_room_bytes=rooms.late_bytes,
        out_room_bytes=rooms.out_bytes,
        port_bytes_per_cycle=chip.port_bytes_per_cycle,
        accumulator_chunks=chip.accumulator_chunks,
        dram=chip.dram,
        clock_mhz=chip.clock_mhz,
    )
    return Pipelined(config, memory)


class _Answers:
    """What the engine said of steps, so that it is asked once: designs share many (a first step in original mode, …)."""

    MOST_BYTES = 1 << 26

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, I64] = OrderedDict()
        self._bytes = 0

    def steps(self, config: EngineConfig, rows: I64) -> I64:
        """Causes [steps, groups, causes]."""
        of_config = repr(config).encode()
        keys = [hashlib.blake2b(of_config + step.tobytes(), digest_size=16).digest() for step in rows]
        known = {key: self._found[key] for key in keys if key in self._found}
        asked = {key: at for at, key in enumerate(keys) if key not in known}
        if asked:
            made = run_steps(config, rows[list(asked.values())])[0]
            known |= zip(asked, made, strict=True)
            for key, causes in zip(asked, made, strict=True):
                self._keep(key, causes)
        return np.array([known[key] for key in keys], np.int64).reshape(*rows.shape[:2], -1)

    def _keep(self, key: bytes, causes: I64) -> None:
        self._found[key] = causes.copy()
        self._bytes += causes.nbytes
        while self._bytes > self.MOST_BYTES:
            self._bytes -= self._found.popitem(last=False)[1].nbytes


_answers = _Answers()

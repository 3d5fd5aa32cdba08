# SPDX-License-Identifier: Apache-2.0
"""The price of a program on a chip under a design, layer by layer: what the live run and a price of its record both ask.

Interface
    plans(program, chip, design, memory)     a `ClassPricer` for each class of a program's steps: its pricer, its layers' groups
    Pricer(program, chip, design, memory=None)
        .prologue, .layers                   the program's groups: what precedes the first layer, then one a layer
        .lanes(group, stacks, mode)          -> LaneColumns, one entry a step
        .live(group, works, mode)            -> the same of one step of a live run, as numbers
        .cost(group, mode, keeps_state)      -> GroupCost
        .alone(groups, mode, lanes)          -> cycles of groups by themselves: what an oracle compares
        .begin_step() -> StepPrice           .layer(…) in program order -> LayerTimes of the groups that ended since; .close()

Contract: `contracts.py` says what a group takes; `datapath.py` what its lanes do; `timing/traffic.py` and `buffers.py` which
bytes move. `measured` cycles replace the lanes' stage (encode, PEs, weight load) where the design's lanes are those that were
measured. Every LayerTime says whether its lanes were.

What this file does not do: choose modes (`controller.py`), price whole records (`recorded.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design, TwoArrays
from ditto_cosim.device.pricing.contracts import Causes, MakeMemory, contract_of
from ditto_cosim.device.pricing.cost import (
    I64,
    STALLS,
    UNITS,
    GroupCost,
    LaneColumns,
    LayerTime,
    PricingError,
    Stack,
    stack,
)
from ditto_cosim.device.pricing.datapath import Meter, datapath_of
from ditto_cosim.device.timing import buffers
from ditto_cosim.device.timing.schedule import schedule
from ditto_cosim.device.timing.traffic import ByDigest, Group, Scope, mode_bytes
from ditto_cosim.device.timing.traffic import groups as groups_of
from ditto_cosim.device.timing.vector_time import command_cycles, command_passes, pass_cycles, reduces_whole
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.program import Program, StepClass
from ditto_cosim.protocol.record import TRAFFIC, SubOp, Work, layer_work, split_k

EARLY = ("weights", "previous_input", "previous_output")
"""Classes of reads that exist before the step does."""


class Pricer:
    """Prices one program, of one class of steps, on one chip under one design."""

    def __init__(
        self, program: Program, chip: Chip, design: Design, memory: MakeMemory | None = None
    ) -> None:
        self.program, self.chip, self.design = program, chip, design
        if design.hetero is None and any(c.op in BLOCK_LAYER_OPS for c in program.layers):
            raise PricingError(
                f"design {design.name} has no arrays for block-scaled layers, which this program has; price it under sq_dm, one "
                "of its baselines (fp16_dense, int4_dense, int4_vsq), or a design with a [hetero] table"
            )
        self.scope: Scope = "operands" if chip.timing == "paper" else "group"
        packing = None if design.hetero is None else design.hetero.packing
        self.groups = groups_of(program, self.scope, design.dependency_check, design.sign_mask, packing)
        self.prologue, *layers = self.groups
        self.layers = tuple(layers)
        self.kept = buffers.place(self.groups, chip.buffer_bytes, chip.dma.chunk_bytes, chip.residency)
        self.datapath = datapath_of(design, chip)
        rooms = buffers.Rooms.beside(self.kept, chip.buffer_bytes)
        self.contract = contract_of(chip, design, rooms, memory)
        self.measures = self.contract.measures and self.datapath.as_built
        """Whether measured cycles of the chip's lanes are this design's."""
        key = ByDigest(program)
        self._works = _works_of(key)
        self._meters: dict[tuple[int, Mode], tuple[Meter, ...]] = {}
        self._dense: dict[tuple[int, Mode], LaneColumns] = {}
        of_traffic = (
            self.scope,
            design.dependency_check,
            design.sign_mask,
            design.hetero,
            design.policy == "base",
        )
        self._costs = _costs_of(key, chip.digest, *of_traffic)
        self._placed = _placed_of(key, chip.digest, design.hetero)
        self._tails = _tails_of(key, chip.vector_lanes, chip.vector_depth_cycles)

    # --- lanes ----------------------------------------------------------------------------------------------------------

    def works(self, group: Group, mode: Mode) -> tuple[Work, ...]:
        """The multiplications of a group's layer."""
        if group.position is None:
            return ()
        key = group.index, mode
        if key not in self._works:
            self._works[key] = layer_work(self.program, group.position, mode)
        return self._works[key]

    def lanes(self, group: Group, stacks: tuple[Stack, ...], mode: Mode) -> LaneColumns:
        """The lanes' stage of a layer, one entry a step."""
        expected = self.works(group, mode)
        if tuple(s.work for s in stacks) != expected:
            raise PricingError(
                f"layer {group.name!r}: record holds {[s.work for s in stacks]}, not {expected}"
            )
        parts = [self.datapath.lanes(s, mode) for s in self.placed(group, stacks)]
        return (
            parts[0]
            if len(parts) == 1
            else LaneColumns(*(sum(same) for same in zip(*(p.columns for p in parts), strict=True)))
        )

    def live(self, group: Group, works: tuple[SubOp, ...], mode: Mode) -> LaneColumns:
        """The lanes' stage of a layer in the step under way."""
        key = group.index, mode
        if mode == "original" and key in self._dense:
            return self._dense[key]
        if key not in self._meters:
            self._meters[key] = self._meters_of(group, works, mode)
        if meters := self._meters[key]:
            found = [
                m(s.slots, s.slot_total) for m, s in zip(meters, works, strict=True) if s.slots is not None
            ]
            return LaneColumns(*(found[0] if len(found) == 1 else np.sum(found, axis=0)))
        lanes = self.lanes(group, stack([works], ran=True), mode)
        of_step = LaneColumns(*(column[0] for column in lanes.columns))
        if mode == "original" and self.datapath.as_built and works[0].channels is None:
            self._dense[key] = of_step  # two slots for every element, whatever the data
        return of_step

    def _meters_of(self, group: Group, works: tuple[SubOp, ...], mode: Mode) -> tuple[Meter, ...]:
        """Of each work; none where it takes more than slots to know them."""
        if tuple(s.work for s in works) != self.works(group, mode):
            return ()  # `lanes` refuses them
        meters = tuple(self.datapath.meter(s.work) for s in works if s.slots is not None)
        fit = len(meters) == len(works) and all(
            m is not None and m.splits == s.splits for m, s in zip(meters, works, strict=True)
        )
        return tuple(m for m in meters if m is not None) if fit else ()

    def placed(self, group: Group, stacks: tuple[Stack, ...]) -> tuple[Stack, ...]:
        """With what the program knows of a block-scaled product's input."""
        if group.layer is None or stacks[0].channels is None:
            return stacks
        codes = self.program.values[group.layer.operands[0]].elements
        return tuple(
            replace(s, pixels=codes // s.channels.shape[2]) if s.channels is not None else s for s in stacks
        )

    # --- groups ---------------------------------------------------------------------------------------------------------

    def cost(self, group: Group, mode: Mode, keeps_state: bool) -> GroupCost:
        """What a group moves and what the vector unit does, the same in every step."""
        key = group.index, mode, keeps_state
        if key not in self._costs:
            self._costs[key] = self._cost(group, mode, keeps_state)
        return self._costs[key]

    @property
    def nothing(self) -> GroupCost:
        """Of a group that has no part in a step."""
        return GroupCost(
            self.prologue, self.design.base_mode, *(0,) * 4, (0,) * len(TRAFFIC), *(0,) * 6, 1, 0, 0
        )

    def traffic(self, group: Group, mode: Mode, keeps_state: bool) -> tuple[dict[str, int], dict[str, int]]:
        """DRAM bytes read and written by class, less what stays on the chip."""
        return self._off_chip(group, *mode_bytes(group, mode, keeps_state))

    def _off_chip(
        self, group: Group, reads: dict[str, int], writes: dict[str, int]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """What is left of bytes when those that stay on the chip are taken away."""
        kept = self.kept
        for transfers, total in ((group.reads, reads), (group.writes, writes)):
            for t in transfers:
                if t.value in kept.values:
                    total[t.traffic] -= t.nbytes
        if kept.previous_input[group.index]:
            reads.pop("previous_input", None)
        if kept.previous_output[group.index]:
            reads.pop("previous_output", None)
            writes.pop("previous_output", None)
        return reads, writes

    def _cost(self, group: Group, mode: Mode, keeps_state: bool) -> GroupCost:
        chip = self.chip
        on = self._on_lanes(group, mode)
        moving = mode_bytes(group, mode, keeps_state)
        widest = (
            moving
            if keeps_state == (self.design.policy != "base")
            else mode_bytes(group, mode, not keeps_state)
        )
        largest = self._largest_part(*widest, on.passes)
        reads, writes = self._off_chip(group, *moving)
        early = sum(reads.get(c, 0) for c in EARLY)
        late, out = sum(reads.values()) - early, sum(writes.values())
        moved = (early + late + out,) if chip.timing == "paper" else (early + late, out)
        if group.index not in self._tails:
            self._tails[group.index] = self._tail(group)
        streamed, after, elements, kernels = self._tails[group.index]
        extra = self._extra_passes(group, mode)
        if chip.partial_sums == "vector" and on.chunks > 1:
            extra += on.chunks - 1
        elif chip.partial_sums == "lanes":
            extra += on.apart
        if extra:
            streamed += pass_cycles(group.accumulators, chip.vector_lanes, chip.vector_depth_cycles, extra)
        adding = 4 * group.accumulators * max(1, 2 * on.chunks - 1)
        return GroupCost(
            group=group,
            mode=mode,
            early_bytes=early,
            late_bytes=late,
            out_bytes=out,
            largest_part_bytes=largest,
            traffic=tuple(reads.get(c, 0) + writes.get(c, 0) for c in TRAFFIC),
            dram_cycles=sum(chip.dram.sustained_cycles(nbytes, chip.clock_mhz) for nbytes in moved),
            streamed_cycles=streamed,
            after_cycles=after,
            vector_elements=elements + extra * group.accumulators,
            through_bytes=on.through_bytes,
            sram_bytes=sum((early, late, out, on.through_bytes, adding)),
            passes=on.passes,
            macs=on.macs,
            kernels=(group.layer is not None) + kernels,
            lane_write_bytes=on.write_bytes,
        )

    def _on_lanes(self, group: Group, mode: Mode) -> _OnLanes:
        key = group.index, mode
        if key not in self._placed:
            self._placed[key] = self._place(group, mode)
        return self._placed[key]

    def _place(self, group: Group, mode: Mode) -> _OnLanes:
        chip, works, hetero = self.chip, self.works(group, mode), self.design.hetero
        chunks = sum(len(split_k(w.k, chip.geometry.k_max)) for w in works)
        parts = [schedule(chip.geometry, chip.tiles, w, chip.adders).chunk_shares for w in works]
        passes = sum(max(shares) for shares in parts)
        if hetero is not None:  # the arrays' accumulators hold a result until all of K is in it
            chunks = passes = len(works)
            parts = []
        operands = 1 if mode == "original" else 2
        through = sum(w.groups * (w.k * w.n + w.rows * w.k * operands) for w in works)
        if hetero is not None and group.layer is not None:
            through = through * hetero.packing.bits_of(group.layer) // 8
        return _OnLanes(
            chunks,
            max(1, passes),
            sum(len(shares) - 1 for shares in parts),
            through,
            sum(map(self._lane_writes, works)),
            sum(w.macs for w in self.works(group, "original")),
        )

    def _lane_writes(self, work: Work) -> int:
        """Bytes of one copy of a work's weights in all lanes that it runs on."""
        plan = schedule(self.chip.geometry, self.chip.tiles, work, self.chip.adders)
        return work.groups * work.k * work.n * plan.row_tiles * self.chip.geometry.lanes

    @staticmethod
    def _largest_part(reads: Mapping[str, int], writes: Mapping[str, int], passes: int) -> int:
        early = sum(reads.get(c, 0) for c in EARLY)
        return max(early, passes * (sum(reads.values()) - early), sum(writes.values()))

    def _tail(self, group: Group) -> tuple[int, int, int, int]:
        """Cycles of the vector commands behind a layer, streamed and after the whole, their elements, and how many they are."""
        chip = self.chip
        cycles, elements, kernels, whole = [0, 0], 0, 0, False
        for command in group.tail:
            if not command_passes(command):
                continue
            operands, result = self.program.specs(command.operands), self.program.values[command.results[0]]
            taken = command_cycles(command, operands, result, chip.vector_lanes, chip.vector_depth_cycles)
            if reduces_whole(command) and not whole:
                first = taken // command_passes(command)
                cycles[0] += first
                taken -= first
                whole = True
            cycles[whole] += taken
            elements += command_passes(command) * result.elements
            kernels += 1
        return cycles[0], cycles[1], elements, kernels

    def _extra_passes(self, group: Group, mode: Mode) -> int:
        """Over the accumulators: the previous output's sum, a transposed part, the running sum over rows."""
        if group.layer is None or mode == "original":
            return 0
        if mode == "temporal" and (group.summation_deferred or not group.has_state):
            return 0
        return 3 if mode == "temporal" and len(self.works(group, mode)) == 2 else 1

    # --- time -----------------------------------------------------------------------------------------------------------

    def alone(self, groups: Sequence[Group], mode: Mode, lanes: LaneColumns) -> I64:
        """Cycles of groups with nobody beside them and their operands at hand, [steps, groups] as the lanes: what oracles
        compare, who know a layer but not its neighbours. State is written in temporal mode alone."""
        return self.contract.alone([self.cost(g, mode, mode == "temporal") for g in groups], lanes)

    def begin_step(self) -> StepPrice:
        return StepPrice(self)


class _OnLanes(NamedTuple):
    """A group's works where the chip's lanes take them, whatever moves."""

    chunks: int
    """Of K, over all works."""
    passes: int
    apart: int
    """Parts of K that other tiles than the first take."""
    through_bytes: int
    write_bytes: int
    """Of one copy of the weights."""
    macs: int


@lru_cache(maxsize=16)
def _works_of(program: ByDigest) -> dict[tuple[int, Mode], tuple[Work, ...]]:
    """What has been found out, for all pricers of a program."""
    return {}


@lru_cache(maxsize=16)
def _costs_of(
    program: ByDigest,
    chip_digest: str,
    scope: Scope,
    dependency_check: bool,
    sign_mask: bool,
    hetero: TwoArrays | None,
    keeps_nothing: bool,
) -> dict[tuple[int, Mode, bool], GroupCost]:
    """The same for pricers whose groups move the same bytes: what a cost depends on."""
    return {}


@lru_cache(maxsize=16)
def _placed_of(
    program: ByDigest, chip_digest: str, hetero: TwoArrays | None
) -> dict[tuple[int, Mode], _OnLanes]:
    """The same for pricers with the same lanes."""
    return {}


@lru_cache(maxsize=16)
def _tails_of(
    program: ByDigest, vector_lanes: int, depth_cycles: int
) -> dict[int, tuple[int, int, int, int]]:
    """The same for pricers with the same vector unit."""
    return {}


def forget() -> None:
    """What has been found out."""
    for found in (_works_of, _costs_of, _placed_of, _tails_of):
        found.cache_clear()


@dataclass(frozen=True)
class ClassPricer:
    """Steps of one class."""

    pricer: Pricer
    groups: Mapping[int, Group]
    """Of the layers that run, by their position in the whole program, in order."""


def plans(
    program: Program, chip: Chip, design: Design, memory: MakeMemory | None = None
) -> dict[StepClass, ClassPricer]:
    """By class, full steps first."""
    found = {}
    for step_class in program.step_classes:
        pricer = Pricer(program.of(step_class), chip, design, memory)
        found[step_class] = ClassPricer(
            pricer, dict(zip(program.layers_of(step_class), pricer.layers, strict=True))
        )
    return found


class StepPrice:
    """One step's price, as its layers are told."""

    def __init__(self, pricer: Pricer) -> None:
        self._pricer = pricer
        self._told = pricer.contract.begin()
        self._waiting: deque[tuple[GroupCost, LaneColumns, bool]] = deque()
        self._tell(pricer.cost(pricer.prologue, pricer.design.base_mode, False), LaneColumns.none(), False)

    def layer(
        self,
        group: Group,
        mode: Mode,
        keeps_state: bool,
        lanes: LaneColumns,
        measured_cycles: int | None = None,
    ) -> Iterator[LayerTime]:
        """Tells of a layer, in program order, its lanes as numbers or as a column of one step; yields what has ended since, in
        program order, the prologue first."""
        self.tell(group, mode, keeps_state, lanes, measured_cycles)
        return self.settled()

    def tell(
        self,
        group: Group,
        mode: Mode,
        keeps_state: bool,
        lanes: LaneColumns,
        measured_cycles: int | None = None,
    ) -> None:
        """As `layer`, and asks for nothing."""
        of_step = lanes if lanes.total.ndim == 0 else LaneColumns(*(column[0] for column in lanes.columns))
        measured = measured_cycles is not None and self._pricer.measures
        if measured:
            of_step = of_step.measured(np.int64(measured_cycles or 0))  # type: ignore[arg-type]  # a scalar column
        self._tell(self._pricer.cost(group, mode, keeps_state), of_step, measured)

    def close(self) -> Iterator[LayerTime]:
        """The step is over: the rest."""
        self._told.close()
        return self.settled()

    def _tell(self, cost: GroupCost, lanes: LaneColumns, measured: bool) -> None:
        self._waiting.append((cost, lanes, measured))
        self._told.tell(cost, lanes)

    def settled(self) -> Iterator[LayerTime]:
        """What has ended since it was asked last."""
        for causes in self._told.settled():
            yield self._time(*self._waiting.popleft(), causes)

    def _time(self, cost: GroupCost, lanes: LaneColumns, measured: bool, causes: Causes) -> LayerTime:
        busy = (int(lanes.encode), causes[0], int(lanes.weight_load), cost.vector_cycles, cost.dram_cycles)
        group = cost.group
        return LayerTime(
            layer=group.position,
            name=group.name,
            mode=cost.mode,
            total_cycles=sum(causes),
            lane_cycles=int(lanes.total),
            unit_cycles=dict(zip(UNITS, busy, strict=True)),
            stall_cycles=dict(zip(STALLS, causes[1:], strict=True)),
            traffic_bytes=dict(zip(TRAFFIC, cost.traffic, strict=True)),
            measured=measured,
        )

"""The time, traffic and energy of a layer: one pure function of its record, for the live run and re-pricing
alike.

Interface
    Pricer(program, chip, design)
        .price(layer, record, mode, measured_cycles=None, keeps_state=True) -> LayerTime
        .prologue                            -> LayerTime of the commands before the first layer
        .price_step(step, choices)           -> StepTime
        .lane_columns(layer, works, mode)    -> LaneColumns, one entry a step
        .columns(layer, mode, lanes, …)      -> GroupColumns, one entry a step (for `recorded.py`)

Contract (`tlm`)
    A group (`timing/traffic.py`) is a pipeline of equal chunks through DMA in → lanes → vector unit → DMA out; DMA
    in and DMA out share the DRAM:
        chunks = ⌈bytes moved ÷ chunk bytes⌉ (≥ 1)
        total  = Σ ⌈stage ÷ chunks⌉ + (chunks − 1) × ⌈max(DMA in + DMA out, lanes, vector) ÷ chunks⌉
    Groups run one after another; DRAM state resets between them (`ditto bench price` says what that costs,
    against `timing/tlm.py`), so refresh is charged in proportion.
Contract (`paper`)
    total = lanes (aggregate throughput) + DRAM; the vector unit is hidden.
Contract (`roofline` designs, whatever the preset)
    total = max(MACs ÷ peak, bytes ÷ bandwidth) + kernels × launch.

`measured_cycles` replaces the lanes' stage (encode, PEs, weight load) where the design's lanes are those that
were measured. Every LayerTime says whether its lanes were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import PAPER_MULTIPLIERS, Design, Roofline
from ditto_cosim.device.pricing.cost import (
    Choice,
    GroupColumns,
    LaneColumns,
    LayerTime,
    PricingError,
    Stack,
    StepTime,
    stack,
)
from ditto_cosim.device.pricing.energy import Events, energy_pj
from ditto_cosim.device.timing import buffers, schedule
from ditto_cosim.device.timing.tlm import GroupWork
from ditto_cosim.device.timing.traffic import Group, Scope, mode_bytes
from ditto_cosim.device.timing.traffic import groups as groups_of
from ditto_cosim.device.timing.vector_time import command_cycles, command_passes, pass_cycles
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import TRAFFIC, LayerRecord, SubOp, Work, layer_work, split_k

I64 = npt.NDArray[np.int64]

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Moved:
    """What a group moves between DRAM, buffers and vector unit in a mode, whatever its data."""

    bytes_in: int
    bytes_out: int
    dma_in: int
    dma_out: int
    dma_both: int
    """Cycles of the DMA: in, out, and both as one transfer."""
    vector_cycles: int
    vector_elements: int
    sram_bytes: int
    traffic: dict[str, int]
    """Bytes by class."""


class Pricer:
    """Prices one program on one chip under one design."""

    def __init__(self, program: Program, chip: Chip, design: Design) -> None:
        self.program, self.chip, self.design = program, chip, design
        self.multipliers = design.multipliers_on(chip.multipliers)
        self.scope: Scope = "operands" if chip.timing == "paper" else "group"
        self.chunk_bytes = min(CHUNK_BYTES, chip.buffer_bytes // 8)
        self.groups = groups_of(program, self.scope, design.dependency_check, design.sign_mask)
        self.kept = buffers.place(self.groups, chip.buffer_bytes, self.chunk_bytes, chip.residency)
        self._tails = [self._tail(g) for g in self.groups]
        self._works: dict[tuple[int, Mode], tuple[Work, ...]] = {}
        self._signatures: dict[int, tuple[object, ...]] = {}
        self._moves: dict[tuple[int, Mode, bool], _Moved] = {}

    # --- one step -------------------------------------------------------------------------------------------

    def price(
        self,
        layer: int,
        record: LayerRecord,
        mode: Mode,
        measured_cycles: int | None = None,
        keeps_state: bool = True,
    ) -> LayerTime:
        """The layer's time in one step, from what the encoder met (`record.works[mode]`)."""
        works = record.works.get(mode)
        if works is None:
            raise PricingError(f"layer {self._name(layer)!r}: the record has no {mode} works in this step")
        measured = np.array([-1 if measured_cycles is None else measured_cycles], np.int64)
        return self.columns(layer, mode, self.lane_columns(layer, [works], mode), measured, keeps_state).at(0)

    @cached_property
    def prologue(self) -> LayerTime:
        """The commands before the first layer: embeddings, the first quantize."""
        nothing = LaneColumns(*(np.zeros(1, np.int64) for _ in range(8)))
        return self.columns(-1, self.design.base_mode, nothing, np.array([-1], np.int64), False).at(0)

    def price_step(self, step: int, choices: Sequence[Choice]) -> StepTime:
        """A whole step; `choices` in program order."""
        if len(choices) != len(self.program.layers):
            raise PricingError(
                f"step {step}: {len(choices)} layers, the program has {len(self.program.layers)}"
            )
        layers = tuple(
            self.price(c.record.layer, c.record, c.mode, c.measured_cycles, c.keeps_state) for c in choices
        )
        return StepTime(step, layers, self.prologue)

    # --- lanes ----------------------------------------------------------------------------------------------

    def works(self, layer: int, mode: Mode) -> tuple[Work, ...]:
        key = layer, mode
        if key not in self._works:
            self._works[key] = layer_work(self.program, layer, mode)
        return self._works[key]

    def lane_columns(self, layer: int, works: Sequence[tuple[SubOp, ...]], mode: Mode) -> LaneColumns:
        """The lanes' stage of one layer and mode, one entry a step."""
        return self.stacked_columns(layer, stack(works), mode)

    def stacked_columns(self, layer: int, stacks: tuple[Stack, ...], mode: Mode) -> LaneColumns:
        """As `lane_columns`, from works stacked once for several designs."""
        expected = self.works(layer, mode)
        if tuple(s.work for s in stacks) != expected:
            raise PricingError(
                f"layer {self._name(layer)!r}: record holds {[s.work for s in stacks]}, not {expected}"
            )
        parts = [self._work_columns(s, mode) for s in stacks]
        if len(parts) == 1:
            return LaneColumns(*parts[0])
        return LaneColumns(*(np.sum(column, axis=0) for column in zip(*parts, strict=True)))

    def _work_columns(self, met: Stack, mode: Mode) -> tuple[I64, ...]:
        work, count = met.work, len(met.classes)
        elements = work.groups * work.rows * work.k
        effective = _operations(self.design.datapath, met, elements)
        if self.chip.timing == "paper" or self.design.roofline is not None:
            busy = schedule.aggregate_cycles(effective * work.n, self.multipliers)
            none = np.zeros(count, np.int64)
            cycles = schedule.ComputeCycles(busy, busy, none, none, none, none)
        else:
            cycles = self._on_lanes(met, effective)
        if self.design.datapath == "outlier":
            cycles = self._beside_outliers(cycles, met.classes[:, 2] * work.n)
        encoded = np.full(count, elements if mode != "original" else 0, np.int64)
        columns = (
            *(cycles.total, cycles.busy, cycles.starved),
            *(cycles.weight_load, cycles.encode, cycles.imbalance),
        )
        wide = (c if len(c) == count else np.broadcast_to(c, (count,)) for c in columns)
        return *wide, effective * work.n, encoded

    def _on_lanes(self, met: Stack, effective: I64) -> schedule.ComputeCycles:
        """The chip's lanes, stretched to the design's share of multipliers and its operations an element."""
        work, geometry, tiles = met.work, self.chip.geometry, self.chip.tiles
        stretch = self.chip.multipliers / self.multipliers
        if met.slots is None:
            cycles = schedule.dense_cycles(geometry, tiles, work)
            if self.design.datapath != "slots":
                stretch *= int(effective[0]) / int(met.slot_total[0])
        else:
            slots: npt.NDArray[np.integer[Any]] = met.slots
            if met.splits != split_k(work.k, geometry.k_max):
                slots = schedule.resplit(slots, work.k, split_k(work.k, geometry.k_max))
            if self.design.datapath != "slots":
                share = (effective / np.maximum(met.slot_total, 1))[:, None, None]
                slots = np.rint(slots * share).astype(np.int64)
            cycles = schedule.work_cycles(geometry, tiles, work, slots)
        if stretch == 1:
            return cycles
        total, busy, encode, imbalance = (
            np.ceil(part * stretch).astype(np.int64)
            for part in (cycles.total, cycles.busy, cycles.encode, cycles.imbalance)
        )
        load = np.minimum(cycles.weight_load, total - busy)  # loading is not faster or slower than it was
        return schedule.ComputeCycles(total, busy, total - busy - load, load, encode, imbalance)

    def _beside_outliers(
        self, cycles: schedule.ComputeCycles, outlier_products: I64
    ) -> schedule.ComputeCycles:
        """Full values run on the outlier PEs meanwhile; the slower side sets the time."""
        count = max(1, round(self.design.outlier_multipliers * self.chip.multipliers / PAPER_MULTIPLIERS))
        busy = schedule.aggregate_cycles(outlier_products, count)
        longer = np.maximum(busy - cycles.total, 0)
        return schedule.ComputeCycles(
            cycles.total + longer,
            cycles.busy + longer,
            cycles.starved,
            cycles.weight_load,
            cycles.encode,
            cycles.imbalance,
        )

    # --- the group ------------------------------------------------------------------------------------------

    def columns(
        self, layer: int, mode: Mode, lanes: LaneColumns, measured_cycles: I64, keeps_state: bool
    ) -> GroupColumns:
        """The group's pipeline around a lanes' stage, one entry a step. `measured_cycles` −1: not
        measured."""
        steps, chip = len(lanes.total), self.chip
        one = np.ones(steps, np.int64)
        of_group = self._moved(layer, mode, keeps_state)
        measured = measured_cycles >= 0
        if chip.timing == "paper" or self.design.datapath != "slots":
            measured = np.zeros(steps, bool)
        stage = np.where(measured, measured_cycles, lanes.total)
        vector, nbytes = of_group.vector_cycles, of_group.bytes_in + of_group.bytes_out
        roofline = self.design.roofline
        if roofline is not None:
            stage, dram, total = self._roofline(layer, roofline, stage, nbytes)
        elif chip.timing == "paper":
            dram = of_group.dma_both
            total = stage + dram
        else:
            dram = of_group.dma_in + of_group.dma_out
            chunks = max(1, -(-nbytes // self.chunk_bytes))
            once = -(-of_group.dma_in // chunks) - (-stage // chunks) - (-vector // chunks)
            once -= -of_group.dma_out // chunks
            total = once + (chunks - 1) * -(-np.maximum(max(dram, vector), stage) // chunks)
        busy = np.minimum(lanes.busy, stage) if roofline is None else stage
        units = {
            "encode": lanes.encode,
            "compute": busy,
            "weight_load": lanes.weight_load,
            "vector": one * vector,
            "dram": one * dram,
        }
        bound = np.argmax(np.stack([stage, one * vector, one * dram]), axis=0)
        stalls = _stalls(total, stage, units, bound, chip.timing == "paper")
        traffic = {c: one * moved for c, moved in of_group.traffic.items()}
        events = Events(
            lanes.products,
            lanes.encoded,
            of_group.vector_elements,
            one * nbytes,
            one * of_group.sram_bytes,
        )
        if roofline is not None:  # a card draws its power as long as it runs
            busy_nanoseconds = total / chip.clock_ghz
            events = Events(
                (busy_nanoseconds * self.design.multipliers).astype(np.int64), 0 * one, 0, 0 * one, 0 * one
            )
        if chip.timing == "paper":  # the paper's power is drawn for as long as a layer takes
            events = replace(events, products=(total * self.multipliers).astype(np.int64))
        energy = energy_pj(events, self.design)
        name = self._name(layer)
        return GroupColumns(
            layer, name, mode, total, units, stalls, lanes.imbalance, traffic, energy, bound, measured
        )

    def _moved(self, layer: int, mode: Mode, keeps_state: bool) -> _Moved:
        """What a group moves and what that takes, the same in every step."""
        key = layer, mode, keeps_state
        if key not in self._moves:
            reads, writes = self.traffic(layer, mode, keeps_state)
            bytes_in, bytes_out = sum(reads.values()), sum(writes.values())
            sizes = np.array([bytes_in, bytes_out, bytes_in + bytes_out], np.int64)
            dma_in, dma_out, dma_both = (int(c) for c in self.chip.dram.sustained_cycles(sizes))
            vector, elements = self._tails[layer + 1]
            extra, accumulators = self._extra_passes(layer, mode), self.groups[layer + 1].accumulators
            if extra:
                chip = self.chip
                vector += pass_cycles(accumulators, chip.vector_lanes, chip.vector_depth_cycles, extra)
            operands = 2 if mode != "original" else 1
            works = self.works(layer, mode) if layer >= 0 else ()
            through = sum(w.groups * (w.k * w.n + w.rows * w.k * operands) for w in works)
            self._moves[key] = _Moved(
                bytes_in,
                bytes_out,
                dma_in,
                dma_out,
                dma_both,
                vector,
                elements + extra * accumulators,
                bytes_in + bytes_out + through + 4 * accumulators,
                {c: reads.get(c, 0) + writes.get(c, 0) for c in TRAFFIC},
            )
        return self._moves[key]

    def group_work(self, layer: int, time: LayerTime, keeps_state: bool = True) -> GroupWork:
        """What a priced group asks of the units, for `tlm.simulate_groups`."""
        reads, writes = self.traffic(layer, time.mode, keeps_state)
        waits = time.stall_cycles
        lanes = time.total_cycles - waits["dram"] - waits["vector"] - waits["fill"]
        return GroupWork(sum(reads.values()), sum(writes.values()), lanes, time.unit_cycles["vector"])

    def signature(self, layer: int) -> tuple[object, ...]:
        """Equal for layers whose groups differ in name alone."""
        if layer not in self._signatures:
            group, at = self.groups[layer + 1], layer + 1
            moved = tuple(
                (t.traffic, t.nbytes, t.value in self.kept.values) for t in (*group.reads, *group.writes)
            )
            self._signatures[layer] = (
                *(moved, len(group.reads), group.previous_input_bytes, group.accumulators, self._tails[at]),
                *(group.difference_at_hand, group.summation_deferred, len(group.tail)),
                *(self.kept.previous_input[at], self.kept.previous_output[at]),
                *(self.works(layer, "original"), self.works(layer, "temporal")),
                sum(command_passes(c) > 0 for c in group.tail) if self.design.roofline else 0,
            )
        return self._signatures[layer]

    def _roofline(self, layer: int, roofline: Roofline, stage: I64, nbytes: int) -> tuple[I64, int, I64]:
        """Compute, memory and total cycles of a group on a machine that is not ours."""
        clock = self.chip.clock_ghz
        macs = sum(w.macs for w in self.works(layer, "original")) if layer >= 0 else 0
        compute_cycles = np.full_like(stage, round(macs / roofline.macs_per_ns * clock))
        memory = round(nbytes * roofline.item_bytes / roofline.bytes_per_ns * clock)
        group = self.groups[layer + 1]
        kernels = (group.layer is not None) + sum(command_passes(c) > 0 for c in group.tail)
        total = np.maximum(compute_cycles, memory) + round(kernels * roofline.launch_ns * clock)
        return compute_cycles, memory, total

    def traffic(self, layer: int, mode: Mode, keeps_state: bool) -> tuple[dict[str, int], dict[str, int]]:
        """DRAM bytes read and written by class, less what stays on the chip."""
        group, kept = self.groups[layer + 1], self.kept
        reads, writes = mode_bytes(group, mode, keeps_state)
        for transfers, total in ((group.reads, reads), (group.writes, writes)):
            for t in transfers:
                if t.value in kept.values:
                    total[t.traffic] -= t.nbytes
        if kept.previous_input[layer + 1]:
            reads.pop("previous_input", None)
        if kept.previous_output[layer + 1]:
            reads.pop("previous_output", None)
            writes.pop("previous_output", None)
        return reads, writes

    def _extra_passes(self, layer: int, mode: Mode) -> int:
        """Over the accumulators: the previous output's sum, a transposed part, the running sum over rows."""
        if layer < 0 or mode == "original":
            return 0
        if mode == "temporal" and self.groups[layer + 1].summation_deferred:
            return 0
        return 3 if mode == "temporal" and len(self.works(layer, mode)) == 2 else 1

    def _tail(self, group: Group) -> tuple[int, int]:
        """Cycles and elements of the vector commands behind a layer."""
        cycles = elements = 0
        for command in group.tail:
            operands, result = self.program.specs(command.operands), self.program.values[command.results[0]]
            cycles += command_cycles(
                command, operands, result, self.chip.vector_lanes, self.chip.vector_depth_cycles
            )
            elements += command_passes(command) * result.elements
        return cycles, elements

    def _name(self, layer: int) -> str:
        return self.program.layers[layer].name if layer >= 0 else "(before the first layer)"


def _operations(datapath: str, met: Stack, elements: int) -> I64:
    """Multiplier operations per output column that a datapath needs for the same elements."""
    zero, low, full = (np.asarray(column, np.int64) for column in met.classes.T)
    dense = met.slots is None
    if datapath == "slots" or (datapath == "low4" and dense):
        return met.slot_total
    if datapath == "sparse8" and not dense:
        return low + full
    if datapath == "low4":
        return zero + low + 2 * full
    if datapath == "outlier":
        return zero + low
    return np.full(len(met.classes), elements, np.int64)


def _stalls(whole: I64, stage: I64, units: Mapping[str, I64], bound: I64, added: bool) -> dict[str, I64]:
    """Splits the cycles in which the PEs did not work among their causes."""
    idle = stage - units["compute"]
    load = np.minimum(units["weight_load"], idle)
    waiting = whole - stage
    none = np.zeros_like(whole)
    vector = dram = none
    if added:
        dram = waiting
    else:
        vector = np.where(bound == 1, np.minimum(waiting, units["vector"] - stage), none)
        dram = np.where(bound == 2, np.minimum(waiting, units["dram"] - stage), none)
    return {
        "encode": idle - load,
        "weight_load": load,
        "vector": vector,
        "dram": dram,
        "fill": waiting - vector - dram,
    }

"""The time, traffic and energy of a layer: one pure function of its record, for the live run and for re-pricing alike.

Interface
    Pricer(program, chip, design)
        .price(layer, record, mode, measured_cycles=None, keeps_state=True) -> LayerTime
        .prices(layer, works, mode, …) -> list of LayerTime, one a step, from stacked works of many steps (same numbers)
        .prologue                                         -> LayerTime of the commands before the first layer
        .price_step(choices)                              -> StepTime

Contract (`tlm`)
    A layer's group is the layer and every command after it up to the next layer, in program order; what comes before the
    first layer is the prologue. A value that only its own group reads never leaves the chip. The group reads every other
    value once and writes every value that another group reads once, in the value's own type; a reshape is the same value
    and scales and zero points (`params`) travel with their tensor for nothing.
    The group's time is a pipeline of equal chunks through four stages: DMA in → lanes → vector unit → DMA out, where DMA
    in and DMA out share the DRAM:
        chunks = ⌈bytes moved ÷ chunk size⌉ (≥ 1)
        total  = Σ stage ÷ chunks  +  (chunks − 1) × max(DMA in + DMA out, lanes, vector) ÷ chunks     (each ÷ rounded up)
    Groups run one after another; DRAM state resets between them.
Contract (`paper`)
    total = lanes (aggregate throughput) + DRAM; the vector unit is hidden.

`measured_cycles` replaces the lanes' stage (encode, PEs, weight load). Every figure says whether it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.energy import Events, energy_pj
from ditto_cosim.device.units import compute
from ditto_cosim.device.units.vector_time import command_cycles, pass_cycles
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import PARAMS
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import TRAFFIC, LayerRecord, SubOp, layer_work, split_k

I64 = npt.NDArray[np.int64]
Bound = Literal["lanes", "vector", "dram"]

PREVIOUS_OUTPUT_BYTES = 4
CHUNK_BYTES = 256 * 1024
UNITS = ("encode", "compute", "weight_load", "vector", "dram")


class PricingError(ValueError):
    """A record that does not fit the program, chip or design it is priced under."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer's group in one step."""

    layer: int
    """Index into `program.layers`; −1 for the prologue."""
    name: str
    mode: Mode
    total_cycles: int
    unit_cycles: Mapping[str, int]
    """Busy cycles of each of `UNITS`; they overlap, so they do not add up to the total."""
    stall_cycles: Mapping[str, int]
    """Why the PEs were not working: encode, weight_load, vector, dram, fill. Total = compute + Σ stalls."""
    imbalance_cycles: int
    """How much longer the slowest tile took than the average one; part of `compute`."""
    traffic_bytes: Mapping[str, int]
    """DRAM bytes by class (`protocol.record.TRAFFIC`)."""
    energy_pj: Mapping[str, float]
    bound: Bound
    """The slowest stage."""
    measured: bool
    """The lanes' cycles come from hardware or RTL, not from the contract."""

    @property
    def traffic(self) -> tuple[int, ...]:
        """In the order of `TRAFFIC`, as a record keeps it."""
        return tuple(self.traffic_bytes[c] for c in TRAFFIC)


@dataclass(frozen=True, slots=True)
class StepTime:
    """All groups of one step, one after another."""

    step: int
    layers: tuple[LayerTime, ...]
    prologue: LayerTime

    @property
    def total_cycles(self) -> int:
        return self.prologue.total_cycles + sum(t.total_cycles for t in self.layers)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one layer of a step is priced."""

    record: LayerRecord
    mode: Mode
    keeps_state: bool
    measured_cycles: int | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """What a layer and the commands behind it do, whatever the data."""

    command: Command | None
    tail: tuple[Command, ...]
    reads: Mapping[str, int]
    """Bytes by class, temporal state not included."""
    previous_input_bytes: int
    previous_output_bytes: int
    output_bytes: int
    accumulators: int
    tail_cycles: int
    tail_elements: int


class Pricer:
    """Prices one program on one chip under one design."""

    def __init__(self, program: Program, chip: Chip, design: Design) -> None:
        self.program, self.chip, self.design = program, chip, design
        self.multipliers = design.multipliers_on(chip.multipliers)
        self._groups = _groups(program, chip)
        self._cache: dict[tuple[int, Mode], tuple[compute.ComputeCycles, ...]] = {}

    # --- public --------------------------------------------------------------------------------------------------------

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
        measured = None if measured_cycles is None else np.array([measured_cycles], np.int64)
        return self.prices(layer, [works], mode, measured, np.array([keeps_state]))[0]

    def prices(
        self,
        layer: int,
        works: Sequence[tuple[SubOp, ...]],
        mode: Mode,
        measured_cycles: I64 | None = None,
        keeps_state: npt.NDArray[np.bool_] | None = None,
    ) -> list[LayerTime]:
        """As `price`, for many steps at once."""
        lanes = self.lane_columns(layer, works, mode)
        return self.times(layer, mode, lanes, measured_cycles, keeps_state)

    @cached_property
    def prologue(self) -> LayerTime:
        """The commands before the first layer: embeddings, the first quantize."""
        nothing = LaneColumns(*(np.zeros(1, np.int64) for _ in range(8)))
        return self.times(-1, self.design.base_mode, nothing, None, np.array([False]))[0]

    def price_step(self, step: int, choices: Sequence[Choice]) -> StepTime:
        """A whole step; `choices` in program order."""
        if len(choices) != len(self.program.layers):
            raise PricingError(f"step {step}: {len(choices)} layers, the program has {len(self.program.layers)}")
        layers = tuple(
            self.price(c.record.layer, c.record, c.mode, c.measured_cycles, c.keeps_state) for c in choices
        )
        return StepTime(step, layers, self.prologue)

    # --- lanes ---------------------------------------------------------------------------------------------------------

    def lane_columns(self, layer: int, works: Sequence[tuple[SubOp, ...]], mode: Mode) -> LaneColumns:
        """The lanes' stage of one layer and mode, one entry a step."""
        expected = layer_work(self.program, layer, mode)
        for step in works:
            if tuple(s.work for s in step) != expected:
                raise PricingError(f"layer {self._name(layer)!r}: record holds {[s.work for s in step]}, not {expected}")
        parts = [self._work_columns([step[i] for step in works]) for i in range(len(expected))]
        return LaneColumns(*(sum(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]

    def _work_columns(self, steps: Sequence[SubOp]) -> tuple[I64, ...]:
        work, chip, design = steps[0].work, self.chip, self.design
        elements = work.groups * work.rows * work.k
        counts = np.array([(s.zero, s.low, s.full) for s in steps], np.int64)
        dense = steps[0].slots is None
        if dense:
            slot_total = np.full(len(steps), 2 * elements, np.int64)
        else:
            slot_total = np.array([s.slot_total for s in steps], np.int64)
        effective = _effective_total(design.datapath, slot_total, counts, elements, dense)
        zeros = np.zeros(len(steps), np.int64)
        if chip.timing == "paper":
            busy = compute.aggregate_cycles(effective * work.n, self.multipliers)
            if design.datapath == "outlier":
                outlier = round(design.outlier_multipliers * chip.multipliers / 39_398)
                busy = np.maximum(busy, compute.aggregate_cycles(counts[:, 2] * work.n, max(1, outlier)))
            columns = compute.ComputeCycles(busy, busy, zeros, zeros, zeros, zeros)
        else:
            columns = self._on_lanes(steps, effective, slot_total, dense)
        products = effective * work.n
        encoded = np.full(len(steps), elements, np.int64)
        return (
            columns.total + zeros,
            columns.busy + zeros,
            columns.starved + zeros,
            columns.weight_load + zeros,
            columns.encode + zeros,
            columns.imbalance + zeros,
            products,
            encoded,
        )

    def _on_lanes(
        self, steps: Sequence[SubOp], effective: I64, slot_total: I64, dense: bool
    ) -> compute.ComputeCycles:
        work, geometry, tiles = steps[0].work, self.chip.geometry, self.chip.tiles
        chunks = split_k(work.k, geometry.k_max)
        if dense:
            cycles = compute.work_cycles(geometry, tiles, work, None)
        else:
            slots = np.stack([s.slots for s in steps if s.slots is not None]).astype(np.int64)
            if steps[0].splits != chunks:
                slots = compute.resplit(slots, work.k, chunks)
            if self.design.datapath != "slots":
                slots = -(-slots * effective[:, None, None] // np.maximum(slot_total, 1)[:, None, None])
            cycles = compute.work_cycles(geometry, tiles, work, slots)
        share_now, share_ditto = self.multipliers, self.chip.multipliers
        if self.design.datapath == "slots" and share_now == share_ditto:
            return cycles
        if dense and self.design.datapath != "slots":  # fewer slots an element than the two the lane assumed
            share_ditto, share_now = share_ditto * int(effective[0]), share_now * int(slot_total[0])
        scaled = [
            -(-part * share_ditto // share_now)
            for part in (cycles.total, cycles.busy, cycles.starved, cycles.weight_load, cycles.encode, cycles.imbalance)
        ]
        return compute.ComputeCycles(*scaled)

    # --- the group -----------------------------------------------------------------------------------------------------

    def times(
        self,
        layer: int,
        mode: Mode,
        lanes: LaneColumns,
        measured_cycles: I64 | None = None,
        keeps_state: npt.NDArray[np.bool_] | None = None,
    ) -> list[LayerTime]:
        """The group's pipeline around a lanes' stage, one entry a step."""
        chip, group = self.chip, self._groups[layer + 1]
        steps = len(lanes.total)
        keeps = np.ones(steps, bool) if keeps_state is None else keeps_state
        traffic_in, traffic_out = self.traffic_columns(layer, mode, keeps)
        bytes_in = np.sum(list(traffic_in.values()), axis=0)
        bytes_out = np.sum(list(traffic_out.values()), axis=0)
        stage = lanes.total if measured_cycles is None else np.where(measured_cycles >= 0, measured_cycles, lanes.total)
        vector = np.full(steps, group.tail_cycles + self._extra_vector_cycles(layer, mode), np.int64)
        dma_in, dma_out = chip.dram.stream_cycles(bytes_in), chip.dram.stream_cycles(bytes_out)
        dram = dma_in + dma_out
        if chip.timing == "paper":
            dram = chip.dram.stream_cycles(bytes_in + bytes_out)
            total = stage + dram
        else:
            chunks = np.maximum(1, -(-(bytes_in + bytes_out) // min(CHUNK_BYTES, chip.buffer_bytes // 8)))
            once = sum(-(-part // chunks) for part in (dma_in, stage, vector, dma_out))
            total = once + (chunks - 1) * -(-np.maximum(np.maximum(dram, stage), vector) // chunks)
        slowest = np.argmax(np.stack([stage, vector, dram]), axis=0)
        out = []
        for i in range(steps):
            traffic = {c: int(traffic_in.get(c, _NONE)[i] if c in traffic_in else 0) for c in TRAFFIC}
            for c, column in traffic_out.items():
                traffic[c] += int(column[i])
            bound: Bound = ("lanes", "vector", "dram")[int(slowest[i])]  # type: ignore[assignment]  # one of the three
            whole, lane, busy = int(total[i]), int(stage[i]), int(lanes.busy[i])
            units = {
                "encode": int(lanes.encode[i]),
                "compute": min(busy, lane),
                "weight_load": int(lanes.weight_load[i]),
                "vector": int(vector[i]),
                "dram": int(dram[i]),
            }
            stalls = _stalls(whole, lane, units, int(lanes.starved[i]), bound, chip.timing == "paper")
            events = Events(
                products=int(lanes.products[i]),
                encoded=int(lanes.encoded[i]) if mode != "original" else 0,
                vector_elements=group.tail_elements,
                dram_bytes=sum(traffic.values()),
                sram_bytes=sum(traffic.values()) * 2,
                cycles=whole,
                compute_cycles=units["compute"],
            )
            out.append(
                LayerTime(
                    layer,
                    self._name(layer),
                    mode,
                    whole,
                    units,
                    stalls,
                    int(lanes.imbalance[i]),
                    traffic,
                    energy_pj(events, self.design, chip),
                    bound,
                    measured_cycles is not None and bool(measured_cycles[i] >= 0),
                )
            )
        return out

    def traffic_columns(
        self, layer: int, mode: Mode, keeps_state: npt.NDArray[np.bool_]
    ) -> tuple[dict[str, I64], dict[str, I64]]:
        """DRAM bytes read and written, by class, one entry a step."""
        group = self._groups[layer + 1]
        one = np.ones(len(keeps_state), np.int64)
        reads = {c: one * b for c, b in group.reads.items()}
        writes = {"output": one * group.output_bytes}
        if group.command is None:
            return reads, writes
        bypass = self.design.dependency_check
        difference = bypass and group.command.name in self.program.skip_difference
        summation = bypass and group.command.name in self.program.skip_summation
        if mode == "temporal" and not difference:
            reads["previous_input"] = one * group.previous_input_bytes
        if not summation:
            if mode == "temporal":
                reads["previous_output"] = one * group.previous_output_bytes
            writes["previous_output"] = keeps_state * np.int64(group.previous_output_bytes)
        return reads, writes

    def _extra_vector_cycles(self, layer: int, mode: Mode) -> int:
        group, chip = self._groups[layer + 1], self.chip
        if group.command is None or mode == "original":
            return 0
        passes = 1
        if mode == "temporal" and len(layer_work(self.program, layer, mode)) == 2:
            passes = 3
        return pass_cycles(group.accumulators, chip.vector_lanes, chip.vector_depth_cycles, passes)

    def _name(self, layer: int) -> str:
        return self.program.layers[layer].name if layer >= 0 else "(before the first layer)"


_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class LaneColumns:
    """The lanes' stage, one entry a step."""

    total: I64
    busy: I64
    starved: I64
    weight_load: I64
    encode: I64
    imbalance: I64
    products: I64
    """Multiplier operations that did work."""
    encoded: I64
    """Elements through the encoder."""


def _effective_total(datapath: str, slots: I64, counts: I64, elements: int, dense: bool) -> I64:
    """Multiplier operations per output column that a datapath needs for the same elements."""
    zero, low, full = counts[:, 0], counts[:, 1], counts[:, 2]
    if datapath == "slots":
        return slots
    if datapath == "dense8":
        return np.full(len(slots), elements, np.int64)
    if datapath == "sparse8":
        return np.full(len(slots), elements, np.int64) if dense else low + full
    if datapath == "low4":
        return slots if dense else zero + low + 2 * full
    return zero + low + full  # outlier: the normal PEs see every element


def _stalls(
    whole: int, lane: int, units: Mapping[str, int], starved: int, bound: Bound, added: bool
) -> dict[str, int]:
    """Splits the cycles in which the PEs did not work among their causes."""
    stalls = dict.fromkeys(("encode", "weight_load", "vector", "dram", "fill"), 0)
    idle = lane - units["compute"]
    stalls["weight_load"] = min(units["weight_load"], idle)
    stalls["encode"] = idle - stalls["weight_load"]
    waiting = whole - lane
    if added:
        stalls["dram"] = waiting
    elif bound == "lanes":
        stalls["fill"] = waiting
    else:
        stalls[bound] = min(waiting, units[bound] - lane)
        stalls["fill"] = waiting - stalls[bound]
    return stalls


def _groups(program: Program, chip: Chip) -> tuple[_Group, ...]:
    """The prologue, then one group a layer."""
    starts = [i for i, c in enumerate(program.commands) if c.is_layer]
    edges = [0, *starts, len(program.commands)]
    home: dict[int, int] = {}
    root: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    for g, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        for command in program.commands[first:last]:
            for value in command.operands:
                readers.setdefault(root.get(value, value), set()).add(g)
            for value in command.results:
                if command.op == "reshape":
                    source = command.operands[0]
                    root[value] = root.get(source, source)
                else:
                    home[value] = g
    leaves = {root.get(v, v) for v in program.outputs.values()}
    constants = set(program.constants.values())
    static = {program.inputs[name] for name in program.static_inputs}
    groups = []
    for g, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        commands = program.commands[first:last]
        layer = commands[0] if commands and commands[0].is_layer else None
        tail = commands[1:] if layer else commands
        reads: dict[str, int] = {"weights": 0, "input": 0, "residual": 0}
        seen: set[int] = set()
        for command in commands:
            for value in command.operands:
                source = root.get(value, value)
                if source in seen or home.get(source) == g or program.values[source] == PARAMS:
                    continue
                seen.add(source)
                if source in constants or source in static:
                    cls = "weights"
                elif command is layer:
                    second = command.op == "matmul" and value == command.operands[2]
                    cls = "weights" if second and command.attrs["static_b"] else "input"
                else:
                    cls = "residual"
                reads[cls] += program.values[source].nbytes
        leaving = {v for v in home if home[v] == g and (v in leaves or readers.get(v, set()) - {g})}
        written = {v for v in leaving if program.values[v] != PARAMS}
        previous_in = previous_out = accumulators = 0
        if layer:
            accumulators = program.values[layer.results[0]].elements
            previous_out = accumulators * PREVIOUS_OUTPUT_BYTES
            previous_in = program.values[layer.operands[0]].nbytes
            if layer.op == "matmul" and not layer.attrs["static_b"]:
                previous_in += program.values[layer.operands[2]].nbytes
        cycles = elements = 0
        for command in tail:
            operands, result = program.specs(command.operands), program.values[command.results[0]]
            taken = command_cycles(command, operands, result, chip.vector_lanes, chip.vector_depth_cycles)
            cycles += taken
            elements += result.elements if taken else 0
        output = sum(program.values[v].nbytes for v in written)
        groups.append(
            _Group(layer, tuple(tail), reads, previous_in, previous_out, output, accumulators, cycles, elements)
        )
    return tuple(groups)

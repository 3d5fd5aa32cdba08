"""Prices a whole recorded run under any design and chip, all steps of a layer at once.

Interface
    RecordColumns(run)                          a record stacked by layer and mode; load once, price often
    price_run(columns, chip, design) -> RunTime
    RunTime                                     totals, per-unit sums, choices, Defo's table, accuracy

Contract: the same numbers as the live run, because both call `Pricer.lane_columns`, `Pricer.columns` and
`Controller`. The run's own measured cycles are used where the record has them, the mode is the one that was
measured, and the chip is the run's own; everything else is modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import (
    ENERGY,
    STALLS,
    UNITS,
    GroupColumns,
    LaneColumns,
    LayerTime,
    PricingError,
    Shares,
    Stack,
    stack,
)
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import TRAFFIC, RunInfo, RunRecord, StepRecord, SubOp

I64 = npt.NDArray[np.int64]


class RecordColumns:
    """A record in memory, by layer and mode."""

    def __init__(self, program: Program, info: RunInfo, steps: list[StepRecord]) -> None:
        self.program, self.info = program, info
        self.steps = tuple(s.step for s in steps)
        self.charged = tuple(s.charged_cycles for s in steps)
        count, layers = len(steps), len(program.layers)
        self.ran = np.zeros((count, layers), np.int8)
        self.forced = np.zeros((count, layers), bool)
        self.measured = np.full((count, layers), -1, np.int64)
        self.works: list[dict[Mode, tuple[list[int], list[tuple[SubOp, ...]]]]] = [{} for _ in range(layers)]
        for i, step in enumerate(steps):
            if [r.layer for r in step.layers] != list(range(layers)):
                raise PricingError(
                    f"step {step.step}: {len(step.layers)} layers recorded, the program has {layers}"
                )
            for record in step.layers:
                self.ran[i, record.layer] = MODES.index(record.mode)
                self.forced[i, record.layer] = record.forced
                if record.measured_cycles is not None:
                    self.measured[i, record.layer] = record.measured_cycles
                for mode, made in record.works.items():
                    at, kept = self.works[record.layer].setdefault(mode, ([], []))
                    at.append(i)
                    kept.append(made)
        self._lanes: dict[tuple[object, ...], LaneColumns] = {}
        self._met: dict[tuple[int, Mode], tuple[int, ...]] = {}
        self._stacks: dict[tuple[tuple[int, ...], Mode], tuple[Stack, ...]] = {}

    @classmethod
    def load(cls, run: RunRecord) -> RecordColumns:
        return cls(run.program, run.info, list(run))

    def shares(self) -> dict[Mode, Shares]:
        """Mean shares of zero, low and full elements over all layers and steps, each layer counting once."""
        found: dict[Mode, Shares] = {}
        for mode in MODES:
            rows = [
                np.array([[s.zero, s.low, s.full] for s in step], np.float64).sum(axis=0)
                for layer in self.works
                for step in layer.get(mode, ([], []))[1]
            ]
            if rows:
                each = np.stack(rows)
                found[mode] = Shares(*(each / each.sum(axis=1, keepdims=True)).mean(axis=0).tolist())
        return found

    def lanes(self, pricer: Pricer, layer: int, mode: Mode) -> LaneColumns:
        """The lanes' stage; designs with the same lanes share it."""
        chip, design = pricer.chip, pricer.design
        works = self.works[layer][mode][1]
        if (layer, mode) not in self._met:  # identities of what was met; alive as long as this object
            self._met[layer, mode] = tuple(id(s) for step in works for s in step)
        met = self._met[layer, mode]
        key = (
            *(met, pricer.works(layer, mode), mode, chip.timing, chip.geometry, chip.tiles, chip.multipliers),
            *(design.datapath, pricer.multipliers, design.outlier_multipliers),
        )
        if key not in self._lanes:
            if (met, mode) not in self._stacks:
                self._stacks[met, mode] = stack(works)
            self._lanes[key] = pricer.stacked_columns(layer, self._stacks[met, mode], mode)
        return self._lanes[key]


@dataclass(frozen=True)
class RunTime:
    """A run's price. Arrays are [steps, layers] unless they say otherwise."""

    design: str
    chip: str
    names: tuple[str, ...]
    modes: npt.NDArray[np.int8]
    """Index into `MODES`."""
    cycles: I64
    prologue: LayerTime
    units: Mapping[str, I64]
    """Sums over the run by layer: [layers]."""
    stalls: Mapping[str, I64]
    traffic: Mapping[str, I64]
    energy: Mapping[str, npt.NDArray[np.float64]]
    measured: npt.NDArray[np.bool_]
    bound: npt.NDArray[np.int8]
    """Index into `pricing.BOUNDS`."""
    decisions: list[dict[str, int | bool | str]]
    weights: I64
    """[steps]: how often each recorded step counts; 1 for a real run."""
    accuracy: float | None
    """Share of (layer, step) after the decision in which the chosen mode was the cheaper one."""

    @property
    def step_cycles(self) -> I64:
        """[steps], the prologue included."""
        sums: I64 = self.cycles.sum(axis=1) + self.prologue.total_cycles
        return sums

    @property
    def total_cycles(self) -> int:
        return int((self.step_cycles * self.weights).sum())

    @property
    def total_energy_pj(self) -> float:
        steps = len(self.cycles)
        return float(
            sum(e.sum() for e in self.energy.values()) + steps * sum(self.prologue.energy_pj.values())
        )

    @property
    def total_bytes(self) -> int:
        steps = len(self.cycles)
        return int(
            sum(t.sum() for t in self.traffic.values()) + steps * sum(self.prologue.traffic_bytes.values())
        )

    def unit_totals(self) -> dict[str, int]:
        return {
            u: int(self.units[u].sum()) + int(self.weights.sum()) * self.prologue.unit_cycles[u]
            for u in UNITS
        }

    def stall_totals(self) -> dict[str, int]:
        return {
            s: int(self.stalls[s].sum()) + int(self.weights.sum()) * self.prologue.stall_cycles[s]
            for s in STALLS
        }

    def traffic_totals(self) -> dict[str, int]:
        return {
            t: int(self.traffic[t].sum()) + int(self.weights.sum()) * self.prologue.traffic_bytes[t]
            for t in TRAFFIC
        }

    def energy_totals(self) -> dict[str, float]:
        return {
            e: float(self.energy[e].sum()) + int(self.weights.sum()) * self.prologue.energy_pj[e]
            for e in ENERGY
        }


def price_run(columns: RecordColumns, chip: Chip, design: Design, weights: I64 | None = None) -> RunTime:
    """The record under a design and a chip; `weights` lets one step stand for many."""
    program = columns.program
    pricer = Pricer(program, chip, design)
    controller = Controller(program, chip, design, pricer)
    count, layers = len(columns.steps), len(program.layers)
    times = np.ones(count, np.int64) if weights is None else weights
    own_chip = chip.digest == columns.info.chip_digest
    memo: dict[tuple[object, ...], _Priced] = {}
    tables = [_tables(columns, pricer, layer, own_chip, memo) for layer in range(layers)]
    chosen = np.zeros((count, layers), np.int8)
    cycles = np.zeros((count, layers), np.int64)
    measured, bound = np.zeros((count, layers), bool), np.zeros((count, layers), np.int8)
    counts = np.zeros((layers, len(UNITS) + len(STALLS) + len(TRAFFIC)), np.int64)
    energy = np.zeros((layers, len(ENERGY)))
    right = judged = 0
    for layer, table in enumerate(tables):
        picks: dict[tuple[Mode, bool], list[int]] = {}
        totals = {m: table.oracle[m].tolist() for m in table.oracle}
        live = {key: c.total.tolist() for key, c in table.columns.items()}
        at = table.rows
        forced = columns.forced[:, layer].tolist()
        for i in range(count):
            possible = i in at["temporal"] and not forced[i]
            mode = controller.choose(layer, possible, partial(_ahead, totals, at, i))
            keeps = controller.keeps_state(columns.steps[i], layer, mode)
            taken = live[mode, keeps][at[mode][i]]
            if possible and controller.judged(layer):
                judged += int(times[i])
                base = design.base_mode
                best = (
                    "temporal" if totals["temporal"][at["temporal"][i]] < totals[base][at[base][i]] else base
                )
                right += int(times[i]) * (best == mode)
            controller.count(layer, mode, taken)
            cycles[i, layer] = taken
            chosen[i, layer] = MODES.index(mode)
            picks.setdefault((mode, keeps), []).append(i)
        for (mode, keeps), steps in picks.items():
            group = table.columns[mode, keeps]
            rows = np.array([at[mode][i] for i in steps])
            measured[steps, layer], bound[steps, layer] = group.measured[rows], group.bound[rows]
            whole, joules = table.sums[mode, keeps]
            counts[layer] += whole[:, rows] @ times[steps]
            energy[layer] += joules[:, rows] @ times[steps]
    units, stalls, traffic = np.split(counts, [len(UNITS), len(UNITS) + len(STALLS)], axis=1)
    return RunTime(
        design.name,
        chip.name,
        tuple(c.name for c in program.layers),
        chosen,
        cycles,
        pricer.prologue,
        dict(zip(UNITS, units.T, strict=True)),
        dict(zip(STALLS, stalls.T, strict=True)),
        dict(zip(TRAFFIC, traffic.T, strict=True)),
        dict(zip(ENERGY, energy.T, strict=True)),
        measured,
        bound,
        controller.decisions,
        times,
        right / judged if judged else None,
    )


def _ahead(
    totals: Mapping[Mode, list[int]], at: Mapping[Mode, Mapping[int, int]], step: int, mode: Mode
) -> int:
    return totals[mode][at[mode][step]]


_Priced = tuple[GroupColumns, tuple[I64, npt.NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class _Table:
    """One layer's price in every mode the design may use."""

    rows: Mapping[Mode, Mapping[int, int]]
    """Mode -> step number -> row of its columns."""
    columns: Mapping[tuple[Mode, bool], GroupColumns]
    sums: Mapping[tuple[Mode, bool], tuple[I64, npt.NDArray[np.float64]]]
    """The columns stacked: [units, stalls, traffic; steps] and [energies; steps]."""
    oracle: Mapping[Mode, I64]
    """Totals as an oracle sees them beforehand: modelled, state written in temporal mode alone."""


def _tables(
    columns: RecordColumns,
    pricer: Pricer,
    layer: int,
    own_chip: bool,
    memo: dict[tuple[object, ...], _Priced],
) -> _Table:
    made: dict[tuple[Mode, bool], _Priced] = {}
    rows: dict[Mode, dict[int, int]] = {"temporal": {}}
    oracle: dict[Mode, I64] = {}

    def price(mode: Mode, lanes: LaneColumns, counted: I64, keeps: bool) -> _Priced:
        """Layers alike in shape, traffic and slots cost the same."""
        key = (pricer.signature(layer), mode, keeps, id(lanes), counted.tobytes())
        if key not in memo:
            group = pricer.columns(layer, mode, lanes, counted, keeps)
            whole = [*group.units.values(), *group.stalls.values(), *group.traffic.values()]
            memo[key] = group, (np.stack(whole), np.stack(list(group.energy.values())))
        return memo[key]

    for mode in pricer.design.modes:
        if mode not in columns.works[layer]:
            continue
        at = columns.works[layer][mode][0]
        lanes = columns.lanes(pricer, layer, mode)
        ran = columns.ran[at, layer] == MODES.index(mode)
        counted = np.where(ran & own_chip, columns.measured[at, layer], -1)
        for keeps in (True, False) if pricer.design.policy != "base" else (False,):
            made[mode, keeps] = price(mode, lanes, counted, keeps)
        keeps = mode == "temporal"
        oracle[mode] = made[mode, keeps][0].total
        if (counted >= 0).any():
            oracle[mode] = price(mode, lanes, np.full(len(at), -1, np.int64), keeps)[0].total
        rows[mode] = {step: row for row, step in enumerate(at)}
    if pricer.design.base_mode not in rows:
        name = pricer.program.layers[layer].name
        raise PricingError(f"layer {name!r}: no {pricer.design.base_mode} works recorded")
    groups = {key: group for key, (group, _) in made.items()}
    return _Table(rows, groups, {key: sums for key, (_, sums) in made.items()}, oracle)

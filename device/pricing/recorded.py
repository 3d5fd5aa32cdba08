# SPDX-License-Identifier: Apache-2.0
"""Prices a whole recorded run under any design and chip, all steps of a layer at once.

Interface
    RecordColumns(program, info, steps)         a record stacked by layer and mode; load once, price often
    price_run(columns, chip, design) -> RunTime
    RunTime                                     totals, per-unit sums, choices, Defo's table, accuracy
    chip_of(info), design_of(info)              what the record was made with, whole
    asked_of_run(columns, chip, design)         what the contract is asked for in every step, by class
    rows_of_step(columns, chip, design, step)   what the engine is asked for in a step

Contract: the same numbers as the live run, because both ask `Pricer`, its contract and `Controller`. The run's own measured
cycles are used where the record has them, the mode is the one that was measured, and the chip is the run's own; everything
else is modelled.

What this file does not do: say what anything costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.designs.base import Design, load_design
from ditto_cosim.device.pricing.area import memories_of, port_copies
from ditto_cosim.device.pricing.contracts import MakeMemory, Pipelined
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import (
    ENERGY,
    I64,
    STALLS,
    UNITS,
    GroupCost,
    LaneColumns,
    PricingError,
    Shares,
    Stack,
    stack,
)
from ditto_cosim.device.pricing.energy import Events, energy_pj
from ditto_cosim.device.pricing.pricer import ClassPricer, Pricer, plans
from ditto_cosim.device.timing.engine import EngineConfig
from ditto_cosim.device.timing.traffic import Group
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.program import Program, StepClass
from ditto_cosim.protocol.record import TRAFFIC, RunInfo, RunRecord, StepRecord, SubOp

Bools = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
TEMPORAL = MODES.index("temporal")
Plans = Mapping[StepClass, ClassPricer]


@dataclass(frozen=True)
class Met:
    """What a layer meets in a mode, in the steps in which that is possible."""

    at: tuple[int, ...]
    """Rows of the record."""
    works: tuple[tuple[SubOp, ...], ...]

    @cached_property
    def rows(self) -> slice | list[int]:
        """`at`, as NumPy takes it soonest."""
        whole = self.at[-1] - self.at[0] == len(self.at) - 1
        return slice(self.at[0], self.at[-1] + 1) if whole else list(self.at)


def chip_of(info: RunInfo) -> Chip:
    """The chip a record was made on, as it was."""
    if info.chip_description:
        return Chip.from_description(info.chip_description, f"record of {info.model}")
    return load_chip(info.chip)


def design_of(info: RunInfo) -> Design:
    """The design, as it was."""
    if info.design_description:
        return Design.from_description(info.design_description, f"record of {info.model}")
    return load_design(info.design)


class RecordColumns:
    """A record in memory, by layer and mode."""

    def __init__(self, program: Program, info: RunInfo, steps: list[StepRecord]) -> None:
        self.program, self.info = program, info
        self.steps = tuple(s.step for s in steps)
        self.charged = tuple(s.charged_cycles for s in steps)
        count, layers = len(steps), len(program.layers)
        self.ran = np.zeros((count, layers), np.int8)
        self.runs = np.zeros((count, layers), bool)
        """Which layers run in which steps."""
        self.forced = np.zeros((count, layers), bool)
        self.measured_cycles = np.zeros((count, layers), np.int64)
        self.measured = np.zeros((count, layers), bool)
        found: list[dict[Mode, tuple[list[int], list[tuple[SubOp, ...]]]]] = [{} for _ in range(layers)]
        for i, step in enumerate(steps):
            ran = program.layers_of(program.step_class(step.step))
            if [r.layer for r in step.layers] != list(ran):
                raise PricingError(
                    f"step {step.step}: {len(step.layers)} layers recorded, the program has {len(ran)}"
                )
            for record in step.layers:
                self.ran[i, record.layer] = MODES.index(record.mode)
                self.runs[i, record.layer] = True
                self.forced[i, record.layer] = record.forced
                if record.measured_cycles is not None:
                    self.measured_cycles[i, record.layer] = record.measured_cycles
                    self.measured[i, record.layer] = True
                for mode, made in record.works.items():
                    at, kept = found[record.layer].setdefault(mode, ([], []))
                    at.append(i)
                    kept.append(made)
        self.met = [{m: Met(tuple(at), tuple(made)) for m, (at, made) in layer.items()} for layer in found]
        self._possible: dict[Mode, Bools] = {}
        self._stacks: dict[bytes, tuple[Stack, ...]] = {}
        self._lanes: dict[tuple[object, ...], LaneColumns] = {}
        self._matrices: dict[tuple[object, ...], I64] = {}
        self._alone: dict[tuple[object, ...], I64] = {}

    @classmethod
    def load(cls, run: RunRecord) -> RecordColumns:
        return cls(run.program, run.info, list(run))

    def shares(self) -> dict[Mode, Shares]:
        """Mean shares of zero, low and full elements over all layers and steps, each layer counting once."""
        found: dict[Mode, Shares] = {}
        for mode in MODES:
            rows = [
                np.array([[s.zero, s.low, s.full] for s in step], np.float64).sum(axis=0)
                for layer in self.met
                if mode in layer
                for step in layer[mode].works
            ]
            if rows:
                each = np.stack(rows)
                found[mode] = Shares(*(each / each.sum(axis=1, keepdims=True)).mean(axis=0).tolist())
        return found

    def possible(self, mode: Mode) -> Bools:
        """[steps, layers]: whether the record knows what the mode would have met."""
        if mode not in self._possible:
            known = np.zeros(self.ran.shape, bool)
            for layer, modes in enumerate(self.met):
                if mode in modes:
                    known[modes[mode].rows, layer] = True
            known.flags.writeable = False
            self._possible[mode] = known
        return self._possible[mode]

    def running(self, step_class: StepClass) -> I64:
        """Rows of the record that are steps of a class."""
        found = [i for i, step in enumerate(self.steps) if self.program.step_class(step) == step_class]
        return np.array(found, np.int64)

    def lanes(self, plans: Plans, mode: Mode) -> I64:
        """The lanes' stage of every layer [fields, steps, layers], zero where not possible; designs with the same lanes share
        it, and layers that met the same."""
        key = mode, plans["full"].pricer.datapath.key
        if key not in self._matrices:
            matrix = np.zeros((len(LaneColumns.__dataclass_fields__), *self.ran.shape), np.int64)
            for layer, plan in _where(plans).items():
                if mode in self.met[layer]:
                    of_layer = self._of_layer(plan.pricer, plan.groups[layer], layer, mode)
                    matrix[:, self.met[layer][mode].rows, layer] = of_layer.columns
            self._matrices[key] = matrix
        return self._matrices[key]

    def alone(self, plans: Plans, mode: Mode) -> I64:
        """Cycles of every layer by itself [steps, layers]: what oracles and judges compare."""
        pricer = plans["full"].pricer
        design = pricer.design
        of_traffic = pricer.kept, pricer.scope, design.dependency_check, design.sign_mask
        of_vector = pricer.chip.vector_lanes, pricer.chip.vector_depth_cycles, pricer.chip.partial_sums
        key = mode, pricer.datapath.key, pricer.contract.key, of_traffic, of_vector
        if key not in self._alone:
            lanes, matrix = self.lanes(plans, mode), np.zeros(self.ran.shape, np.int64)
            for step_class, plan in plans.items():
                cells = np.ix_(self.running(step_class), np.array(list(plan.groups)))
                of_class = LaneColumns(*(column[cells] for column in lanes))
                if of_class.total.size:
                    matrix[cells] = plan.pricer.alone(list(plan.groups.values()), mode, of_class)
            self._alone[key] = np.where(self.possible(mode), matrix, 0)
        return self._alone[key]

    @cached_property
    def _digests(self) -> list[dict[Mode, bytes]]:
        """Of what each layer met: equal contents, equal digests."""
        found: dict[tuple[int, ...], bytes] = {}  # the very same works (a synthetic record's) are read once

        def of(met: Met) -> bytes:
            key = tuple(id(s) for step in met.works for s in step)
            return found.get(key) or found.setdefault(key, _digest(met))

        return [{mode: of(met) for mode, met in modes.items()} for modes in self.met]

    def _of_layer(self, pricer: Pricer, group: Group, layer: int, mode: Mode) -> LaneColumns:
        digest = self._digests[layer][mode]
        key = digest, pricer.datapath.key
        if key not in self._lanes:
            if digest not in self._stacks:
                self._stacks[digest] = stack(self.met[layer][mode].works)
            self._lanes[key] = pricer.lanes(group, self._stacks[digest], mode)
        return self._lanes[key]


def _where(plans: Plans) -> dict[int, ClassPricer]:
    """Layer -> a plan that runs it."""
    found: dict[int, ClassPricer] = {}
    for plan in plans.values():
        found |= {layer: plan for layer in plan.groups if layer not in found}
    return found


def _digest(met: Met) -> bytes:
    found = hashlib.blake2b(repr([(s.work, s.splits) for s in met.works[0]]).encode(), digest_size=16)
    for step in met.works:
        for s in step:
            found.update(b"%d,%d,%d;" % (s.zero, s.low, s.full))
            if s.channels is not None:
                found.update(np.ascontiguousarray(s.channels).data)
            if s.slots is not None:
                found.update(np.ascontiguousarray(s.slots).data)
    return found.digest()


@dataclass(frozen=True)
class RunTime:
    """A run's price. Arrays are [steps, layers] unless they say otherwise."""

    design: str
    chip: str
    names: tuple[str, ...]
    modes: npt.NDArray[np.int8]
    """Index into `MODES`."""
    runs: Bools
    """Where a layer has no part in a step, its other entries are 0."""
    increments: Bools
    """[steps]: those between full steps (`protocol/program.py`)."""
    cycles: I64
    prologue_cycles: I64
    """[steps]: the commands before the first layer."""
    units: Mapping[str, I64]
    """Sums over the run by group, the prologue first: [groups]."""
    stalls: Mapping[str, I64]
    traffic: Mapping[str, I64]
    energy: Mapping[str, F64]
    products: I64
    """Multiplications that the design's units make, summed like `units`."""
    measured: Bools
    bound: npt.NDArray[np.int8]
    """Index into `pricing.cost.BOUNDS`: the slowest of lanes, vector unit and DRAM, each alone."""
    decisions: list[dict[str, int | bool | str]]
    weights: I64
    """[steps]: how often each recorded step counts; 1 for a real run."""
    accuracy: float | None
    """Share of (layer, step) after the decision in which the chosen mode was the one that is cheaper alone."""

    @property
    def step_cycles(self) -> I64:
        """[steps], the prologue included."""
        sums: I64 = self.cycles.sum(axis=1) + self.prologue_cycles
        return sums

    @property
    def total_cycles(self) -> int:
        return int((self.step_cycles * self.weights).sum())

    @property
    def total_energy_pj(self) -> float:
        return float(sum(e.sum() for e in self.energy.values()))

    @property
    def total_bytes(self) -> int:
        return int(sum(t.sum() for t in self.traffic.values()))

    def of_class(self, increments: bool) -> tuple[int, int]:
        """How many steps are increments, or full ones, and their cycles."""
        of_class = self.increments == increments
        return int(self.weights[of_class].sum()), int((self.step_cycles * self.weights)[of_class].sum())

    def unit_totals(self) -> dict[str, int]:
        return {unit: int(cycles.sum()) for unit, cycles in self.units.items()}

    def stall_totals(self) -> dict[str, int]:
        return {cause: int(cycles.sum()) for cause, cycles in self.stalls.items()}

    def traffic_totals(self) -> dict[str, int]:
        return {kind: int(nbytes.sum()) for kind, nbytes in self.traffic.items()}

    def energy_totals(self) -> dict[str, float]:
        return {unit: float(joules.sum()) for unit, joules in self.energy.items()}


def price_run(
    columns: RecordColumns,
    chip: Chip,
    design: Design,
    weights: I64 | None = None,
    memory: MakeMemory | None = None,
    *,
    judge: bool = True,
) -> RunTime:
    """The record under a design and a chip; `weights` lets one step stand for many. `judge`: say whether Defo's choices were
    right, which means pricing every layer by itself, half of the work."""
    made = plans(columns.program, chip, design, memory)
    known = columns.possible(design.base_mode) | ~columns.runs
    known |= [c.op == "linear_increment" for c in columns.program.layers] & columns.possible("temporal")
    if not known.all():
        layer = columns.program.layers[int(np.argmin(known.all(axis=0)))]
        raise PricingError(f"layer {layer.name!r}: no {design.base_mode} works recorded")
    priced = _Run(columns, made, np.ones(len(columns.steps), np.int64) if weights is None else weights, judge)
    priced.play()
    return priced.sums()


def rows_of_step(
    columns: RecordColumns, chip: Chip, design: Design, step: int
) -> tuple[EngineConfig, list[list[int]]]:
    """What the engine is asked for in one step of the record, as the run under this chip and design would ask."""
    made = plans(columns.program, chip, design)
    pricer = made[columns.program.step_class(step)].pricer
    if not isinstance(pricer.contract, Pipelined):
        raise PricingError(
            f"{design.name} on {chip.name}: time there is a closed form, nothing is moved in transactions; "
            "expected a chip with timing = 'tlm' and a design without a roofline"
        )
    if step not in columns.steps:
        raise PricingError(
            f"step {step} is not in the record, which has {columns.steps[0]} to {columns.steps[-1]}"
        )
    priced = _Run(columns, made, np.ones(len(columns.steps), np.int64))
    priced.play()
    at, groups = columns.steps.index(step), priced.groups[columns.program.step_class(step)]
    lanes = LaneColumns(*priced.lanes[:, at, groups])
    return pricer.contract.config, pricer.contract.rows(
        priced.costs, priced.chosen[at, groups], lanes
    ).tolist()


@dataclass(frozen=True)
class Asked:
    """What a contract was asked for in the steps of one class."""

    pricer: Pricer
    weights: I64
    """[steps]"""
    steps: list[tuple[I64, list[GroupCost]]]
    """The engine's rows [groups, fields], none under another contract, and the costs that they are of."""

    def weight_bytes(self, cost: GroupCost) -> int:
        """What a group's weights are, as the lanes load them."""
        return sum(w.groups * w.k * w.n for w in self.pricer.works(cost.group, cost.mode))


def asked_of_run(columns: RecordColumns, chip: Chip, design: Design) -> list[Asked]:
    """Of every step, by class."""
    made = plans(columns.program, chip, design)
    priced = _Run(columns, made, np.ones(len(columns.steps), np.int64), judge=False)
    priced.play()
    found = []
    for step_class, plan in made.items():
        rows, groups = columns.running(step_class), priced.groups[step_class]
        steps = []
        for at in rows.tolist():
            costs = [priced.costs[i] for i in priced.chosen[at, groups].tolist()]
            lanes = LaneColumns(*priced.lanes[:, at, groups])
            contract = plan.pricer.contract
            asked = np.zeros((0, 0), np.int64)
            if isinstance(contract, Pipelined):
                asked = contract.rows(priced.costs, priced.chosen[at, groups], lanes)
            steps.append((asked, costs))
        found.append(Asked(plan.pricer, priced.weights[rows], steps))
    return found


class _Run:
    """A record on its way through its pricers: choices are made step by step until nothing counted changes them."""

    def __init__(self, columns: RecordColumns, plans: Plans, weights: I64, judge: bool = True) -> None:
        self.columns, self.plans, self.weights, self.judge = columns, plans, weights, judge
        self.pricer = pricer = plans["full"].pricer
        design, program = pricer.design, columns.program
        self.controller = Controller(program, pricer.chip, design)
        self.possible = columns.possible("temporal") & ~columns.forced
        steps, layers = columns.ran.shape
        self.classes = [program.step_class(step) for step in columns.steps]
        self.groups = {c: np.array([0, *(layer + 1 for layer in plan.groups)]) for c, plan in plans.items()}
        """Columns of a class's groups, the prologue first."""
        self.modes = np.full((steps, layers), MODES.index(design.base_mode), np.int8)
        self.chosen = np.zeros((steps, layers + 1), np.int64)
        self.costs = [pricer.nothing]
        self._numbers: dict[tuple[StepClass, int, Mode, bool], int] = {}
        modes = dict.fromkeys((*design.modes, *(("temporal",) if program.period > 1 else ())))
        self._asked: dict[Mode, I64] = {mode: columns.lanes(plans, mode) for mode in modes}
        own_chip = pricer.chip.digest == columns.info.chip_digest
        self._counted = columns.measured & (own_chip and pricer.measures)
        self.measured = np.zeros((steps, layers), bool)
        self.lanes = np.zeros((len(LaneColumns.__dataclass_fields__), steps, layers + 1), np.int64)
        self.causes = np.zeros((steps, layers + 1, 1 + len(STALLS)), np.int64)
        self.right = self.judged = 0
        self._by_itself: dict[Mode, I64] = {}
        self._alike: dict[tuple[StepClass, bool, bytes], int] = {}

    def play(self) -> None:
        step, steps = 0, len(self.modes)
        while step < steps:
            self._choose(step)
            until = step + 1
            if self.controller.decided:
                until = steps
                for later in range(step + 1, steps):
                    self._choose(later)
            self._price(step, until)
            for at in range(step, until):
                self._count(at)
            step = until

    def _choose(self, step: int) -> None:
        """Modes, and whether outputs are kept, of one step. Once all is decided, a step like an earlier one is that one."""
        possible, step_class = self.possible[step], self.classes[step]
        key = (step_class, self.columns.steps[step] == 0, possible.tobytes())
        like = self._alike.get(key)
        if like is not None:
            self.modes[step], self.chosen[step] = self.modes[like], self.chosen[like]
            return
        controller, plan, number = self.controller, self.plans[step_class], self.columns.steps[step]
        design = plan.pricer.design
        alone = {m: self._alone(m)[step] for m in design.modes} if controller.knows_beforehand else {}
        self.chosen[step, 0] = self._number(step_class, plan.pricer.prologue, design.base_mode, False)
        for layer, group in plan.groups.items():
            mode = controller.choose(layer, bool(possible[layer]), lambda m, at=layer: int(alone[m][at]))  # type: ignore[misc]
            keeps = controller.keeps_state(number, layer, mode)
            self.chosen[step, layer + 1] = self._number(step_class, group, mode, keeps)
            if mode == "temporal":
                self.modes[step, layer] = TEMPORAL
        if controller.decided and not controller.knows_beforehand:
            self._alike[key] = step

    def _alone(self, mode: Mode) -> I64:
        if mode not in self._by_itself:
            self._by_itself[mode] = self.columns.alone(self.plans, mode)
        return self._by_itself[mode]

    def _number(self, step_class: StepClass, group: Group, mode: Mode, keeps: bool) -> int:
        key = step_class, group.index, mode, keeps
        if key not in self._numbers:
            self._numbers[key] = len(self.costs)
            self.costs.append(self.plans[step_class].pricer.cost(group, mode, keeps))
        return self._numbers[key]

    def _price(self, first: int, until: int) -> None:
        """Lanes as the modes have them, measured where they were, then the contract, class by class."""
        steps = slice(first, until)
        modes = self.modes[steps]
        asked = self._asked[self.pricer.design.base_mode][:, steps]
        if "temporal" in self._asked:
            asked = np.where(modes == TEMPORAL, self._asked["temporal"][:, steps], asked)
        lanes = LaneColumns(*asked)
        counted = self._counted[steps] & (self.columns.ran[steps] == modes)
        if counted.any():
            cycles = np.where(counted, self.columns.measured_cycles[steps], lanes.total)
            asked = np.where(counted, lanes.measured(cycles).columns, asked)
        self.measured[steps] = counted
        self.lanes[:, steps, 1:] = asked
        for step_class, plan in self.plans.items():
            rows = [at for at in range(first, until) if self.classes[at] == step_class]
            if rows:
                cells = np.ix_(np.array(rows), self.groups[step_class])
                of_groups = LaneColumns(*(column[cells] for column in self.lanes))
                self.causes[cells] = plan.pricer.contract.steps(self.costs, self.chosen[cells], of_groups)

    def _count(self, step: int) -> None:
        """Tells Defo, and judges its choices so far."""
        controller, base = self.controller, self.pricer.design.base_mode
        if self.pricer.design.policy in ("base", "temporal"):
            return
        layers = list(self.plans[self.classes[step]].groups)
        temporal = self.modes[step] == TEMPORAL
        if self.judge:
            cheaper = self._alone("temporal")[step] < self._alone(base)[step]
            judged = self.possible[step] & np.fromiter(map(controller.judged, range(len(temporal))), bool)
            self.judged += int(self.weights[step]) * int(judged.sum())
            self.right += int(self.weights[step]) * int((judged & (cheaper == temporal)).sum())
        if not controller.decided:
            cycles, ran = self.causes[step, 1:].sum(axis=1).tolist(), temporal.tolist()
            for layer in layers:
                controller.count(layer, "temporal" if ran[layer] else base, cycles[layer])

    def sums(self) -> RunTime:
        pricer, times, lanes = self.pricer, self.weights, LaneColumns(*self.lanes)
        chosen, causes = self.chosen, self.causes

        def of_cost(read: Callable[[GroupCost], int]) -> I64:
            """[steps, groups]"""
            column: I64 = np.array([read(c) for c in self.costs], np.int64)[chosen]
            return column

        vector, dram = of_cost(lambda c: c.vector_cycles), of_cost(lambda c: c.dram_cycles)
        busy = (lanes.encode, causes[..., 0], lanes.weight_load, vector, dram)
        traffic = np.array([c.traffic for c in self.costs], np.int64)[chosen]
        energy = self._energy(lanes, of_cost)
        stage = np.stack([lanes.total, vector, dram])
        return RunTime(
            design=pricer.design.name,
            chip=pricer.chip.name,
            names=tuple(c.name for c in self.columns.program.layers),
            modes=self.modes,
            runs=self.columns.runs,
            increments=np.array([c == "increment" for c in self.classes]),
            cycles=causes[:, 1:].sum(axis=2),
            prologue_cycles=causes[:, 0].sum(axis=1),
            units={unit: times @ cycles for unit, cycles in zip(UNITS, busy, strict=True)},
            stalls={cause: times @ causes[..., 1 + i] for i, cause in enumerate(STALLS)},
            traffic={kind: times @ traffic[..., i] for i, kind in enumerate(TRAFFIC)},
            energy={unit: times @ energy[unit] for unit in ENERGY},
            products=times @ lanes.products,
            measured=self.measured,
            bound=np.argmax(stage, axis=0)[:, 1:].astype(np.int8),
            decisions=self.controller.decisions,
            weights=times,
            accuracy=self.right / self.judged if self.judged else None,
        )

    def _energy(
        self, lanes: LaneColumns, of_cost: Callable[[Callable[[GroupCost], int]], I64]
    ) -> dict[str, F64]:
        pricer, total, none = self.pricer, self.causes.sum(axis=2), np.zeros_like(self.chosen)
        if pricer.design.roofline is not None:  # a card draws its power as long as it runs
            busy_ns = total / pricer.chip.clock_ghz
            products = (busy_ns * pricer.design.multipliers).astype(np.int64)
            events = Events(products, none, none, none, none)
        else:
            products = lanes.products
            if pricer.chip.timing == "paper":  # the paper's power is drawn for as long as a layer takes
                products = total * pricer.datapath.multipliers
            events = Events(
                products,
                lanes.encoded,
                of_cost(lambda c: c.vector_elements),
                of_cost(lambda c: c.bytes),
                of_cost(lambda c: c.sram_bytes),
                np.rint(of_cost(lambda c: c.lane_write_bytes) * port_copies(pricer.design)).astype(np.int64),
                total / pricer.chip.clock_ghz,
            )
        return energy_pj(events, pricer.design, memories_of(pricer.chip, pricer.design))  # type: ignore[return-value]  # binary64 all through

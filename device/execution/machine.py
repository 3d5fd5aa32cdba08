# SPDX-License-Identifier: Apache-2.0
"""The machine: executes a run's program, step by step, in function and in time.

Values live here from the command that makes them to the last that reads them; layers keep their temporal state between
steps, and what a full step keeps under a name lasts until the next full step. A layer's mode is chosen, then it is computed;
beside that its books are kept, so that the values never wait for them, and it is reported when they tell of it. An oracle
design counts before it chooses. What this file does not do: runs and replies (`serving/`), the arithmetic (`layers.py`,
`kernels/vector.py`), counts and checks (`books.py`), the cycles (`pricing/`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

from ditto_cosim.device.backends import backend_for
from ditto_cosim.device.backends.base import Backend, facts_of, has_arrays, totals_of
from ditto_cosim.device.backends.watched import WatchedBackend
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.core import Activity, StepResult
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.execution.blocks import BlockLayer
from ditto_cosim.device.execution.books import Booked, Books, HasRun, OpenBooks
from ditto_cosim.device.execution.layers import Layer
from ditto_cosim.device.execution.make import make_layer
from ditto_cosim.device.kernels import vector
from ditto_cosim.device.pricing.contract import contract_digest
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import LayerTime
from ditto_cosim.device.pricing.pricer import plans
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import BackendError, DittoError, RequestError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.messages import LayerReport, Observe, RunSpec
from ditto_cosim.protocol.program import Command, Program, StepClass
from ditto_cosim.protocol.record import LayerRecord, StepRecord

Array = npt.NDArray[Any]
SNAPSHOT_VERSION = 1


Make = Callable[[Sequence[Array], int], tuple[Array, ...]]
"""Operands and step to results."""


class Act(NamedTuple):
    """A command in a step of a class."""

    command: Command
    make: Make | None
    """None: a layer."""
    dying: tuple[int, ...]
    """Values that nobody reads after it."""


class Machine:
    """One run."""

    def __init__(
        self,
        program: Program,
        constants: Mapping[str, Array],
        spec: RunSpec,
        *,
        backend: Backend | None = None,
    ) -> None:
        """`backend` takes the place of the one that the specification names."""
        self.program = program
        self.chip = load_chip(spec.chip)
        self.design = load_design(spec.design)
        self.tell: Callable[[Activity | None], None] = lambda activity: None
        chosen = backend or backend_for(spec, self.chip, [c.name for c in program.layers])
        self.backend: Backend = WatchedBackend(chosen, lambda activity: self.tell(activity))
        self.geometry_digest = self.backend.geometry.digest
        self.measures = self.backend.measures
        tile = self.chip.geometry
        self.facts: dict[str, str | int] = {
            "chip_digest": self.chip.digest,
            "low_rule": tile.low_rule,
            "k_max": tile.k_max,
            "multipliers": self.chip.multipliers,
            "clock_hz": self.chip.clock_hz,
            "contract_digest": contract_digest(),
            "rtl_digest": str(getattr(chosen, "rtl_digest", "")),
            "chip": json.dumps(self.chip.description),
            "design": json.dumps(self.design.description),
            **facts_of(chosen),
        }
        self.plans = plans(program, self.chip, self.design)
        self.pricer = self.plans["full"].pricer
        self.counts_lanes = self.pricer.measures and self.backend.geometry == tile
        """Whether the backend's lanes are those that this chip and design are priced with."""
        self.controller = Controller(program, self.chip, self.design)
        self.facts |= self._lane_facts()
        self.line_bytes: dict[int, Counter[str]] = {}
        """What crossed a board's line for each layer when it last ran."""
        self.constants = {value: constants[name] for name, value in program.constants.items()}
        self.layers: dict[str, Layer] = {
            c.name: make_layer(c, program, self.constants, tile.k_max, tile.low_rule, self.design.hetero)
            for c in program.layers
        }
        self._refuse_without_arrays(chosen)
        self.layer_index = {c.name: i for i, c in enumerate(program.layers)}
        self.quantizers = {c.name: vector.QuantizeState() for c in program.commands if c.op == "quantize"}
        self.kept: dict[str, Array] = {}
        """What full steps kept, by slot."""
        self.acts = {step_class: self._acts(step_class) for step_class in program.step_classes}
        """What a step of each class does, resolved once."""
        self.totals: dict[str, int] = {"cycles": 0, "steps": 0}
        self.books = Books(self.backend, self.counts_lanes, self.totals)

    def _refuse_without_arrays(self, backend: Backend) -> None:
        """Before anything runs: 4-bit block products need a backend that has arrays for them."""
        asking = [n for n, x in self.layers.items() if isinstance(x, BlockLayer) and x.four_bits]
        if asking and not has_arrays(backend):
            backend.close()
            raise BackendError(
                f"backend {backend.name!r} has no arrays for block-scaled products, which {len(asking)} layers such as "
                f"{asking[0]!r} are; backend model has, or give one with `block_gemm` (docs/backends.md)"
            )

    def _lane_facts(self) -> dict[str, str | int]:
        """The tile, and whether the lanes' stage is priced by its written contract alone: what a host recomputes it from."""
        tile, pricer = self.chip.geometry, self.pricer
        written = not getattr(
            self.backend, "own_contract", False
        )  # some hardware is measured by a contract of its own
        plain = pricer.measures and pricer.datapath.multipliers == self.chip.multipliers
        return {
            "lane_contract": int(written and plain),
            "tiles": self.chip.tiles,
            "adders": self.chip.adders,
            "lanes": tile.lanes,
            "columns": tile.columns,
            "encode_width": tile.encode_width,
            "n_max": tile.n_max,
            "weight_banks": tile.weight_banks,
            "pe_stages": tile.pe_stages,
        }

    # --- one step ---------------------------------------------------------------------------------------------------------

    def step(
        self,
        step: int,
        inputs: Mapping[str, Array],
        *,
        observe: Observe,
        timed: bool,
        on_layer: Callable[[LayerReport], None],
        on_value: Callable[[int, Array], object],
    ) -> StepResult:
        """Runs every command once. `timed = False` rebuilds temporal state and leaves clock and Defo alone."""
        values = {**self.constants, **{value: inputs[name] for name, value in self.program.inputs.items()}}
        watched = None if observe == "all" else frozenset(() if observe == "none" else observe)
        step_class = self.program.step_class(step)
        books = self.books.open(self.plans[step_class]) if timed else None
        records: list[LayerRecord] = []

        def tell(booked: Iterable[Booked]) -> None:
            for record, time in booked:
                self.controller.count(record.layer, record.mode, time.total_cycles)
                records.append(record)
                on_layer(self._report(step, record, time))

        try:
            for act in self.acts[step_class]:
                command = act.command
                try:
                    if act.make is None:
                        results: tuple[Array, ...] = (self._layer(step, command, values, books),)
                    else:
                        results = act.make([values[v] for v in command.operands], step)
                except DittoError:
                    raise
                except (ArithmeticError, ValueError) as error:
                    raise RequestError(f"step {step}, {command.op} {command.name!r}: {error}") from error
                for value, array in zip(command.results, results, strict=True):
                    values[value] = array
                    if watched is None or value in watched:
                        on_value(value, array)
                for value in act.dying:
                    del values[value]
                if books is not None and act.make is None:
                    tell(books.told())
            if books is not None:
                tell(books.close())
        except BaseException:
            if books is not None:
                books.abandon()
            raise
        outputs = {name: np.asarray(values[value], order="C") for name, value in self.program.outputs.items()}
        if books is None:
            return StepResult(outputs)
        self.totals["cycles"] += books.cycles
        self.totals["steps"] += 1
        return StepResult(outputs, StepRecord(step, tuple(records), books.cycles), self._totals())

    def _totals(self) -> dict[str, int]:
        return {**self.totals, **totals_of(self.backend)}

    def _acts(self, step_class: StepClass) -> tuple[Act, ...]:
        of_class = self.program.of(step_class)
        dying: dict[int, list[int]] = {}
        for value, index in of_class.last_use.items():
            dying.setdefault(index, []).append(value)
        return tuple(
            Act(c, self._resolve(c), tuple(dying.get(i, ()))) for i, c in enumerate(of_class.commands)
        )

    def _resolve(self, command: Command) -> Make | None:
        """What a command does to its operands; None for a layer, whose mode is chosen in every step."""
        where = f"{command.op} {command.name!r}"
        if command.is_layer:
            return None
        if command.op == "quantize":
            attrs, state = command.attrs, self.quantizers[command.name]
            return lambda operands, step: vector.quantize(operands[0], attrs, step, state, where)
        if command.op == "keep":
            return partial(self._keep, isa.slot(command.attrs))
        if command.op == "recall":
            return partial(self._recall, isa.slot(command.attrs), where)
        resolved = vector.resolve(command.op, command.attrs, where)
        return lambda operands, step: resolved(operands)

    def _keep(self, slot: str, operands: Sequence[Array], step: int) -> tuple[Array, ...]:
        self.kept[slot] = operands[0]
        return ()

    def _recall(self, slot: str, where: str, operands: Sequence[Array], step: int) -> tuple[Array, ...]:
        if slot not in self.kept:
            raise RequestError(
                f"step {step}, {where}: nothing is kept in slot {slot!r} yet; a run begins with a full step"
            )
        return (self.kept[slot],)

    def _layer(
        self, step: int, command: Command, values: Mapping[int, Array], books: OpenBooks | None
    ) -> Array:
        """The layer's accumulators; its books are kept, if there are any, or what the backend says is checked here."""
        layer, index = self.layers[command.name], self.layer_index[command.name]
        layer.step = step
        forced = layer.begin([values[v] for v in command.operands])
        modes = layer.modes()
        if books is None:
            counting = layer.counting(modes[:1])
            accumulators, ran = layer.run(modes[0], self.backend)
            layer.check(ran, counting()[modes[0]], self.backend.name)
            return accumulators
        counting = layer.counting(modes)
        if self.controller.knows_beforehand:
            counting = cache(counting)

        def alone(mode: Mode) -> int:
            """What an oracle asks, and has counted for."""
            return books.alone(index, counting()[mode], mode)

        mode = self.controller.choose(index, "temporal" in modes, alone)
        keeps = self.controller.keeps_state(step, index, mode)
        accumulators, ran = layer.run(mode, self.backend)
        self.line_bytes[index] = sum((Counter(r.line_bytes) for r in ran if r.line_bytes), Counter())
        books.enter(HasRun(index, command, layer, mode, forced, keeps, counting, ran))
        return accumulators

    def _report(self, step: int, record: LayerRecord, time: LayerTime) -> LayerReport:
        ran, command = record.works[record.mode], self.program.layers[record.layer]
        charged = time.total_cycles if record.charged_cycles is None else record.charged_cycles
        stalls = dict(time.stall_cycles)
        if charged > time.total_cycles:
            stalls["board"] = charged - time.total_cycles
        return LayerReport(
            step=step,
            layer=record.layer,
            name=command.name,
            op=command.op,
            mode=record.mode,
            forced_base=record.forced,
            zero=sum(s.zero for s in ran),
            low=sum(s.low for s in ran),
            full=sum(s.full for s in ran),
            slots=sum(s.slot_total for s in ran),
            cycles=charged,
            lane_cycles=time.lane_cycles,
            unit_cycles=dict(time.unit_cycles),
            stall_cycles=stalls,
            traffic_bytes=dict(time.traffic_bytes),
            measured=time.measured,
            line_bytes=dict(self.line_bytes[record.layer]),
        )

    # --- what replay cannot rebuild ---------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        scales = {name: float(q.scale) for name, q in self.quantizers.items() if q.scale is not None}
        blob: bytes = msgpack.packb(
            {
                "version": SNAPSHOT_VERSION,
                "controller": self.controller.snapshot(),
                "scales": scales,
                "totals": self.totals,
                "detectors": {n: x.snapshot() for n, x in self.layers.items() if isinstance(x, BlockLayer)},
            }
        )
        return blob

    def restore(self, blob: bytes) -> None:
        try:
            data = msgpack.unpackb(blob)
            if data["version"] != SNAPSHOT_VERSION:
                raise RequestError(
                    f"snapshot version {data['version']}, this device reads {SNAPSHOT_VERSION}"
                )
            self.controller.restore(data["controller"])
            for name, scale in data["scales"].items():
                self.quantizers[name].scale = np.float32(scale)
            for name, kept in data.get("detectors", {}).items():
                layer = self.layers[name]
                if isinstance(layer, BlockLayer):
                    layer.restore(kept)
            totals = {str(k): int(v) for k, v in data["totals"].items()}
            self.totals.clear()
            self.totals.update(totals)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(
                f"snapshot: not one of this program ({type(error).__name__}: {error})"
            ) from None

    @property
    def state_bytes(self) -> int:
        held = {id(a): a.nbytes for a in self.kept.values()}  # some slots are what a layer keeps anyway
        return sum(layer.state_bytes for layer in self.layers.values()) + sum(held.values())

    def close(self) -> None:
        self.books.shut()
        self.backend.close()

# SPDX-License-Identifier: Apache-2.0
"""The machine: executes a run's program, step by step, in function and in time.

Values live here from the command that makes them to the last that reads them; layers keep their temporal state between
steps, and what a full step keeps under a name lasts until the next full step. A layer's mode is chosen, then it is computed;
beside that a second thread counts what each mode would meet, checks what the backend reports and tells its price, so that the
values never wait for the books. Layers overlap in time, so a layer is reported when a later one shows that it has ended. An
oracle design waits for the counts before it chooses. What this file does not do: runs and replies (`serving/`), the
arithmetic (`layers.py`, `kernels/vector.py`), the cycles (`pricing/`).
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

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
from ditto_cosim.device.execution.layers import Layer, Ran, Works
from ditto_cosim.device.execution.make import make_layer
from ditto_cosim.device.kernels import vector
from ditto_cosim.device.pricing.contract import contract_digest
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import LayerTime, stack
from ditto_cosim.device.pricing.pricer import ClassPricer, Pricer, plans
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import BackendError, DittoError, RequestError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.messages import LayerReport, Observe, RunSpec
from ditto_cosim.protocol.program import Command, Program, StepClass
from ditto_cosim.protocol.record import LayerRecord, StepRecord

Array = npt.NDArray[Any]
Booked = list[tuple[LayerRecord, LayerTime]]
"""Layers that ended in time by now, in program order."""
SNAPSHOT_VERSION = 1


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
        self.price = self.pricer.begin_step()
        """The step under way, in time; told of by the books alone."""
        self.unsettled: deque[tuple[LayerRecord, int]] = deque()
        """Layers that were told of and have not ended."""
        self.line_bytes: dict[int, Counter[str]] = {}
        """What crossed a board's line for each layer of the step under way; the books' too."""
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
        self.dying: dict[StepClass, dict[int, list[int]]] = {c: {} for c in program.step_classes}
        for step_class, dying in self.dying.items():
            for value, index in program.of(step_class).last_use.items():
                dying.setdefault(index, []).append(value)
        self.step_cycles = 0
        self.totals: dict[str, int] = {"cycles": 0, "steps": 0}
        self.books = ThreadPoolExecutor(1, thread_name_prefix="books")
        """Counts, checks and prices layers, in program order, while the next ones are computed."""

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
        pending: deque[Future[Booked]] = deque()
        records: list[LayerRecord] = []
        step_class = self.program.step_class(step)
        plan, dying = self.plans[step_class], self.dying[step_class]
        self.books.submit(self._open_books, plan.pricer)

        def settle(wait: bool) -> None:
            while pending and (wait or pending[0].done()):
                for record, time in pending.popleft().result():
                    self.controller.count(record.layer, record.mode, time.total_cycles)
                    records.append(record)
                    on_layer(self._report(step, record, time))

        for index, command in enumerate(self.program.of(step_class).commands):
            try:
                if command.is_layer:
                    result, booked = self._layer(step, command, values, timed, plan)
                    results: tuple[Array, ...] = (result,)
                    if booked is not None:
                        pending.append(booked)
                else:
                    results = self._vector(step, command, values)
            except DittoError:
                raise
            except (ArithmeticError, ValueError) as error:
                raise RequestError(f"step {step}, {command.op} {command.name!r}: {error}") from error
            for value, array in zip(command.results, results, strict=True):
                values[value] = array
                if watched is None or value in watched:
                    on_value(value, array)
            for value in dying.get(index, ()):
                del values[value]
            settle(wait=False)
        if timed:
            pending.append(self.books.submit(self._close_books))
        settle(wait=True)
        outputs = {name: np.asarray(values[value], order="C") for name, value in self.program.outputs.items()}
        if not timed:
            return StepResult(outputs)
        step_cycles = self.step_cycles
        self.totals["cycles"] += step_cycles
        self.totals["steps"] += 1
        return StepResult(outputs, StepRecord(step, tuple(records), step_cycles), self._totals())

    def _totals(self) -> dict[str, int]:
        return {**self.totals, **totals_of(self.backend)}

    def _vector(self, step: int, command: Command, values: Mapping[int, Array]) -> tuple[Array, ...]:
        operands = [values[v] for v in command.operands]
        where = f"{command.op} {command.name!r}"
        if command.op == "quantize":
            return vector.quantize(operands[0], command.attrs, step, self.quantizers[command.name], where)
        if command.op == "keep":
            self.kept[isa.slot(command.attrs)] = operands[0]
            return ()
        if command.op == "recall":
            slot = isa.slot(command.attrs)
            if slot not in self.kept:
                raise RequestError(
                    f"step {step}, {where}: nothing is kept in slot {slot!r} yet; a run begins with a full step"
                )
            return (self.kept[slot],)
        return vector.execute(command.op, operands, command.attrs, where)

    def _layer(
        self, step: int, command: Command, values: Mapping[int, Array], timed: bool, plan: ClassPricer
    ) -> tuple[Array, Future[Booked] | None]:
        """The layer's accumulators, and what the books will say of it."""
        layer, index = self.layers[command.name], self.layer_index[command.name]
        layer.step = step
        forced = layer.begin([values[v] for v in command.operands])
        if not timed:
            first = layer.modes()[0]
            counting = layer.counting((first,))
            accumulators, ran = layer.run(first, self.backend)
            layer.check(ran, counting()[first], self.backend.name)
            return accumulators, None
        modes = layer.modes()
        counted = self.books.submit(layer.counting(modes))

        def alone(mode: Mode) -> int:
            """What an oracle asks, and waits for the counts."""
            group, works, pricer = plan.groups[index], counted.result()[mode], plan.pricer
            return int(pricer.alone([group], mode, pricer.lanes(group, stack([works]), mode))[0])

        mode = self.controller.choose(index, "temporal" in modes, alone)
        keeps = self.controller.keeps_state(step, index, mode)
        accumulators, ran = layer.run(mode, self.backend)
        return accumulators, self.books.submit(self._book, plan, command, mode, forced, keeps, counted, ran)

    # --- the books ------------------------------------------------------------------------------------------------------

    def _open_books(self, pricer: Pricer) -> None:
        self.price, self.step_cycles = pricer.begin_step(), 0
        self.unsettled.clear()

    def _book(
        self,
        plan: ClassPricer,
        command: Command,
        mode: Mode,
        forced: bool,
        keeps: bool,
        counted: Future[Works],
        ran: Sequence[Ran],
    ) -> Booked:
        """Checks what the backend reported of a layer, and tells its price; returns the layers that ended meanwhile."""
        index, works = self.layer_index[command.name], counted.result()
        self.layers[command.name].check(ran, works[mode], self.backend.name)
        group = plan.groups[index]
        lanes = plan.pricer.lanes(group, stack([works[mode]], ran=True), mode)
        for arrays in (r.arrays for r in ran if r.arrays is not None):
            for name, taken in zip(("dense_array_cycles", "sparse_array_cycles"), arrays, strict=True):
                self.totals[name] = self.totals.get(name, 0) + taken
        cycles = [r.cycles for r in ran if r.cycles is not None]
        measured = sum(cycles) if self.counts_lanes and len(cycles) == len(ran) else None
        if measured is not None:
            predicted = int(lanes.total[0])
            if getattr(
                self.backend, "own_contract", False
            ):  # it has held itself to that; ours stands beside it
                for name, cycles_of in (("own_lane_cycles", measured), ("lane_cycles", predicted)):
                    self.totals[name] = self.totals.get(name, 0) + cycles_of
            else:
                self._agree(command, mode, measured, predicted)
        stalled = sum(r.stalls for r in ran) if measured is not None else 0
        self.line_bytes[index] = sum((Counter(r.line_bytes) for r in ran), Counter())
        self.unsettled.append((LayerRecord(index, mode, forced, works, measured), stalled))
        return self._settled(self.price.layer(group, mode, keeps, lanes, measured))

    def _close_books(self) -> Booked:
        return self._settled(self.price.close())

    def _settled(self, times: Iterable[LayerTime]) -> Booked:
        found: Booked = []
        for time in times:
            self.step_cycles += time.total_cycles
            if time.layer is not None:
                record, stalled = self.unsettled.popleft()
                self.step_cycles += stalled  # the lanes stood still, and everything behind them waited
                charged = time.total_cycles + stalled
                found.append((replace(record, charged_cycles=charged, traffic_bytes=time.traffic), time))
        return found

    def _agree(self, command: Command, mode: Mode, measured: int, predicted: int) -> None:
        """The cycles that the lanes took, a board's stalls left out, must be those that the contract says, to the cycle."""
        if predicted != measured:
            raise BackendError(
                f"layer {command.name!r} ({mode}): backend {self.backend.name!r} measured {measured} cycles, the cycle "
                f"contract says {predicted}. One of them is wrong; `ditto rtl test` narrows it down."
            )

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
            self.totals = {str(k): int(v) for k, v in data["totals"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(
                f"snapshot: not one of this program ({type(error).__name__}: {error})"
            ) from None

    @property
    def state_bytes(self) -> int:
        held = {id(a): a.nbytes for a in self.kept.values()}  # some slots are what a layer keeps anyway
        return sum(layer.state_bytes for layer in self.layers.values()) + sum(held.values())

    def close(self) -> None:
        self.books.shutdown(cancel_futures=True)
        self.backend.close()

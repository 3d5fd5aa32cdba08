"""Chooses the mode of every layer in every step, as the design's policy says.

Interface
    Controller(program, chip, design)
        .mode_for(step, layer, record, forced) -> Mode   `record.works` holds every mode possible in this
                                                         step;
                                                         its own `mode` is ignored
        .keeps_state(step, layer, mode)        -> bool   is the layer's output written back for the next step?
        .observe(step, layer, time)                      after the layer ran; Defo counts its cycles
        .snapshot() -> dict of bytes, .restore(dict)     everything replay cannot rebuild
        .decisions                                       Defo's table as rows, or empty
    .choose and .count are the same with the cycles given, for pricing many steps at once.

Order per layer and step: mode_for, keeps_state, price, observe. The same object prices a recorded run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.cost import LayerTime
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.timing.defo import DefoTable
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import LayerRecord


class Controller:
    """One run's decisions."""

    def __init__(self, program: Program, chip: Chip, design: Design, pricer: Pricer | None = None) -> None:
        self.program, self.design = program, design
        self.pricer = pricer or Pricer(program, chip, design)
        uses_table = design.policy in ("defo", "dynamic")
        self.table = DefoTable(len(program.layers), chip.defo_unit_log2) if uses_table else None
        self._temporal_forbidden = frozenset(
            i
            for i, c in enumerate(program.layers)
            if c.op == "matmul" and not c.attrs["static_b"] and not design.attention_differences
        )

    def mode_for(self, step: int, layer: int, record: LayerRecord, forced: bool) -> Mode:
        def cycles(mode: Mode) -> int:
            return self.pricer.price(layer, record, mode, keeps_state=mode == "temporal").total_cycles

        return self.choose(layer, "temporal" in record.works and not forced, cycles)

    def choose(self, layer: int, temporal_possible: bool, cycles: Callable[[Mode], int]) -> Mode:
        """The mode; `cycles` says what a mode would take, and is asked by oracles alone."""
        base, policy = self.design.base_mode, self.design.policy
        if policy == "base" or not temporal_possible or layer in self._temporal_forbidden:
            return base
        if policy == "temporal":
            return "temporal"
        if self.table is not None:
            return "temporal" if self.table.wants_temporal(layer) else base
        return "temporal" if cycles("temporal") < cycles(base) else base

    def keeps_state(self, step: int, layer: int, mode: Mode) -> bool:
        if self.design.policy == "base" or layer in self._temporal_forbidden:
            return False
        if mode == "temporal" or step == 0:
            return True
        if self.table is None:  # an oracle knows beforehand; the others are here because they were forced
            return self.design.policy != "ideal"
        entry = self.table.entries[layer]
        return entry.phase != "frozen" or entry.temporal

    def observe(self, step: int, layer: int, time: LayerTime) -> None:
        self.count(layer, time.mode, time.total_cycles)

    def count(self, layer: int, mode: Mode, cycles: int) -> None:
        if self.table is not None and layer not in self._temporal_forbidden:
            self.table.observe(layer, mode == "temporal", cycles, self.design.policy == "dynamic")

    def judged(self, layer: int) -> bool:
        """Whether the layer's mode is by now a decision, right or wrong, and not a measurement."""
        if self.table is None:
            return self.design.policy == "ideal" and layer not in self._temporal_forbidden
        return self.table.entries[layer].phase == "frozen"

    @property
    def decisions(self) -> list[dict[str, int | bool | str]]:
        return self.table.dump() if self.table is not None else []

    def snapshot(self) -> dict[str, bytes]:
        return {} if self.table is None else {"defo": self.table.snapshot()}

    def restore(self, data: Mapping[str, Any]) -> None:
        if self.table is not None:
            self.table.restore(data["defo"])

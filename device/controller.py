"""Chooses the mode of every layer in every step, as the design's policy says.

Interface
    Controller(program, chip, design)
        .mode_for(step, layer, record, forced) -> Mode     `record.works` holds every mode possible in this step; its
                                                           own `mode` is ignored
        .keeps_state(step, layer, mode)        -> bool     whether the layer's output is written back for the next step
        .observe(step, layer, time)                        after the layer ran; Defo counts its cycles
        .snapshot() -> dict of bytes / .restore(dict)      everything replay cannot rebuild
        .decisions                                         Defo's table as rows, or empty

Order per layer and step: mode_for, keeps_state, price, observe. The same object prices a recorded run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing import LayerTime, Pricer
from ditto_cosim.device.units.defo import DefoTable
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
        base, policy = self.design.base_mode, self.design.policy
        if policy == "base" or forced or layer in self._temporal_forbidden or "temporal" not in record.works:
            return base
        if policy == "temporal":
            return "temporal"
        if self.table is not None:
            return "temporal" if self.table.wants_temporal(layer) else base
        modes = {m: self.pricer.price(layer, record, m).total_cycles for m in self.design.modes}
        return "temporal" if modes["temporal"] < modes[base] else base

    def keeps_state(self, step: int, layer: int, mode: Mode) -> bool:
        if self.design.policy == "base" or layer in self._temporal_forbidden:
            return False
        if self.table is None or mode == "temporal":
            return True
        entry = self.table.entries[layer]
        return entry.phase != "frozen" or entry.temporal

    def observe(self, step: int, layer: int, time: LayerTime) -> None:
        if self.table is not None and layer not in self._temporal_forbidden:
            self.table.observe(layer, time.mode == "temporal", time.total_cycles, self.design.policy == "dynamic")

    @property
    def decisions(self) -> list[dict[str, int | bool | str]]:
        return self.table.dump() if self.table is not None else []

    def snapshot(self) -> dict[str, bytes]:
        return {} if self.table is None else {"defo": self.table.snapshot()}

    def restore(self, data: Mapping[str, Any]) -> None:
        if self.table is not None:
            self.table.restore(data["defo"])

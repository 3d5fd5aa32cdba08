# SPDX-License-Identifier: Apache-2.0
"""Chooses the mode of every layer in every step, as the design's policy says.

Interface
    Controller(program, chip, design)
        .choose(layer, temporal_possible, alone) -> Mode   `alone(mode)`: cycles of the layer by itself; oracles alone ask
        .keeps_state(step, layer, mode)          -> bool   is the layer's output written back for the next step?
        .count(layer, mode, cycles)                        after the layer ran; Defo's table
        .knows_beforehand                                  whether `alone` will be asked
        .snapshot() -> dict of bytes, .restore(dict)       everything replay cannot rebuild
        .decisions                                         Defo's table as rows, or empty

Within a step: choose and keeps_state for every layer, then count for every layer, in program order. A decision never depends
on what the same step counts, so a step's layers may be chosen before any of them has ended.

What it does not do: price (`pricer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.timing.defo import DefoTable
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Program


class Controller:
    """One run's decisions."""

    def __init__(self, program: Program, chip: Chip, design: Design) -> None:
        self.design = design
        self.knows_beforehand = design.policy == "ideal"
        self._differences = frozenset(i for i, c in enumerate(program.layers) if c.op == "linear_increment")
        """Whose operand is a difference already: no design has a choice."""
        self._stateless = self._differences | {
            i for i, c in enumerate(program.layers) if "reference" in c.attrs
        }
        in_a_step = max(len(set(program.layers_of(c)) - self._differences) for c in program.step_classes)
        uses_table = design.policy in ("defo", "dynamic")
        self.table = DefoTable(len(program.layers), chip.defo_unit_log2, in_a_step) if uses_table else None
        self._temporal_forbidden = frozenset(
            i
            for i, c in enumerate(program.layers)
            if c.op == "matmul" and not c.attrs["static_b"] and not design.attention_differences
        )

    def choose(self, layer: int, temporal_possible: bool, alone: Callable[[Mode], int]) -> Mode:
        base, policy = self.design.base_mode, self.design.policy
        if layer in self._differences:
            return "temporal"
        if policy == "base" or not temporal_possible or layer in self._temporal_forbidden:
            return base
        if policy == "temporal":
            return "temporal"
        if self.table is not None:
            return "temporal" if self.table.wants_temporal(layer) else base
        return "temporal" if alone("temporal") < alone(base) else base

    def keeps_state(self, step: int, layer: int, mode: Mode) -> bool:
        if self.design.policy == "base" or layer in self._temporal_forbidden | self._stateless:
            return False
        if mode == "temporal" or step == 0:
            return True
        if self.table is None:  # an oracle knows beforehand; the others are here because they were forced
            return self.design.policy != "ideal"
        entry = self.table.entries[layer]
        return entry.phase != "frozen" or entry.temporal

    def count(self, layer: int, mode: Mode, cycles: int) -> None:
        if self.table is not None and layer not in self._temporal_forbidden | self._differences:
            self.table.observe(layer, mode == "temporal", cycles, self.design.policy == "dynamic")

    def judged(self, layer: int) -> bool:
        """Whether the layer's mode is by now a decision, right or wrong, and not a measurement."""
        if layer in self._differences:
            return False
        if self.table is None:
            return self.design.policy == "ideal" and layer not in self._temporal_forbidden
        return self.table.entries[layer].phase == "frozen"

    @property
    def decided(self) -> bool:
        """Whether nothing that is counted from now on changes a decision."""
        if self.table is None:
            return True
        free = self._temporal_forbidden | self._differences
        frozen = all(self.judged(i) or i in free for i in range(len(self.table.entries)))
        return frozen and self.design.policy != "dynamic"

    @property
    def decisions(self) -> list[dict[str, int | bool | str]]:
        return self.table.dump() if self.table is not None else []

    def snapshot(self) -> dict[str, bytes]:
        return {} if self.table is None else {"defo": self.table.snapshot()}

    def restore(self, data: Mapping[str, Any]) -> None:
        if self.table is not None:
            self.table.restore(data["defo"])

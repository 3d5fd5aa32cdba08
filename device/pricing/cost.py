"""What a price is: one layer's time in one step, the same for many steps as columns, and what they are made from.

Interface: `LayerTime`, `StepTime`, `Choice`; `LaneColumns`, `GroupColumns` (arrays with one entry a step);
`stack(works)` -> `Stack`s. What this file does not do: compute any of it (`pricer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.record import TRAFFIC, LayerRecord, SubOp, Work

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Bound = Literal["lanes", "vector", "dram"]
BOUNDS: tuple[Bound, ...] = ("lanes", "vector", "dram")

UNITS = ("encode", "compute", "weight_load", "vector", "dram")
STALLS = ("encode", "weight_load", "vector", "dram", "fill")
ENERGY = ("compute", "encode", "vector", "defo", "sram", "dram")


class PricingError(DittoError):
    """A record that does not fit the program, chip or design it is priced under."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all elements."""

    zero: float
    low: float
    full: float


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
    """Why the PEs were not working: `STALLS`. Total = compute + Σ stalls."""
    imbalance_cycles: int
    """How much longer the slowest tile took than the average one; part of the lanes' stage."""
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
class LaneColumns:
    """The lanes' stage of one layer and mode, one entry a step."""

    total: I64
    busy: I64
    starved: I64
    weight_load: I64
    encode: I64
    imbalance: I64
    products: I64
    """Multiplier operations."""
    encoded: I64
    """Elements through the encoder."""


@dataclass(frozen=True, slots=True)
class GroupColumns:
    """`LayerTime` of one layer and mode for many steps: every array has one entry a step."""

    layer: int
    name: str
    mode: Mode
    total: I64
    units: Mapping[str, I64]
    stalls: Mapping[str, I64]
    imbalance: I64
    traffic: Mapping[str, I64]
    energy: Mapping[str, F64]
    bound: I64
    measured: Bools

    def at(self, i: int) -> LayerTime:
        return LayerTime(
            self.layer,
            self.name,
            self.mode,
            int(self.total[i]),
            {u: int(c[i]) for u, c in self.units.items()},
            {s: int(c[i]) for s, c in self.stalls.items()},
            int(self.imbalance[i]),
            {t: int(c[i]) for t, c in self.traffic.items()},
            {e: float(c[i]) for e, c in self.energy.items()},
            BOUNDS[int(self.bound[i])],
            bool(self.measured[i]),
        )


@dataclass(frozen=True, slots=True)
class Stack:
    """One work in many steps."""

    work: Work
    splits: tuple[int, ...]
    slots: npt.NDArray[np.uint16] | None
    """[steps, chunks, groups × rows]"""
    classes: I64
    """[steps, zero | low | full]"""
    slot_total: I64


def stack(works: Sequence[tuple[SubOp, ...]]) -> tuple[Stack, ...]:
    """Stacks the works of many steps, which must be of one shape."""
    made = []
    for steps in zip(*works, strict=True):
        first = steps[0]
        if any(s.work != first.work or s.splits != first.splits for s in steps):
            raise PricingError(f"record: steps disagree on the shape of a work that began as {first.work}")
        slots = None if first.slots is None else np.stack([s.slots for s in steps if s.slots is not None])
        classes = np.array([(s.zero, s.low, s.full) for s in steps], np.int64).reshape(-1, 3)
        total = np.array([s.slot_total for s in steps], np.int64)
        made.append(Stack(first.work, first.splits, slots, classes, total))
    return tuple(made)

# SPDX-License-Identifier: Apache-2.0
"""What a price is made of, and what it is.

Interface
    LaneColumns        the lanes' stage of one layer and mode, one entry a step (or any other shape)
    GroupCost          what a group moves and what the vector unit does in a mode, whatever its data
    LayerTime          one layer's price in one step, as a live run reports it
    stack(works)       -> `Stack`s: one work in many steps

What this file does not do: compute any of it (`pricer.py`, `contracts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.timing.lanes import CAUSES
from ditto_cosim.device.timing.traffic import Group
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.record import TRAFFIC, SubOp, Work

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]
Bound = Literal["lanes", "vector", "dram"]
BOUNDS: tuple[Bound, ...] = ("lanes", "vector", "dram")

UNITS = ("encode", "compute", "weight_load", "vector", "dram")
STALLS = CAUSES[1:]
ENERGY = ("compute", "encode", "vector", "defo", "lane_memory", "sram", "dram", "leakage")


class PricingError(DittoError):
    """A record that does not fit the program, chip or design it is priced under."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all elements."""

    zero: float
    low: float
    full: float


@dataclass(frozen=True, slots=True)
class LaneColumns:
    """The lanes' stage."""

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

    @classmethod
    def none(cls, *shape: int) -> LaneColumns:
        """Of a group without a layer."""
        return cls(*np.zeros((8, *shape), np.int64))

    @property
    def columns(self) -> tuple[I64, ...]:
        """In the order of the fields."""
        return (
            *(self.total, self.busy, self.starved, self.weight_load),
            *(self.encode, self.imbalance, self.products, self.encoded),
        )

    def measured(self, cycles: I64) -> LaneColumns:
        """With the lanes' cycles as hardware or RTL counted them."""
        busy = np.minimum(self.busy, cycles)
        load = np.minimum(self.weight_load, cycles - busy)
        return LaneColumns(
            cycles, busy, cycles - busy - load, load, self.encode, self.imbalance, self.products, self.encoded
        )


@dataclass(frozen=True, slots=True)
class GroupCost:
    """A group in a mode."""

    group: Group
    mode: Mode
    early_bytes: int
    late_bytes: int
    out_bytes: int
    largest_part_bytes: int
    """Of early, late (in each pass) and results, wherever they lie: what the number of chunks follows, so that what stays on
    the chip streams as finely as what does not."""
    traffic: tuple[int, ...]
    """DRAM bytes in the order of `TRAFFIC`."""
    dram_cycles: int
    """What the memory alone takes for them."""
    streamed_cycles: int
    after_cycles: int
    """Of the vector unit, behind a reduction over the whole result."""
    vector_elements: int
    through_bytes: int
    """Between buffer and lanes."""
    sram_bytes: int
    """In and out of the buffer, everything."""
    passes: int
    """Of the lanes over the rows before a result exists."""
    macs: int
    kernels: int
    """Commands that a machine without our units would launch."""
    lane_write_bytes: int = 0
    """Weights into every lane that holds them, one copy."""

    @property
    def bytes(self) -> int:
        return self.early_bytes + self.late_bytes + self.out_bytes

    @property
    def vector_cycles(self) -> int:
        return self.streamed_cycles + self.after_cycles


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer's group in one step."""

    layer: int | None
    """Position among the program's layers; None: what comes before the first."""
    name: str
    mode: Mode
    total_cycles: int
    """From the end of the group before to its own."""
    lane_cycles: int
    """Of the lanes' stage alone."""
    unit_cycles: Mapping[str, int]
    """Busy cycles of each of `UNITS`, for this layer; they overlap, so they do not add up to the total. `compute`: the PEs at
    work between the group's ends, which may be for the next layer."""
    stall_cycles: Mapping[str, int]
    """Why the PEs were not working: `STALLS`. Total = compute + Σ stalls."""
    traffic_bytes: Mapping[str, int]
    """DRAM bytes by class (`protocol.record.TRAFFIC`)."""
    measured: bool
    """The lanes' cycles come from hardware or RTL, not from the contract."""

    @property
    def traffic(self) -> tuple[int, ...]:
        """In the order of `TRAFFIC`, as a record keeps it."""
        return tuple(self.traffic_bytes[c] for c in TRAFFIC)


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
    channels: I64 | None = None
    """[steps, counts, channels] of a block-scaled product (`timing/hetero.py`); None of any other."""
    pixels: int = 0
    """Codes of one of its channels."""
    ran: bool = False
    """One step of a live run: its tags are those that it ran with. Otherwise the steps are a record's, from 0 on."""


def stack(works: Sequence[tuple[SubOp, ...]], *, ran: bool = False) -> tuple[Stack, ...]:
    """Stacks the works of many steps, which must be of one shape."""
    made = []
    for steps in zip(*works, strict=True):
        first = steps[0]
        if any(s.work != first.work or s.splits != first.splits for s in steps):
            raise PricingError(f"record: steps disagree on the shape of a work that began as {first.work}")
        slots = None if first.slots is None else np.stack([s.slots for s in steps if s.slots is not None])
        classes = np.array([(s.zero, s.low, s.full) for s in steps], np.int64).reshape(-1, 3)
        total = np.array([s.slot_total for s in steps], np.int64)
        channels = None
        if first.channels is not None:
            channels = np.stack([s.channels for s in steps if s.channels is not None]).astype(np.int64)
        made.append(Stack(first.work, first.splits, slots, classes, total, channels, ran=ran))
    return tuple(made)

# SPDX-License-Identifier: Apache-2.0
"""Datapaths: how elements become multiplier operations, and operations cycles of the lanes.

Interface
    datapath_of(design, chip) -> Datapath
        .as_built                    whether its lanes are the chip's own, so that measured cycles are theirs
        .lanes(stack, mode)          -> LaneColumns of one work, one entry a step
        .meter(work)                 -> Meter: the same of one step of a live run, in one call, or None

Contract, operations a work needs for one output column, by the classes of its elements:
    slots     low + 2 full          4b×8b multipliers behind Ditto's encoder; original: two for every element
    dense8    every element one     8b×8b multipliers
    sparse8   low + full            8b×8b multipliers that skip zeros; original: every element
    low4      zero + low + 2 full   4b×8b multipliers that skip nothing; original: two for every element
    outlier   zero + low            4b×8b multipliers; full ones on 8b×8b outlier PEs beside them, the slower side sets the time
    hetero    every element in a dense channel, codes other than 0 in a sparse one: `timing/hetero.py`
    On a chip's lanes (`timing/schedule.py`) a datapath that is not Ditto's takes the same schedule with its own operations in
    place of the slots, stretched by its share of the chip's multipliers; loading weights is never stretched. In aggregate:
    operations × columns ÷ multipliers, rounded up.

What this file does not do: DRAM, the vector unit, modes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import PAPER_MULTIPLIERS, Design
from ditto_cosim.device.pricing.cost import I64, LaneColumns, Stack
from ditto_cosim.device.timing import hetero, schedule
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.record import Work, split_k


class Datapath(ABC):
    """See the file's header."""

    as_built = False

    def __init__(self, design: Design, chip: Chip) -> None:
        self.design, self.chip = design, chip
        self.multipliers = design.multipliers_on(chip.multipliers)
        self.aggregate = chip.timing == "paper" or design.roofline is not None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys, equal lanes."""
        chip = self.chip
        of_chip = chip.timing, chip.geometry, chip.tiles, chip.multipliers, chip.adders
        return *of_chip, self.design.datapath, self.multipliers, self.design.outlier_multipliers

    @abstractmethod
    def operations(self, met: Stack) -> I64:
        """Of one output column."""

    def lanes(self, met: Stack, mode: Mode) -> LaneColumns:
        """One work's stage."""
        steps, work = len(met.classes), met.work
        operations = self.operations(met)
        cycles = self._aggregate(operations * work.n) if self.aggregate else self._on_lanes(met, operations)
        elements = work.groups * work.rows * work.k * self._encoders(met.work) if mode != "original" else 0
        columns = (
            *(cycles.total, cycles.busy, cycles.starved, cycles.weight_load, cycles.encode, cycles.imbalance),
            *(operations * work.n, np.full(steps, elements, np.int64)),
        )
        return LaneColumns(*(c if c.shape == (steps,) else np.broadcast_to(c, (steps,)) for c in columns))

    def meter(self, work: Work) -> Meter | None:
        """Where the lanes are not as built, or there is no compiler, there is none."""
        return None

    def _encoders(self, work: Work) -> int:
        """How many encode each row: those of every tile that has other columns of it, and again for every pass."""
        if self.aggregate:
            return 1
        plan = schedule.schedule(self.chip.geometry, self.chip.tiles, work, self.chip.adders)
        return sum(len(plan.passes(blocks)) for blocks in plan.block_shares)

    def _aggregate(self, products: I64) -> schedule.ComputeCycles:
        busy = schedule.aggregate_cycles(products, self.multipliers)
        none = np.zeros_like(busy)
        return schedule.ComputeCycles(busy, busy, none, none, none, none)

    def _on_lanes(self, met: Stack, operations: I64) -> schedule.ComputeCycles:
        work, geometry, tiles = met.work, self.chip.geometry, self.chip.tiles
        stretch = self.chip.multipliers / self.multipliers
        if met.slots is None:
            cycles = schedule.dense_cycles(geometry, tiles, work, self.chip.adders)
            stretch *= self._dense_share(operations, met)
        else:
            slots: npt.NDArray[np.integer] = met.slots
            if met.splits != split_k(work.k, geometry.k_max):
                slots = schedule.resplit(slots, work.k, split_k(work.k, geometry.k_max))
            in_place = self._in_place(slots, operations, met)
            cycles = schedule.work_cycles(geometry, tiles, work, in_place, self.chip.adders)
        return cycles if stretch == 1 else _stretched(cycles, stretch)

    def _dense_share(self, operations: I64, met: Stack) -> float:
        return int(operations[0]) / int(met.slot_total[0])

    def _in_place(
        self, slots: npt.NDArray[np.integer], operations: I64, met: Stack
    ) -> npt.NDArray[np.integer]:
        """Operations in the place of slots, row by row."""
        share = (operations / np.maximum(met.slot_total, 1))[:, None, None]
        return np.rint(slots * share).astype(np.int64)


class Meter:
    """The lanes' stage of one work whose elements are classified, step by step of a live run."""

    def __init__(self, chip: Chip, work: Work, encoders: int) -> None:
        plan = schedule.schedule(chip.geometry, chip.tiles, work, chip.adders)
        self.splits = split_k(work.k, chip.geometry.k_max)
        self._n, self._tiles = work.n, chip.tiles
        self._alike = plan.column_tiles
        self._encoded = work.groups * work.rows * work.k * encoders
        self._described = schedule.describe(plan, self.splits)

    def __call__(self, slots: npt.NDArray[np.uint16], slot_total: int) -> I64:
        """In the order of `LaneColumns`."""
        total, busy, load, encode, used = schedule.step_cycles(self._described, slots)
        idle = total - used * self._alike // self._tiles
        products = slot_total * self._n
        return np.array([total, busy, total - busy - load, load, encode, idle, products, self._encoded])


class Slots(Datapath):
    as_built = True

    def meter(self, work: Work) -> Meter | None:
        if self.aggregate or self.multipliers != self.chip.multipliers or not schedule.compiled():
            return None
        return Meter(self.chip, work, self._encoders(work))

    def operations(self, met: Stack) -> I64:
        return met.slot_total

    def _dense_share(self, operations: I64, met: Stack) -> float:
        return 1.0

    def _in_place(
        self, slots: npt.NDArray[np.integer], operations: I64, met: Stack
    ) -> npt.NDArray[np.integer]:
        return slots


class Dense8(Datapath):
    def operations(self, met: Stack) -> I64:
        every: I64 = met.classes.sum(axis=1)
        return every


class Sparse8(Datapath):
    def operations(self, met: Stack) -> I64:
        skipped = 0 if met.slots is None else 1
        kept: I64 = met.classes[:, skipped:].sum(axis=1)
        return kept


class Low4(Datapath):
    def operations(self, met: Stack) -> I64:
        return met.slot_total if met.slots is None else met.classes @ np.array([1, 1, 2])


class Hetero(Datapath):
    """The two arrays of `timing/hetero.py`. Layers that are not block-scaled are 8-bit ones."""

    def __init__(self, design: Design, chip: Chip) -> None:
        super().__init__(design, chip)
        assert design.hetero is not None
        self.hetero = design.hetero
        self.dense, self.sparse = design.arrays_on(chip.multipliers)

    @property
    def key(self) -> tuple[object, ...]:
        return *super().key, self.hetero

    def operations(self, met: Stack) -> I64:
        every: I64 = met.classes.sum(axis=1)
        return every

    def cost(self, met: Stack) -> int:
        """Multiplier cycles of a product."""
        if self.hetero.operand_bits == 16:
            return 4
        return 1 if met.channels is not None else 2

    def tags(self, met: Stack) -> npt.NDArray[np.bool_]:
        """[steps, channels]"""
        assert met.channels is not None
        if met.ran:
            found: npt.NDArray[np.bool_] = met.channels[:, hetero.TAGS] > 0
            return found
        if self.hetero.arrays != "both":
            return np.full(met.channels[:, 0].shape, self.hetero.arrays == "sparse")
        return self.hetero.detector.tags(met.channels[:, hetero.NONZERO], met.pixels)

    def arrays(self, met: Stack) -> hetero.Arrays:
        """What each array does, one entry a step."""
        work, cost = met.work, self.cost(met)
        elements = np.full(len(met.classes), work.groups * work.rows * work.k, np.int64)
        if met.channels is None:  # 8 bits: no zero is skipped
            every = elements * work.n
            sparse = np.zeros_like(every)
            if self.hetero.arrays == "sparse":
                sparse = every
            elif self.hetero.arrays == "both" and self.hetero.eight_bits == "both":
                sparse = every * self.sparse // (self.dense + self.sparse)
            return hetero.arrays(every - sparse, sparse, cost, self.dense, self.sparse)
        tags, channels = self.tags(met), met.channels.shape[2]
        dense = (~tags).sum(axis=1) * (elements // channels)
        sparse = (met.channels[:, hetero.PRODUCTS] * tags).sum(axis=1)
        return hetero.arrays(dense * work.n, sparse * work.n, cost, self.dense, self.sparse)

    def lanes(self, met: Stack, mode: Mode) -> LaneColumns:
        done, cost = self.arrays(met), self.cost(met)
        none = np.zeros_like(done.total)
        waits = np.abs(done.dense_cycles - done.sparse_cycles) if self.hetero.arrays == "both" else none
        products = (done.dense_products + done.sparse_products) * cost
        encoded = none if met.channels is None else met.channels[:, hetero.NONZERO].sum(axis=1)
        return LaneColumns(done.total, done.total, none, none, none, waits, products, encoded)


class Outlier(Datapath):
    def operations(self, met: Stack) -> I64:
        normal: I64 = met.classes[:, :2].sum(axis=1)
        return normal

    def lanes(self, met: Stack, mode: Mode) -> LaneColumns:
        normal = super().lanes(met, mode)
        share = self.design.outlier_multipliers * self.chip.multipliers / PAPER_MULTIPLIERS
        outliers = schedule.aggregate_cycles(met.classes[:, 2] * met.work.n, max(1, round(share)))
        longer = np.maximum(outliers - normal.total, 0)
        return replace(normal, total=normal.total + longer, busy=normal.busy + longer)


DATAPATHS: Mapping[str, type[Datapath]] = {
    "slots": Slots,
    "dense8": Dense8,
    "sparse8": Sparse8,
    "low4": Low4,
    "outlier": Outlier,
    "hetero": Hetero,
    "roofline": Dense8,
}


def datapath_of(design: Design, chip: Chip) -> Datapath:
    return DATAPATHS[design.datapath](design, chip)


def _stretched(cycles: schedule.ComputeCycles, by: float) -> schedule.ComputeCycles:
    total, busy, encode, imbalance = (
        np.ceil(part * by).astype(np.int64)
        for part in (cycles.total, cycles.busy, cycles.encode, cycles.imbalance)
    )
    load = np.minimum(cycles.weight_load, total - busy)
    return schedule.ComputeCycles(total, busy, total - busy - load, load, encode, imbalance)

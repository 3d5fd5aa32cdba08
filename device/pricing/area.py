# SPDX-License-Identifier: Apache-2.0
"""Area, leakage and peak power of a chip under a design, part by part, and what its memories take for a byte.

Interface
    area(chip, design) -> Area          .parts (mm², watts that leak, whose figure), .mm2, .leakage_w
    peak_power_w(chip, design)          with every unit at work in every cycle: an upper end, which no run reaches
    port_copies(design)                 copies of a lane's weights that its read ports need
    buffer_pj_per_byte(chip)            the buffer's, by its size
    lane_pj_per_byte(chip)              (read, write) of one copy of a lane's weights
    memories_of(chip, design)           what energy needs of all this; None under the `paper` preset and for rooflines
    Sram(nbytes)                        area, energies and leakage of one memory
    SILICON                             the figures, each with source, node and word (`silicon.toml`)

Contract, at 45 nm:
    buffer        one memory of its size
    lane memory   tiles × lanes × weight banks × copies × (k_max × n_max bytes), in macros of k_max rows × 64 bytes. Four weights
                  of any k are read in a cycle where zeros are skipped: four copies with a port each. Designs that take every
                  element read neighbours, so one copy serves them.
    multipliers   the paper's 64.48 mm² by the chip's share of the paper's multipliers: iso-area, for every design alike
    encoder       one for each lane, by its width, and two banks of slots behind it; designs that know no differences have none
    vector, PHY   by lanes, by channels
    leakage       of memories by size, of logic by area

What this file does not do: count events (`recorded.py`), floor-plan, or add wires between parts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from math import ceil, exp, log
from typing import Any, Literal

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import PAPER_MULTIPLIERS, Design
from ditto_cosim.device.pricing.energy import TABLE, MemoryCosts

Word = Literal["sourced", "scaled", "ours"]
ACCESS_BYTES = 64
DEFO_BYTES = 512 * 33 // 8
SLOT_BYTES = 8
"""A slot has 16 bits, an element up to two, and there are two banks."""


@cache
def _silicon() -> Mapping[str, Any]:
    text = resources.files("ditto_cosim.device.pricing").joinpath("silicon.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


SILICON: Mapping[str, Any] = _silicon()


@dataclass(frozen=True)
class Sram:
    """One memory. Between two sizes of the table logarithms are interpolated; below the smallest it is that one."""

    nbytes: int

    def _figure(self, column: int) -> float:
        points = SILICON["sram"]["points"]
        size = min(max(self.nbytes, points[0][0]), points[-1][0])
        above = next(i for i, p in enumerate(points) if p[0] >= size)
        if above == 0:
            return float(points[0][column])
        low, high = points[above - 1], points[above]
        at = log(size / low[0]) / log(high[0] / low[0])
        return exp(log(low[column]) + at * log(high[column] / low[column]))

    @property
    def banks(self) -> int:
        """MemoryCosts larger than the table are several of its largest."""
        largest: int = SILICON["sram"]["points"][-1][0]
        return max(1, ceil(self.nbytes / largest))

    @cached_property
    def mm2(self) -> float:
        return self.banks * self._figure(1)

    @cached_property
    def read_pj_per_byte(self) -> float:
        return self._figure(2) * 1000 / ACCESS_BYTES

    @cached_property
    def write_pj_per_byte(self) -> float:
        return self._figure(3) * 1000 / ACCESS_BYTES

    @cached_property
    def leakage_w(self) -> float:
        return self.banks * self._figure(4) / 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of thing on the chip."""

    name: str
    mm2: float
    leakage_w: float
    word: Word
    source: str


@dataclass(frozen=True)
class Area:
    """A chip under a design."""

    parts: tuple[Part, ...]

    @property
    def mm2(self) -> float:
        return sum(p.mm2 for p in self.parts)

    @property
    def leakage_w(self) -> float:
        return sum(p.leakage_w for p in self.parts)


def port_copies(design: Design) -> float:
    """Where zeros are skipped, four weights of any k are read at once."""
    if design.hetero is not None:
        dense, sparse = design.hetero.multipliers(PAPER_MULTIPLIERS)
        return (dense + 4 * sparse) / (dense + sparse)
    return 4.0 if design.datapath in ("slots", "sparse8") else 1.0


def _macro(chip: Chip) -> Sram:
    return Sram(chip.geometry.k_max * ACCESS_BYTES)


def lane_pj_per_byte(chip: Chip) -> tuple[float, float]:
    macro = _macro(chip)
    return macro.read_pj_per_byte, macro.write_pj_per_byte


def buffer_pj_per_byte(chip: Chip) -> float:
    """Reads and writes alike: their mean."""
    buffer = Sram(chip.buffer_bytes)
    return (buffer.read_pj_per_byte + buffer.write_pj_per_byte) / 2


def memories_of(chip: Chip, design: Design) -> MemoryCosts | None:
    if chip.timing == "paper" or design.roofline is not None:
        return None
    read, write = lane_pj_per_byte(chip)
    return MemoryCosts(buffer_pj_per_byte(chip), read, write, area(chip, design).leakage_w)


@lru_cache(maxsize=4096)
def _area(chip: Chip, copies: float, encodes: bool, defo: bool) -> Area:
    geometry, s = chip.geometry, SILICON
    leak = s["logic_leakage"]["mw_per_mm2"] / 1000

    def logic(name: str, table: str, mm2: float) -> Part:
        return Part(name, mm2, mm2 * leak, s[table]["word"], s[table]["source"])

    def memory(name: str, table: str, each: Sram, count: float) -> Part:
        return Part(name, each.mm2 * count, each.leakage_w * count, s[table]["word"], s[table]["source"])

    macros = geometry.weight_banks * geometry.n_max / ACCESS_BYTES
    parts = [
        memory("buffer", "sram", Sram(chip.buffer_bytes), 1),
        memory("lane memory", "lane_memory", _macro(chip), chip.lanes * macros * copies),
        logic(
            "multipliers", "multipliers", s["multipliers"]["core_mm2"] * chip.multipliers / PAPER_MULTIPLIERS
        ),
        logic("vector unit", "vector", s["vector"]["mm2_per_lane"] * chip.vector_lanes),
        logic("DRAM PHY", "phy", s["phy"]["mm2_per_channel"] * chip.dram.channels),
    ]
    if encodes:
        width = chip.lanes * geometry.encode_width
        parts.insert(3, logic("encoders", "encoder", s["encoder"]["mm2_per_element"] * width))
        parts.insert(4, memory("slot buffers", "slot_buffer", Sram(SLOT_BYTES * geometry.k_max), chip.lanes))
    if defo:
        parts.append(memory("Defo's table", "sram", Sram(DEFO_BYTES), 1))
    return Area(tuple(parts))


def area(chip: Chip, design: Design) -> Area:
    """Of a design with a roofline: none of it, it is not a chip of ours."""
    if design.roofline is not None:
        return Area(())
    differs = design.policy != "base" or design.base_mode != "original" or design.hetero is not None
    return _area(chip, port_copies(design), differs, design.policy in ("defo", "dynamic"))


def peak_power_w(chip: Chip, design: Design) -> float:
    """Every multiplier, encoder, vector lane and DRAM channel at work in every cycle."""
    if design.roofline is not None:
        return design.power_watts
    hz = chip.clock_ghz * 1e9
    products = design.multipliers_on(chip.multipliers)
    read_pj, _ = lane_pj_per_byte(chip)
    compute_pj = products * (design.power_watts * 1000 / design.multipliers + read_pj)
    encode_pj = chip.lanes * chip.geometry.encode_width * TABLE["encode"].picojoules
    vector_pj = chip.vector_lanes * TABLE["vector"].picojoules
    moved = chip.dram.peak_bytes_per_cycle(chip.clock_mhz)
    dram_pj = moved * (8 * TABLE["dram"].picojoules + 2 * buffer_pj_per_byte(chip))
    return (compute_pj + encode_pj + vector_pj + dram_pj) * hz / 1e12 + area(chip, design).leakage_w

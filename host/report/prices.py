# SPDX-License-Identifier: Apache-2.0
"""What pricing found out about a run, as plain data beside it: `prices.json`, from which the report draws.

    prices = load_prices(directory)         None where nobody has priced the run
    save_prices(prices, directory)

The report does not price: who may see the pricing (`ditto_cosim/appraisal.py`) fills this in. Cycles are the chip's,
energies picojoules, bandwidths bytes a cycle.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ditto_cosim.protocol.files import write_text

PRICES = "prices.json"
SCHEMA, VERSION = "ditto.prices", 1


class DesignPrice(msgspec.Struct, frozen=True, kw_only=True):
    """The run under one design, on its own chip."""

    name: str
    title: str
    cycles: int
    energy_pj: dict[str, float]
    """By unit."""
    dram_bytes: int
    computing: float
    """Share of the cycles in which the PEs work."""
    waits: dict[str, float]
    """Share by cause."""
    temporal: float
    """Share of (layer, step) that ran on differences."""
    area_mm2: float = 0.0
    """Of this design's chip; 0: nobody has an area of its own for it."""

    @property
    def total_pj(self) -> float:
        return sum(self.energy_pj.values())


class LayerPrice(msgspec.Struct, frozen=True, kw_only=True):
    """A layer over the whole run."""

    macs: int
    products: int
    """4 b × 8 b multiplications that its slots made."""
    dram_bytes: int
    cycles: int


class StepSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One step over time, in equal bins."""

    step: int
    at_cycles: list[int]
    dram_bytes_per_cycle: list[float]
    held_bytes: dict[str, list[int]]
    """Most that each part of the buffer held in a bin."""
    rooms_bytes: dict[str, int]
    """Size of those parts."""


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The run on another chip."""

    design: str
    tiles: int
    bytes_per_cycle: float
    buffer_mb: float
    """0: everything streams."""
    cycles: int
    energy_pj: float


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """The same run's design against ITC on a chip that ships."""

    chip: str
    speedup: float
    energy: float


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """The 4-bit layers of the run at one threshold."""

    dense_share: float
    """Of the multipliers."""
    threshold: float
    speedup: float
    """Over one dense array."""


class BothArrays(msgspec.Struct, frozen=True, kw_only=True):
    """SQ-DM's arrays in this run, its 4-bit layers alone."""

    threshold: float
    """The run's own."""
    dense_busy: list[float]
    """Step by step, of the time between barriers."""
    sparse_busy: list[float]
    thresholds: list[Threshold]


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Everything priced."""

    schema: str = SCHEMA
    version: int = VERSION
    design: str
    """The run's own: one of `designs`."""
    chip: str
    clock_hz: int
    multipliers: int
    peak_bytes_per_cycle: float
    area_mm2: float
    """The paper's figure, the same for every design …"""
    area_source: str
    """… and where it is from."""
    equals_run: bool | None
    """Whether the price of the run's own design is what the run charged; None where it was not asked."""
    designs: list[DesignPrice]
    layers: list[LayerPrice]
    elsewhere: list[Elsewhere] = []
    series: StepSeries | None = None
    what_if: list[WhatIf] = []
    two_arrays: BothArrays | None = None
    """Only where the run's own design has both."""

    def of(self, name: str) -> DesignPrice | None:
        return next((d for d in self.designs if d.name == name), None)

    @property
    def own(self) -> DesignPrice:
        found = self.of(self.design)
        assert found is not None, "the run's own design is always priced"
        return found


def save_prices(prices: Prices, directory: Path) -> Path:
    write_text(directory / PRICES, msgspec.json.encode(prices).decode())
    return directory / PRICES


def load_prices(directory: Path) -> Prices | None:
    """None where there are none, or of another version: they can always be made again."""
    try:
        found = msgspec.json.decode((directory / PRICES).read_bytes(), type=Prices)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if found.version == VERSION else None

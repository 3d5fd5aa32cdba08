"""Energy: one table of energies per event, and what a layer's events come to.

What this file does not do: count the events (`pricing.py`) or synthesise anything; every entry names its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import PAPER_MULTIPLIERS, Design

DRAM_PJ_PER_BIT = 3.9
"""HBM2 access, O'Connor et al., MICRO 2017."""
SRAM_PJ_PER_BYTE = 1.25
"""Large banked SRAM at 45 nm, order of CACTI's answer for 192 MB in small banks."""
VECTOR_PJ_PER_ELEMENT = 1.5
"""One fp32 multiply-add at 45 nm with its registers, Horowitz, ISSCC 2014."""
ENCODE_PJ_PER_ELEMENT = 0.2
"""An 8-bit subtraction, two comparisons and a queue write at 45 nm, Horowitz, ISSCC 2014."""


@dataclass(frozen=True, slots=True)
class Events:
    """What happened in one group."""

    products: int
    encoded: int
    vector_elements: int
    dram_bytes: int
    sram_bytes: int
    cycles: int
    compute_cycles: int


def energy_pj(events: Events, design: Design, chip: Chip) -> dict[str, float]:
    """Energy by unit, in picojoules."""
    watts = design.power_watts * chip.multipliers / PAPER_MULTIPLIERS
    return {
        "compute": events.compute_cycles * watts * 1000 / chip.clock_ghz,
        "encode": events.encoded * ENCODE_PJ_PER_ELEMENT,
        "vector": events.vector_elements * VECTOR_PJ_PER_ELEMENT,
        "sram": events.sram_bytes * SRAM_PJ_PER_BYTE,
        "dram": events.dram_bytes * 8 * DRAM_PJ_PER_BIT,
    }

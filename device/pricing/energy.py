# SPDX-License-Identifier: Apache-2.0
"""Energy and area: one table of energies per event with their sources, and what a group's events come to.

Contract
    compute  multiplier operations × (Table III's power ÷ its multipliers ÷ 1 GHz): busy multipliers only. The `paper` preset
             draws that power for as long as a layer takes ("due to reduced execution times", §VI-B), a roofline as long as
             it runs
    encode   elements that pass the encoder
    vector   elements × passes in the vector unit
    sram     bytes to and from the large buffer: DMA in and out, encoder reads (two operands in temporal and spatial mode),
             weights into the lanes, accumulators out, partial sums out and back
    dram     bits moved
    defo     table accesses
Area: Table III's 64.48 mm² is the same for every design by construction (iso-area), so only shares are printed.

What this file does not do: count the events (`recorded.py`) or synthesise anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.designs.base import Design

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]

AREA_MM2 = 64.48
"""Every design of Table III, 192 MB of SRAM included or not: the paper does not say."""


@dataclass(frozen=True, slots=True)
class Energy:
    """One event's energy and where the figure comes from."""

    picojoules: float
    unit: str
    source: str


TABLE: Mapping[str, Energy] = {
    "dram": Energy(3.9, "pJ/bit", "HBM2 access: O'Connor et al., Fine-Grained DRAM, MICRO 2017"),
    "sram": Energy(
        8.0,
        "pJ/byte",
        "45 nm SRAM of tens of megabytes in banks, 64-byte access of about 0.5 nJ: CACTI 6 class of result",
    ),
    "encode": Energy(
        0.2, "pJ/element", "45 nm: 8-bit subtraction, two compares, a queue write: Horowitz, ISSCC 2014"
    ),
    "vector": Energy(4.6, "pJ/element", "45 nm: one fp32 multiply (3.7) and add (0.9): Horowitz, ISSCC 2014"),
    "defo": Energy(2.0, "pJ/access", "45 nm: one read and one write of a 2 KB SRAM: Horowitz, ISSCC 2014"),
}


@dataclass(frozen=True, slots=True)
class Events:
    """What happened, in arrays of one shape."""

    products: I64
    encoded: I64
    vector_elements: I64
    dram_bytes: I64
    sram_bytes: I64


def energy_pj(events: Events, design: Design) -> dict[str, F64]:
    """Energy by unit, in picojoules."""
    product_pj = design.power_watts * 1000 / design.multipliers
    defo = 2.0 if design.policy in ("defo", "dynamic") else 0.0
    return {
        "compute": events.products * product_pj,
        "encode": events.encoded * TABLE["encode"].picojoules,
        "vector": events.vector_elements * TABLE["vector"].picojoules,
        "defo": defo * TABLE["defo"].picojoules + np.zeros(events.products.shape),
        "sram": events.sram_bytes * TABLE["sram"].picojoules,
        "dram": events.dram_bytes * 8 * TABLE["dram"].picojoules,
    }

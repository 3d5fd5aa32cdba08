# SPDX-License-Identifier: Apache-2.0
"""Energy: one table of energies per event with their sources, and what a group's events come to.

Contract
    compute  multiplier operations × (Table III's power ÷ its multipliers ÷ 1 GHz): busy multipliers only. The `paper` preset
             draws that power for as long as a layer takes ("due to reduced execution times", §VI-B), a roofline as long as
             it runs
    encode   elements that pass an encoder, once for each that encodes them
    vector   elements × passes in the vector unit
    sram     bytes to and from the large buffer: DMA in and out, encoder reads (two operands in temporal and spatial mode),
             weights into the lanes, accumulators out, partial sums out and back
    dram     bits moved
    defo     table accesses
    lane_memory   a weight's byte for every product, and its writing into every lane that holds a copy (`MemoryCosts`)
    leakage  watts × time (`MemoryCosts`)
`MemoryCosts` says what a chip's own memories take, by their size (`area.py`). Without them, as under the `paper` preset, whose
64.48 mm² cannot hold its 192 MB, the buffer has the one figure below, and lanes and leakage are in Table III's power.

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
"""The core of every design of Table III; 192 MB of SRAM take 630 mm² and more at its node, so they are not in it."""


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
    lane_write_bytes: I64 | None = None
    busy_ns: F64 | None = None
    """From the end of the group before to its own."""


@dataclass(frozen=True, slots=True)
class MemoryCosts:
    """What a chip's memories take."""

    buffer_pj_per_byte: float
    lane_read_pj_per_byte: float
    lane_write_pj_per_byte: float
    leakage_w: float
    """Of the whole chip."""


def energy_pj(events: Events, design: Design, memories: MemoryCosts | None = None) -> dict[str, F64]:
    """Energy by unit, in picojoules."""
    none: F64 = np.zeros(events.products.shape)
    buffer_pj = TABLE["sram"].picojoules
    lanes, leakage = none, none
    if memories is not None:
        buffer_pj = memories.buffer_pj_per_byte
        if events.lane_write_bytes is not None:
            lanes = events.products * memories.lane_read_pj_per_byte
            lanes = lanes + events.lane_write_bytes * memories.lane_write_pj_per_byte
        if events.busy_ns is not None:
            leakage = events.busy_ns * memories.leakage_w * 1000
    product_pj = design.power_watts * 1000 / design.multipliers
    defo = 2.0 if design.policy in ("defo", "dynamic") else 0.0
    return {
        "compute": events.products * product_pj,
        "encode": events.encoded * TABLE["encode"].picojoules,
        "vector": events.vector_elements * TABLE["vector"].picojoules,
        "defo": defo * TABLE["defo"].picojoules + none,
        "lane_memory": lanes,
        "sram": events.sram_bytes * buffer_pj,
        "dram": events.dram_bytes * 8 * TABLE["dram"].picojoules,
        "leakage": leakage,
    }

# SPDX-License-Identifier: Apache-2.0
"""What a recorded run costs under a design, in the columns of the one axis: MACs, slots, multiplications, cycles, bytes, energy.

    cost_of(columns, load_chip("paper"), "ditto")
    work_of(columns, time)          of a run that is priced already: MACs, slots, multiplications

MACs are the algorithm's: what a run leaves out it does not have, whatever the design. Slots are what Ditto's encoder makes of
operands, so a design without one has none. Multiplications are those of the design's own units. What this file does not do:
price (`device/pricing/`).
"""

from __future__ import annotations

from typing import Any

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.protocol.hardware import MODES
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.record import layer_work

DESIGNS = ("itc", "ditto", "ditto_plus")
BLOCK_DESIGNS = ("fp16_dense", "int4_dense", "sq_dm", "sq_dm_shared")
"""Of a program with block-scaled layers."""


def usual_designs(columns: RecordColumns) -> tuple[str, ...]:
    """Those that a run is shown under when nobody names any."""
    scaled = any(c.op in BLOCK_LAYER_OPS for c in columns.program.layers)
    return BLOCK_DESIGNS if scaled else DESIGNS


def cost_of(columns: RecordColumns, chip: Chip, design: str) -> dict[str, Any]:
    """A recorded run under one design."""
    time = price_run(columns, chip, load_design(design))
    return {
        "design": time.design,
        "chip": chip.name,
        **work_of(columns, time, load_design(design).datapath == "slots"),
        "cycles": time.total_cycles,
        "bytes": time.total_bytes,
        "energy_j": round(time.total_energy_pj / 1e12, 8),
    }


def work_of(columns: RecordColumns, time: RunTime, encoded: bool) -> dict[str, int | None]:
    """What there is to do; slots where operands are `encoded`."""
    return {
        "macs": _macs(columns),
        "slots": _slots(columns, time) if encoded else None,
        "multiplications": int((time.products).sum()),
    }


def _macs(columns: RecordColumns) -> int:
    layers = range(len(columns.program.layers))
    each = [sum(work.macs for work in layer_work(columns.program, i, "original")) for i in layers]
    return int((columns.runs.sum(axis=0) * each).sum())


def _slots(columns: RecordColumns, time: RunTime) -> int:
    """In the modes that this price chose."""
    total = 0
    for layer, modes in enumerate(columns.met):
        for mode, met in modes.items():
            chosen = time.modes[list(met.at), layer] == MODES.index(mode)
            total += sum(
                s.slot_total for works, taken in zip(met.works, chosen, strict=True) if taken for s in works
            )
    return total

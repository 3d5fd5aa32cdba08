# SPDX-License-Identifier: Apache-2.0
"""PyVerilator's view of a tile: every port by name, one signal at a time, with the clock in your hands.

    from ditto_cosim.protocol.hardware import GEOMETRIES
    from ditto_cosim.sim_harness.view import open_view

    sim = open_view(GEOMETRIES["tiny"])        # a pyverilator.PyVerilator
    sim.start_vcd_trace("tile.vcd")
    sim.io.rst_ni = 1
    sim.io.weight_valid_i = 1                  # element c of a wide port is in bits 8c+7…8c
    sim.io.weight_i = 0x0807060504030201
    sim.clock.tick()
    print(sim.io.weight_ready_o, sim.io.busy_o)

The library is the one `Tile(..., trace="x.vcd")` uses. Fine for poking, some 1000 times too slow for images.
What it does not do: drive passes (`tile.py`).
"""

from __future__ import annotations

from typing import Any

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.toolchain import ToolMissingError

from .build import BuildOptions, build


def open_view(geometry: Geometry) -> Any:
    """The tile as a `pyverilator.PyVerilator`."""
    try:
        import pyverilator
    except ImportError:
        raise ToolMissingError("view: PyVerilator is not installed; `pip install pyverilator-mm`") from None
    built = build(geometry, BuildOptions(trace="vcd"))
    return pyverilator.PyVerilator(str(built.library))

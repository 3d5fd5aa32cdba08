# SPDX-License-Identifier: Apache-2.0
"""`ditto bench rtl`: how fast the Verilated tile runs, each ratio measured side by side in this run.

    gmac_per_s_per_core           dense M·K·N per second of one core, M = 1024, K = 576, N = 256, C = 256,
                                  with the paper's shares (44.5 % zero, 51.5 % low, 4 % full)
    gmac_per_s_per_core_original  the same in original mode
    gmac_per_s_c128, …_c64        C = 128 (the lane of `paper_twin`), N = 256; C = 64, N = 512
    ddpm_mix                      C = 256 over every layer shape of the 35.7 M DDPM, K and N split as the device does
    ddpm_mix_over_best            the same on the C = 128 lane ÷ that lane's rate above
    eval_ratio                    driven pass ÷ the same pass of the same build with the driver left out
    pyverilator_ratio             ÷ driving the C = 128 lane signal by signal through PyVerilator
    cocotb_ratio                  ÷ driving it from cocotb, whose model is built with `COCOTB_FLAGS`
    two_core_scaling              two tiles on two threads ÷ one
    cold_build_s                  building C = 256 with Verilator's runtime cached

Rates are per second of CPU time of the thread, the best of several repetitions: what a core does when it is not shared.
Scaling is by the clock, so it needs two idle cores. What this file does not do: whole images (`ditto bench model`).
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import Geometry, Mode
from ditto_cosim.protocol.record import layer_work, split_k
from ditto_cosim.sim_harness import build as building
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.tile import Tile
from ditto_cosim.study.workloads import workload_program
from ditto_cosim.toolchain import cache_dir

I8 = npt.NDArray[np.int8]

COSIM = Geometry(lanes=1, columns=256, n_max=512)
PAPER_LANE = Geometry(lanes=1, columns=128, n_max=512)
NARROW = Geometry(lanes=1, columns=64, n_max=512)
GOALS = {
    "gmac_per_s_per_core": 15,
    "gmac_per_s_per_core_original": 6,
    "gmac_per_s_c128": 10,
    "gmac_per_s_c64": 6,
    "ddpm_mix_over_best": 0.85,
    "eval_ratio": 0.9,
    "pyverilator_ratio": 100,
    "cocotb_ratio": 100,
    "two_core_scaling": 1.8,
}


def paper_operands(m: int, k: int, n: int) -> tuple[I8, I8, I8]:
    """(current, reference, weights) with the paper's shares of zero, low and full differences."""
    rng = np.random.default_rng(1)
    reference = rng.integers(-90, 90, (m, k))
    u = rng.random((m, k))
    low = rng.choice([-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7], (m, k))
    d = np.where(u < 0.445, 0, np.where(u < 0.96, low, rng.choice([-30, 30], (m, k))))
    weights = rng.integers(-128, 128, (k, n)).astype(np.int8)
    return (reference + d).astype(np.int8), reference.astype(np.int8), weights


def _best_s(action: Any, repetitions: int) -> float:
    best = float("inf")
    for _ in range(repetitions):
        began = time.thread_time()
        action()
        best = min(best, time.thread_time() - began)
    return best


def rate(tile: Tile, m: int, k: int, n: int, mode: Mode, repetitions: int) -> float:
    """Dense GMAC per second of one core."""
    current, reference, weights = paper_operands(m, k, n)
    tile.load_weights(weights)
    out = np.empty((m, n), np.int32)
    seconds = _best_s(lambda: tile.run(current, reference, mode, accumulators=out), repetitions)
    return m * k * n / seconds / 1e9


def eval_ratio(tile: Tile, repetitions: int) -> float:
    """Driver's share: one beat repeated, so that both passes do the same to the cycle."""
    beat = np.array([0, 3, 0, -2, 40, 0, 5, 0], np.int8)
    m, k, n = 512, 576, 256
    current = np.tile(beat, (m, k // len(beat)))
    reference = np.zeros_like(current)
    tile.load_weights(paper_operands(1, k, n)[2])
    out = np.empty((m, n), np.int32)
    driven, bare = float("inf"), float("inf")
    cycles = tile.run(current, reference, "temporal").cycles
    if tile.run_bare(beat, m, "temporal") != cycles:
        raise AssertionError("bench: the bare pass is not the driven one")
    for _ in range(repetitions):  # in turns: both see the same machine
        driven = min(driven, _best_s(lambda: tile.run(current, reference, "temporal", accumulators=out), 1))
        bare = min(bare, _best_s(lambda: tile.run_bare(beat, m, "temporal"), 1))
    return bare / driven


def ddpm_mix(tile: Tile, repetitions: int) -> float:
    """GMAC/s over the layers of the 35.7 M DDPM, weight loads included."""
    program = workload_program("ddpm")
    shapes: Counter[tuple[int, int, int]] = Counter()
    for layer in range(len(program.layers)):
        for work in layer_work(program, layer, "original"):
            shapes[(work.rows, work.k, work.n)] += work.groups
    seconds, macs = 0.0, 0
    for (m, k, n), count in shapes.items():
        current, reference, weights = paper_operands(m, k, n)

        def layer_pass(a: I8 = current, b: I8 = reference, w: I8 = weights) -> None:
            first = 0
            for length in split_k(w.shape[0], tile.geometry.k_max):
                part = slice(first, first + length)
                first += length
                for column in range(0, w.shape[1], tile.geometry.n_max):
                    tile.load_weights(w[part, column : column + tile.geometry.n_max])
                    tile.run(a[:, part], b[:, part], "temporal")

        seconds += count * _best_s(layer_pass, repetitions)
        macs += count * m * k * n
    return macs / seconds / 1e9


def pyverilator_rate(rows: int = 2, k: int = 64) -> float:
    """GMAC/s of the C = 128 lane driven signal by signal."""
    from ditto_cosim.sim_harness.view import open_view

    sim = open_view(PAPER_LANE)
    io, n = sim.io, PAPER_LANE.columns
    current, reference, weights = paper_operands(rows, k, n)
    sim.clock.tick()
    io.rst_ni = 1
    began = time.thread_time()
    for i in range(k):
        io.weight_valid_i, io.weight_k_i = 1, i
        io.weight_i = int.from_bytes(weights[i].tobytes(), "little")
        sim.clock.tick()
    began = time.thread_time()
    io.weight_valid_i, io.start_i, io.mode_i, io.rows_i, io.k_i, io.blocks_i = 0, 1, 1, rows, k, 1
    sim.clock.tick()
    io.start_i, io.result_ready_i_0 = 0, 1
    beats = [(r, b) for r in range(rows) for b in range(0, k, 8)]
    results: list[int] = []
    while len(results) < rows:
        if beats:
            row, at = beats[0]
            io.current_i_0 = int.from_bytes(current[row, at : at + 8].tobytes(), "little")
            io.reference_i_0 = int.from_bytes(reference[row, at : at + 8].tobytes(), "little")
        io.operand_valid_i_0 = int(bool(beats))
        if int(io.operand_ready_o_0) and beats:
            beats.pop(0)
        if int(io.result_valid_o_0):
            results.append(int(io.result_o_0))
        sim.clock.tick()
    seconds = time.thread_time() - began
    got = np.stack([np.frombuffer(word.to_bytes(4 * n, "little"), np.int32) for word in results])
    if not np.array_equal(got, (current.astype(np.int32) - reference) @ weights.astype(np.int32)):
        raise AssertionError("bench: PyVerilator's lane computes something else")
    return rows * k * n / seconds / 1e9


def two_core_scaling(repetitions: int) -> float:
    """Two tiles on two threads against one, by the clock."""
    current, reference, weights = paper_operands(1024, 576, 256)
    tiles = [Tile(COSIM) for _ in range(2)]
    for tile in tiles:
        tile.load_weights(weights)

    def run(count: int) -> float:
        def work(tile: Tile) -> None:
            for _ in range(4):
                tile.run(current, reference, "temporal")

        threads = [threading.Thread(target=work, args=(tile,)) for tile in tiles[:count]]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    one = min(run(1) for _ in range(repetitions))
    two = min(run(2) for _ in range(repetitions))
    return 2 * one / two


def cold_build_s() -> float:
    """Seconds to build C = 256 into an empty cache that has the runtime."""
    Tile(COSIM)  # the runtime is there
    with tempfile.TemporaryDirectory() as folder:
        for runtime in cache_dir().glob("runtime-*"):
            if runtime.is_dir():
                (Path(folder) / runtime.name).symlink_to(runtime)
        return building.build(COSIM, BuildOptions(), cache=Path(folder)).seconds


def measure(quick: bool = False) -> dict[str, Any]:
    """Every figure; `quick` takes fewer repetitions."""
    repetitions = 5 if quick else 25
    cosim, lane, narrow = Tile(COSIM), Tile(PAPER_LANE), Tile(NARROW)
    lane_rate = rate(lane, 1024, 576, 256, "temporal", repetitions)
    from ditto_cosim.bench.rtl_cocotb import cocotb_rate

    cocotb = cocotb_rate(PAPER_LANE)
    mix = ddpm_mix(lane, 1 if quick else 3)
    lane_rate = max(
        lane_rate, rate(lane, 1024, 576, 256, "temporal", repetitions)
    )  # before and after: a shared machine
    return {
        "gmac_per_s_per_core": rate(cosim, 1024, 576, 256, "temporal", repetitions),
        "gmac_per_s_per_core_original": rate(cosim, 1024, 576, 256, "original", repetitions),
        "gmac_per_s_c128": lane_rate,
        "gmac_per_s_c64": rate(narrow, 1024, 576, 512, "temporal", repetitions),
        "ddpm_mix": ddpm_mix(cosim, 1 if quick else 3),
        "ddpm_mix_over_best": mix / lane_rate,
        "eval_ratio": eval_ratio(cosim, repetitions),
        "pyverilator_ratio": lane_rate / pyverilator_rate(),
        "cocotb_ratio": None if cocotb is None else lane_rate / cocotb,
        "two_core_scaling": two_core_scaling(3 if quick else 8),
        "cold_build_s": cold_build_s(),
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures beside the goals."""
    lines = []
    for name, value in figures.items():
        goal = GOALS.get(name)
        shown = "not measured" if value is None else f"{value:10.2f}"
        lines.append(f"{name:30} {shown}" + (f"   goal ≥ {goal}" if goal is not None else ""))
    from ditto_cosim.bench.rtl_cocotb import COCOTB_FLAGS

    return "\n".join(
        [*lines, f"cocotb's model is built with {' '.join(COCOTB_FLAGS)}, which it needs to see signals"]
    )

# SPDX-License-Identifier: Apache-2.0
"""`ditto bench price`: how fast records are priced, and how far the engine's approximation of DRAM is from its model.

    ten_designs_s     load and price a 100-step record of the 35.7 M DDPM under ten designs
    us_per_command    of that, per layer, step and design
    paper_s           `ditto paper --json` as a process of its own, from cold
    scalesim_ratio    SCALE-Sim's time per layer ÷ ours, same layers, an ITC-like array (packages `pandas`, `tqdm`, `scalesim`)
    transactions_per_s  of the engine, one step of the same record
    memory_error      the step's transfers through `timing/memory.py` (reserves in order) against `timing/first_ready.py`, both as
                      fast as they take them
    coarse_error      long groups in few chunks (`pricing/contracts.py`) against all of them
The record is synthetic (published shares over the real shapes); what it costs to price does not depend on where it came
from. What this file does not do: judge claims (`ditto paper`).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.contracts import MOST_CHUNKS, Pipelined
from ditto_cosim.device.pricing.cost import LaneColumns, stack
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.timing.engine import PythonStep, run_step, run_steps
from ditto_cosim.device.timing.first_ready import simulate
from ditto_cosim.device.timing.memory import Memory, requests_of
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.record import RunInfo, RunRecord, RunWriter, StepRecord
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

TEN = (
    "itc",
    "diffy",
    "cambricon_d",
    "ds",
    "db",
    "db_ds_attn",
    "ditto",
    "ditto_plus",
    "dynamic_ditto",
    "ideal_ditto",
)
CHIP = "paper_twin"
SCALESIM_LAYERS = (
    ("down_blocks.2.resnets.0.conv1", 64, 256, 2304),
    ("mid_block.attentions.0.to_q", 16, 256, 256),
)
SCALESIM_ARRAY = (216, 128)
"""27,648 multipliers, weight stationary: K down, N across."""


def measure(quick: bool = False) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        steps = 10 if quick else 100
        run = Path(folder) / "run"
        layers = _write(run, steps)
        begun = time.perf_counter()
        columns = RecordColumns.load(RunRecord(run))
        loaded = time.perf_counter()
        for design in TEN:
            price_run(columns, load_chip(CHIP), load_design(design))
        priced = time.perf_counter()
    figures: dict[str, Any] = {
        "steps": steps,
        "layers": layers,
        "load_s": loaded - begun,
        "ten_designs_s": priced - begun,
        "us_per_command": (priced - loaded) / (len(TEN) * steps * layers) * 1e6,
        "paper_s": None if quick else _paper_seconds(),
    }
    return figures | _engine(quick) | _scalesim(quick)


def _write(run: Path, steps: int) -> int:
    program, chip = workload_program("ddpm"), load_chip(CHIP)
    info = RunInfo(
        program.to_dict(),
        "ddpm",
        chip.name,
        chip.digest,
        "ditto",
        "synthetic",
        "twos4",
        steps,
        0,
        chip.geometry.k_max,
    )
    writer = RunWriter(run, info)
    for step in range(steps):
        writer.append(synthetic_step(program, step, PUBLISHED, chip.geometry.k_max))
    return len(program.layers)


def _paper_seconds() -> float:
    begun = time.perf_counter()
    code = "from ditto_cosim.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, "paper", "--json"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _engine(quick: bool) -> dict[str, Any]:
    """One temporal step of the DDPM through the engine: how fast, and how far its reserving memory is from the first-ready
    controller, both given the step's transfers in the step's order, as fast as they take them."""
    program, chip = workload_program("ddpm"), load_chip(CHIP)
    pricer = Pricer(program, chip, load_design("ditto"))
    assert isinstance(pricer.contract, Pipelined)
    rows = _rows(pricer, synthetic_step(program, 1, PUBLISHED, chip.geometry.k_max), "temporal")
    repeats = 5 if quick else 50
    steps = np.repeat(np.array([rows], np.int64), repeats, axis=0)
    begun = time.perf_counter()
    causes, transactions = run_steps(pricer.contract.config, steps)
    taken = time.perf_counter() - begun
    reference = PythonStep(pricer.contract.config, log=True)
    same, _ = run_step(reference, rows)
    assert reference.bus.log is not None
    payloads = [payload for payload, _, _ in reference.bus.log]
    memory = Memory(chip.dram, 1000)
    ours = max(memory.b_transport(payload, 0) for payload in payloads)
    theirs = simulate(chip.dram, *requests_of(payloads)).cycles
    return {
        "transactions_per_s": int(transactions.sum()) / taken,
        "transactions_per_step": int(transactions[0]),
        "step_cycles": int(causes[0].sum()),
        "python_agrees": [list(row) for row in same] == causes[0].tolist(),
        "memory_ns": ours,
        "memory_first_ready_ns": theirs,
        "memory_error": ours / theirs - 1,
        "coarse_error": _coarse(),
    }


def _rows(pricer: Pricer, record: StepRecord, mode: Mode) -> list[tuple[int, ...]]:
    """What the engine is asked for when a whole step runs in one mode."""
    assert isinstance(pricer.contract, Pipelined)
    rows = [pricer.contract.work(pricer.cost(pricer.prologue, "original", False)).row]
    for layer, group in zip(record.layers, pricer.layers, strict=True):
        lanes = pricer.lanes(group, stack([layer.works[mode]]), mode)
        of_step = LaneColumns(*(column[0] for column in lanes.columns))
        rows.append(pricer.contract.work(pricer.cost(group, mode, mode == "temporal"), of_step).row)
    return rows


def _coarse() -> float:
    """A step of the largest image model with its long groups in few chunks, over the same with all of them."""
    program, chip = workload_program("sdm"), load_chip(CHIP)
    pricer = Pricer(program, chip, load_design("itc"))
    assert isinstance(pricer.contract, Pipelined)
    record, cycles = synthetic_step(program, 0, PUBLISHED, chip.geometry.k_max), []
    for pricer.contract.most_chunks in (MOST_CHUNKS, 1 << 40):
        rows = np.array([_rows(pricer, record, "original")], np.int64)
        cycles.append(int(run_steps(pricer.contract.config, rows)[0].sum()))
    return cycles[0] / cycles[1] - 1


def _scalesim(quick: bool) -> dict[str, Any]:
    if importlib.util.find_spec("scalesim") is None:
        return {
            "scalesim_ratio": None,
            "scalesim": "not installed: pip install pandas tqdm, then pip install --no-deps scalesim",
        }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, m, n, k in SCALESIM_LAYERS[: 1 if quick else None]:
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _SCALESIM, folder, str(m), str(n), str(k), *map(str, SCALESIM_ARRAY)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                return {"scalesim_ratio": None, "scalesim": done.stderr.strip().splitlines()[-1]}
            theirs = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append(
                {"layer": name, "m": m, "n": n, "k": k, **theirs, "process_s": time.perf_counter() - begun}
            )
    program, chip = workload_program("ddpm"), load_chip(CHIP)
    step = synthetic_step(program, 0, PUBLISHED, chip.geometry.k_max)
    names = [c.name for c in program.layers]
    for row in rows:
        pricer = Pricer(program, chip, load_design("itc"))
        layer = names.index(row["layer"])
        group = pricer.layers[layer]
        work = pricer.works(group, "original")[0]
        if (work.rows, work.n, work.k) != (row["m"], row["n"], row["k"]):
            raise ValueError(
                f"layer {row['layer']} is {work}, the benchmark expects {row['m'], row['n'], row['k']}"
            )
        begun = time.perf_counter()
        for _ in range(20):
            lanes = pricer.lanes(group, stack([step.layers[layer].works["original"]]), "original")
            pricer.alone([group], "original", lanes)
        row["our_s"] = (time.perf_counter() - begun) / 20
        row["our_lane_cycles"] = int(lanes.total[0])
        row["ideal_cycles"] = work.macs / pricer.datapath.multipliers
    ratio = sum(r["scalesim_s"] for r in rows) / sum(r["our_s"] for r in rows)
    return {"scalesim_ratio": ratio, "scalesim": rows}


_SCALESIM = '''
import contextlib, csv, io, json, pathlib, sys, time
import numpy as np
folder, (m, n, k, height, width) = pathlib.Path(sys.argv[1]), map(int, sys.argv[2:])
(folder / "array.cfg").write_text(f"""[general]
run_name = itc
[architecture_presets]
ArrayHeight = {height}
ArrayWidth = {width}
IfmapSramSzkB = 65536
FilterSramSzkB = 65536
OfmapSramSzkB = 65536
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Bandwidth = 1024
Dataflow = ws
MemoryBanks = 1
ReadRequestBuffer = 512
WriteRequestBuffer = 512
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
SparseRep = ellpack_block
OptimizedMapping = false
BlockSize = 8
RandomNumberGeneratorSeed = 40
[run_presets]
InterfaceBandwidth = USER
UseRamulatorTrace = False
""")
(folder / "layout.csv").write_text("Layer,\\n")
(folder / "layer.csv").write_text(f"Layer,M,N,K,\\nlayer,{m},{n},{k},\\n")
import scalesim.memory.double_buffered_scratchpad_mem as buffers, scalesim.memory.read_buffer as reads
for module in (buffers, reads):  # int(max(array)) of one-element rows, which NumPy 2.4 no longer converts
    module.max = lambda *values: np.max([np.max(v) for v in values])
from scalesim.scale_sim import scalesim
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    begun = time.perf_counter()
    simulator = scalesim(
        save_disk_space=True, verbose=False, config=str(folder / "array.cfg"),
        topology=str(folder / "layer.csv"), layout=str(folder / "layout.csv"), input_type_gemm=True,
    )
    simulator.run_scale(top_path=str(folder / "out"))
    taken = time.perf_counter() - begun
rows = list(csv.reader((folder / "out" / "itc" / "COMPUTE_REPORT.csv").open()))
cycles = float(rows[1][[h.strip() for h in rows[0]].index("Total Cycles")])
print(json.dumps({"scalesim_cycles": cycles, "scalesim_s": taken}))
'''


def table(figures: Mapping[str, Any]) -> str:
    lines = [
        f"{figures['steps']} steps × {figures['layers']} layers × {len(TEN)} designs:"
        f" {figures['ten_designs_s']:.2f} s ({figures['load_s']:.2f} s to load),"
        f" {figures['us_per_command']:.1f} µs per layer, step and design",
        "ditto paper from cold: "
        + ("not run" if figures["paper_s"] is None else f"{figures['paper_s']:.1f} s"),
        f"the engine: {figures['transactions_per_s'] / 1e6:.2f} M transactions a second,"
        f" {figures['transactions_per_step']:,} a step; the Python form "
        + ("agrees to the cycle" if figures["python_agrees"] else "DIFFERS"),
        f"memory: the step's bytes take {figures['memory_ns']:,} ns reserving in order, {figures['memory_first_ready_ns']:,}"
        f" with the first-ready controller, {figures['memory_error']:+.1%}",
        f"long groups in at most {MOST_CHUNKS} chunks: {figures['coarse_error']:+.2%} on a step of Stable Diffusion",
    ]
    if figures["scalesim_ratio"] is None:
        return "\n".join([*lines, f"SCALE-Sim: {figures['scalesim']}"])
    lines.append(f"SCALE-Sim takes {figures['scalesim_ratio']:,.0f}× our time")
    for r in figures["scalesim"]:
        lines.append(
            f"  {r['layer']} [{r['m']}×{r['k']}]·[{r['k']}×{r['n']}]: SCALE-Sim {r['scalesim_cycles']:,.0f}"
            f" cycles in {r['scalesim_s']:.2f} s, ours {r['our_lane_cycles']:,} in {r['our_s'] * 1e3:.2f} ms,"
            f" every multiplier busy {r['ideal_cycles']:,.0f}"
        )
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""Commands on a recorded run: `ditto price`, `compare`, `whatif`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import design_names, load_design
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.pricing.whatif import WhatIfError, bounds, of_layer
from ditto_cosim.protocol.record import RunInfo, RunRecord, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ddpm"
    program, chip = workload_program("ddpm"), load_chip("paper_twin")
    info = RunInfo(
        program.to_dict(), "ddpm", chip.name, chip.digest, "ditto", "synthetic", "twos4", 3, 0, 1024
    )
    writer = RunWriter(folder, info)
    for step in range(3):
        writer.append(synthetic_step(program, step, PUBLISHED, 1024))
    return folder


def call(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(root, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_price_says_where_the_cycles_went(run: Path) -> None:
    found = call("price", str(run))
    assert found["design"] == "ditto"
    assert found["total_cycles"] == found["unit_cycles"]["compute"] + sum(found["stall_cycles"].values())
    assert len(found["layers"]) == len(found["defo"]) == 125
    slower = call("price", str(run), "--chip", "tiny", "--design", "itc")
    assert slower["total_cycles"] > 50 * found["total_cycles"]
    assert CliRunner().invoke(root, ["price", str(run)]).exit_code == 0


def test_compare_has_every_design_and_draws_it(run: Path) -> None:
    found = call("compare", str(run), "--chip", "paper", "--gpu")
    assert found["gpu"].keys() == {"name", "step_s", "run_s", "speedup_over_itc"}
    assert found["designs"].keys() == {n for n in design_names() if load_design(n).hetero is None}
    assert found["designs"]["itc"]["speedup_over_itc"] == 1
    assert Path(str(found["plot"])).stat().st_size > 10_000


def test_whatif_names_what_really_bounds(run: Path) -> None:
    """On a chip starved of one thing, that thing is the run's bound; doubling it is priced as a chip that has it."""
    edge = load_chip("edge")
    columns = RecordColumns.load(RunRecord(run))
    ditto = load_design("ditto")
    few_lanes = replace(edge, vector_lanes=1)
    layers, whole = bounds(columns, few_lanes, ditto)
    assert whole.bound == "vector"
    assert len(layers) == 125
    twice = price_run(columns, replace(edge, vector_lanes=2), ditto)
    assert whole.gain["vector"] == whole.cycles / twice.total_cycles
    thin = replace(edge, dram=replace(edge.dram, channels=1, burst_ns=64))
    assert bounds(columns, thin, ditto)[1].bound == "dram"
    with pytest.raises(WhatIfError, match=r"nearest: .*mid_block"):
        of_layer(layers, "mid_blok.resnets.0.conv1")


def test_whatif_answers_for_a_layer(run: Path) -> None:
    found = call("whatif", str(run), "--layer", "mid_block.attentions.0.to_q", "--chip", "edge")
    (layer,) = found["layers"]
    assert layer.keys() == {"name", "cycles", "bound", "next", "gain", "use"}
    assert layer["bound"] in {*layer["gain"], "latency"}
    use, whole = layer["use"], found["whole"]["use"]
    assert 0 < whole["utilisation"] < whole["occupancy"] <= 1
    assert whole["measured"] == 0
    assert use["macs_per_byte"] == pytest.approx(use["macs"] / use["dram_bytes"])
    assert use["roof"] == (
        "dram" if use["macs_per_byte"] * 64 < 2048 else "compute"
    )  # edge: 64 B, 4096 ÷ 2 MACs
    assert use["roof_macs_per_cycle"] == pytest.approx(min(2048, use["macs_per_byte"] * 64))


def test_gpu_step_is_measured_where_there_is_a_device() -> None:
    """On any machine: the same measurement on the CPU stands in for the GPU."""
    from ditto_cosim.bench.gpu import measure_step, present

    assert present() in (None, "cuda")
    step = measure_step("fashion-ddpm", "cpu", repeats=1)
    assert step.name == "CPU"
    assert 0 < step.seconds < 60


def test_price_names_the_sources_of_its_energies(run: Path) -> None:
    done = CliRunner().invoke(root, ["price", str(run), "--sources"])
    assert "MICRO 2017" in done.stdout
    assert "64.48 mm²" in done.stdout


def test_price_of_no_run_is_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(root, ["price", str(tmp_path)])
    assert done.exit_code != 0
    assert "no run.json" in str(done.exception)

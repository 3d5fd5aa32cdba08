# SPDX-License-Identifier: Apache-2.0
"""`ditto show`: what it prints is what the program and the record hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.show import ShowError, app
from ditto_cosim.host.report import RunReport, write_report
from ditto_cosim.protocol.isa import PARAMS, TensorSpec
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import LayerRecord, RunInfo, RunWriter, StepRecord, SubOp, Work

WORK = Work(1, 2, 8, 4)
PROGRAM = Program(
    values=(TensorSpec((2, 8), "i8"), PARAMS, TensorSpec((4, 8), "i8"), TensorSpec((2, 4), "i32")),
    inputs={"x": 0, "p": 1},
    static_inputs=frozenset(),
    constants={"fc.weight": 2},
    outputs={"y": 3},
    commands=(Command("linear", "blocks.0.fc", (0, 1, 2), (3,)),),
    skip_difference=frozenset({"blocks.0.fc"}),
)


def layer(step: int) -> LayerRecord:
    dense = SubOp(WORK, (8,), None, 1, 5, 10)
    temporal = SubOp(WORK, (8,), np.array([[3, 5]], np.uint16), 9, 6, 1)
    if step == 0:
        return LayerRecord(0, "original", False, {"original": (dense,)}, 40, 50)
    return LayerRecord(0, "temporal", False, {"original": (dense,), "temporal": (temporal,)}, 20, 30)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    info = RunInfo(PROGRAM.to_dict(), "small", "tiny", "", "ditto", "rtl", "twos4", 2, 7, 256)
    writer = RunWriter(tmp_path, info)
    for step in range(2):
        writer.append(StepRecord(step, (layer(step),), layer(step).charged_cycles))
    return tmp_path


def shown(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def text(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def test_show_program_lists_every_command_with_its_values(run: Path) -> None:
    assert Program.from_dict(shown("program", str(run))).digest == PROGRAM.digest
    lines = text("program", str(run)).splitlines()
    assert lines[0] == f"program {PROGRAM.digest}: 1 layers in 1 commands"
    assert "constant %2     i8[4,8]                  fc.weight" in lines
    assert lines[-1].split(maxsplit=2)[1:] == ["L0", "%3 i32[2,4] = linear %0, %1, %2  blocks.0.fc  skips Δ"]


def test_show_program_of_a_workload_needs_no_weights() -> None:
    assert "program" in text("program", "ddpm").splitlines()[0]


def test_show_record_counts_what_the_steps_hold(run: Path) -> None:
    first, second = shown("record", str(run))["rows"]
    assert (first["modes"], first["charged"], second["modes"], second["charged"]) == (
        "original 1",
        50,
        "temporal 1",
        30,
    )
    assert (second["zero"], second["low"], second["full"]) == (9 / 16, 6 / 16, 0.0625)
    (row,) = shown("record", str(run), "--step", "1")["rows"]
    assert (row["name"], row["slots"], row["measured"]) == ("blocks.0.fc", 8, 20)
    assert "temporal 1" in text("record", str(run))


def test_show_run_compares_the_modes_of_one_layer(run: Path) -> None:
    found = shown("run", str(run), "--step", "1", "--layer", "*.fc")
    assert found["mode"] == "temporal"
    assert [work["slots"] for work in found["works"]["original"]] == [32]
    assert [work["slots_per_element"] for work in found["works"]["temporal"]] == [0.5]
    assert "traffic_bytes" not in found, "the run left no report"
    report = LayerReport(
        step=1,
        layer=0,
        name="blocks.0.fc",
        op="linear",
        mode="temporal",
        cycles=30,
        traffic_bytes={"input": 5},
    )
    about = dict.fromkeys(("model", "design", "chip", "backend", "low_rule", "command_line"), "")
    write_report(RunReport.of([report], **about, seed=0, clock_hz=10**8, wall_s=1.0), run)
    assert shown("run", str(run), "--step", "1")["traffic_bytes"] == {"input": 5}
    assert "input 5" in text("run", str(run), "--step", "1")


def test_show_names_what_there_is_instead(run: Path) -> None:
    for arguments, words in (
        (("run", "--layer", "conv"), "there is no layer 'conv'; there are 0 to 0, from blocks.0.fc"),
        (("run", "--step", "5"), "step 5 is not recorded; there are steps 0 to 1"),
        (("record", "--step", "2"), "step 2 is not recorded"),
    ):
        with pytest.raises(ShowError, match=words):
            text(arguments[0], str(run), *arguments[1:])

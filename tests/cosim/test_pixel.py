# SPDX-License-Identifier: Apache-2.0
"""From a pixel of a recorded run to its row in the RTL, and to the cycle of the waveform at which it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cosim.test_analyze_replay import record
from torch import nn
from typer.testing import CliRunner

from ditto_cosim import pixel, recapture
from ditto_cosim.cli import root
from ditto_cosim.cli.trace import trace_command
from ditto_cosim.host.generation import difference_at
from ditto_cosim.host.reference.golden import Difference
from ditto_cosim.protocol.record import RunRecord
from ditto_cosim.sim_harness import viewer
from support.small_denoiser import STEPS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    found = record(tmp_path_factory.mktemp("pixel"), "static")
    return found.directory, found.denoiser


@pytest.fixture
def known(run: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, whose model is found though it does not ship."""
    monkeypatch.setattr(recapture, "recorded_denoiser", lambda _: run[1])
    return run[0]


def traced(*arguments: str) -> Any:
    return CliRunner().invoke(root, ["trace", *arguments])


def cycle_of_time(waveform: Path, time: int) -> int:
    """What the tile's own counter shows at a time of its waveform."""
    code, at, value = "", 0, -1
    for line in waveform.read_text().splitlines():
        if not code and (found := re.match(r"\s*\$var\s+\S+\s+\d+\s+(\S+)\s+cycle_o\b", line)):
            code = found[1]
        elif line.startswith("#"):
            at = int(line[1:])
        elif at <= time and (found := re.fullmatch(rf"b([01]+) {re.escape(code)}", line)):
            value = int(found[1], 2)
    return value


@pytest.mark.parametrize("layer", ["conv_out", "to_qkv", "conv_in"])
def test_trace_finds_the_row_and_its_cycle(known: Path, tmp_path: Path, layer: str) -> None:
    wave = tmp_path / "row.vcd"
    done = traced(str(known), "--pixel", "2,1", "--step", "3", "--layer", layer, "-o", str(wave), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["schema"], told["version"]) == ("ditto.trace", 1)
    assert told["pixel"] == [2, 1]
    stop = next(s for s in told["layers"] if s["name"] == layer)
    assert stop["row"] == 4 + 2  # of the first picture's 4 × 4
    recorded = RunRecord(known)[3].layers[stop["layer"]]
    replay = told["replay"]
    assert recorded.mode == stop["mode"]
    assert stop["slots"] == replay["slots"] == replay["low"] + 2 * replay["full"]
    counted = recorded.works[recorded.mode][0].slots
    assert replay["slots"] == (
        2 * stop["elements"] if counted is None else int(counted[:, stop["row"]].sum())
    )
    assert replay["mismatch"] is None
    assert cycle_of_time(wave, replay["time"]) == replay["encode_begin_cycle"]
    assert cycle_of_time(wave, replay["time"] + 10) == replay["encode_begin_cycle"] + 1


def test_trace_reaches_what_the_pixel_comes_from(known: Path) -> None:
    path = pixel.path_of_pixel(known, (0, 0), 1)
    reached = {stop.name: stop.reached for stop in path.stops}
    assert path.stops[0].name == "conv_out"
    assert reached["conv_out"] == 1  # a 1 × 1 kernel
    assert reached["to_qkv"] == 16  # through attention every token of the picture, none of the other's
    assert reached["conv_in"] == 16


def test_trace_of_a_step_that_was_asked_and_not_completed(
    run: tuple[Path, nn.Module], known: Path, tmp_path: Path
) -> None:
    """As a failed verification leaves it: inputs, no record."""
    import shutil

    cut = tmp_path / "cut"
    shutil.copytree(known, cut)
    (cut / f"step-{STEPS - 1:04d}.npz").unlink()
    difference = Difference(STEPS - 1, 0, "conv2d", "conv_out", 0, (0, 0, 1, 2), 1, 2)
    program = RunRecord(cut).program
    value = next(c.results[0] for c in program.commands if c.name == "conv_out")
    place = difference_at(difference)
    assert place == {"step": STEPS - 1, "value": 0, "element": [0, 0, 1, 2]}
    (cut / "outcome.json").write_text(json.dumps({"verify": {"difference_at": {**place, "value": value}}}))
    done = traced(str(cut), "-o", str(tmp_path / "row.vcd"), "--no-view")
    assert done.exit_code == 0, done.output
    assert "conv_out: row 6 in RTL" in done.stdout
    assert "agrees with the contract" in done.stdout
    assert (
        trace_command("runs/my run", place)
        == f"ditto trace 'runs/my run' --step {STEPS - 1} --value 0:0,0,1,2"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--pixel", "9,0"), "no pixel 9,0; the picture has columns 0…3, rows 0…3"),
        (("--pixel", "x"), "is not column,row of the picture"),
        (("--pixel", "1,1", "--step", "9"), "no step 9; there are 0…3"),
        (("--pixel", "1,1", "--layer", "conv_ot"), "did you mean 'conv_out'?"),
        (("--pixel", "1,1", "--picture", "2"), "no picture 2; there are 0…1"),
        (("--value", "3:x", "--step", "1"), "is not value:element"),
        (("--value", "3:0,0"), "--value needs --step"),
        (("--value", "99999:0,0", "--step", "1"), "makes value 99999"),
        (("--pixel", "1,1", "--value", "3:0"), "not both"),
    ],
)
def test_trace_refuses_what_is_not_there(known: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = traced(str(known), *arguments, "--no-replay")
    told = " ".join(done.output.replace("│", " ").split()) + str(done.exception)
    assert done.exit_code != 0
    assert sentence in told


@pytest.mark.parametrize(
    ("program", "told", "saved"),
    [
        ("surfer", ["--command-file", "row.sucl", "row.vcd"], "row.sucl"),
        ("gtkwave", ["row.vcd", "row.gtkw"], "row.gtkw"),
    ],
)
def test_viewer_is_told_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: list[str], saved: str
) -> None:
    binary = tmp_path / program
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = viewer.viewer_command(tmp_path / "row.vcd", 1234, ["TOP.clk_i", "TOP.cycle_o"])
    assert command == [str(binary), *(w if w.startswith("--") else str(tmp_path / w) for w in told)]
    assert "1234" in (tmp_path / saved).read_text()
    assert "TOP" in (tmp_path / saved).read_text()


def test_viewer_is_none_where_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert viewer.viewer_command(tmp_path / "row.vcd", 1, []) is None
    assert viewer.open_viewer(tmp_path / "row.vcd", 1, []) == ""

# SPDX-License-Identifier: Apache-2.0
"""The bench's own promises: what it finishes, what it says, and that what it prints can be run again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl import INCOMPLETE, app
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.captures import Capture, load_captures, shipped
from ditto_cosim.sim_harness.cases import Case
from ditto_cosim.sim_harness.errors import TileInputError
from ditto_cosim.sim_harness.recorded import replay, replay_all
from ditto_cosim.sim_harness.regression import SETS, Bench, Mismatch, Report, options_for, run_regression
from ditto_cosim.sim_harness.tile import Tile
from support.lane_reference import LaneReference
from support.mutations import MUTANTS, plant


@pytest.fixture(scope="module")
def wrong_rtl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder that takes −8 for full."""
    folder = tmp_path_factory.mktemp("wrong")
    return plant(next(m for m in MUTANTS if m.name == "low rule symmetric"), folder)


def test_directed_cases_finish_however_short_the_time(model: LaneReference) -> None:
    report = run_regression(model, seconds=0, geometries=["tiny"])
    assert report.complete
    assert report.done >= report.directed > 150


def test_a_regression_that_had_no_time_is_incomplete(model: LaneReference) -> None:
    report = run_regression(model, seconds=5, limit_s=0, geometries=["tiny"])
    assert not report.complete
    assert not report.mismatches
    result = CliRunner().invoke(app, ["test", "--set", "tiny", "--limit", "0.001", "--json"])
    assert result.exit_code == INCOMPLETE
    assert json.loads(result.stdout.splitlines()[-1])["complete"] is False
    said = CliRunner().invoke(app, ["test", "--set", "tiny", "--limit", "0.001"]).output
    assert "INCOMPLETE" in said
    assert "RTL and model agree" not in said


def test_a_mismatch_stands_first_and_its_command_finds_it_again(wrong_rtl: Path, tmp_path: Path) -> None:
    folder = str(wrong_rtl)
    arguments = ["test", "--set", "tiny", "--seconds", "0", "--rtl-dir", folder, "--wave", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("MISMATCH"))
    assert at < next(i for i, line in enumerate(lines) if "not seen" in line)
    assert any(line.startswith("weights ") for line in lines), "small cases are printed in figures"
    command = next(line for line in lines if "again:" in line).partition("again:")[2]
    words = shlex.split(command)
    assert words[:3] == ["ditto", "rtl", "test"]
    again = CliRunner().invoke(app, [*words[2:], "--wave", str(tmp_path / "again")])
    assert again.exit_code == 1
    assert "MISMATCH low" in again.output
    assert list((tmp_path / "again").glob("*.vcd")), "it writes the waveform, too"


def test_a_recorded_mismatch_is_kept_and_found_again(
    model: LaneReference, wrong_rtl: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    current = rng.integers(-60, 60, (6, 20)).astype(np.int8)
    reference = np.where(np.arange(6)[:, None] == 4, current + 8, current - 3).astype(np.int8)
    capture = Capture("conv", "temporal", current, reference, rng.integers(-9, 9, (20, 8)).astype(np.int8))
    options = BuildOptions(rtl_dir=wrong_rtl)
    found = replay(capture, Bench("tiny", options_for("tiny", options)), model)
    assert found is not None
    assert found.capture is not None
    bench_calls = []

    def recorded(bench: Bench, report: Report) -> Mismatch | None:
        bench_calls.append(bench.name)
        return replay(capture, bench, model, report)

    good = run_regression(model, seconds=0, geometries=["tiny"], recorded=recorded)
    assert good.complete
    assert good.recorded_rows == 6
    from ditto_cosim.sim_harness import regression

    kept = regression._reported(found, model, options, tmp_path, True, " --rtl-dir x", good, lambda _: None)
    assert kept.command == f"ditto rtl replay {tmp_path}/mismatch-tiny.npz --set tiny --rtl-dir x"
    (one,) = load_captures(kept.file)  # type: ignore[arg-type]  # it is there
    assert len(one.current) == 1, "one row is enough"
    again, _ = replay_all([one], "tiny", model, None, None, options)
    assert again is not None
    assert again.what == found.what
    assert good.waveform.stat().st_size > 1000


def test_cases_that_need_a_checked_build_are_refused_elsewhere(model: LaneReference) -> None:
    case = Case("edge", 2, 8, 8, "temporal", attack=True)
    with pytest.raises(TileInputError, match="checked build"):
        Bench("edge", BuildOptions(optimize=True)).run(case, model)
    with pytest.raises(TileInputError, match="mode = 'fast'"):
        Case.parse("geometry=tiny,m=1,k=1,n=1,mode=fast")
    with pytest.raises(TileInputError, match="k, n, mode not given"):
        Case.parse("geometry=tiny,m=1")


def test_a_reset_in_a_pass_leaves_weights_and_bank_zero(model: LaneReference) -> None:
    """Two banks: after a reset bank 0 is active, and what it held is there."""
    bench = Bench("mag4_banks", options_for("mag4_banks"), state_seed=5)
    case = Case("mag4_banks", 4, 24, 8, "temporal", attack=True, reset=9)
    held = []
    for seed in range(4):
        assert bench.run(replace(case, seed=seed), model) is None
        held.append(bench.loaded)
    assert held[1] is held[2], "the third pass ran with what the second had loaded"
    assert not np.array_equal(held[2], replace(case, seed=2).operands(1).weights)  # type: ignore[arg-type]  # it is there


def test_random_states_differ_and_are_repeatable() -> None:
    geometry = SETS["tiny"]
    options = options_for("tiny")
    with (
        Tile(geometry, options=options, state_seed=1) as a,
        Tile(geometry, options=options, state_seed=2) as b,
    ):
        first, other = a.state(), b.state()
        assert first != other, "counters begin as chance has them"
        b.power_up(1)
        assert b.state() == first


def test_shipped_activations_are_part_of_the_regression() -> None:
    assert sum(len(capture.current) for capture in load_captures(shipped())) > 100


def test_inputs_stand_in_a_waveform_before_the_edge_that_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "tile.vcd"
    weights, current = np.ones((9, 8), np.int8), np.full((3, 9), 7, np.int8)
    with Tile(SETS["tiny"], trace=path) as tile:
        tile.load_weights(weights)
        tile.run(current, 0, "temporal")
    text = path.read_text()
    assert "u_view" in text, "the four weight rows of a word are traced"
    names: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip().startswith("$var"):
            part = line.split()
            names.setdefault(part[4].partition("[")[0], part[3])
    wanted = {names["operand_valid_i"]: "valid", names["operand_ready_o"]: "ready", names["clk_i"]: "clock"}
    wanted |= {identifier: name for name, identifier in names.items() if name in ("start_i",)}
    values: dict[str, str] = {}
    met, changed_at_edge = 0, 0
    for block in text.partition("$enddefinitions $end")[2].split("\n#")[1:]:
        before = dict(values)
        for line in block.splitlines()[1:]:
            if line and line[0] in "01" and line[1:] in wanted:
                values[wanted[line[1:]]] = line[0]
        rises = before.get("clock") == "0" and values.get("clock") == "1"
        changed_at_edge += rises and before.get("start_i") != values.get("start_i")
        met += rises and before.get("valid") == before.get("ready") == "1"
    assert met > 3, "valid and ready are seen together before the edges that take a beat"
    assert changed_at_edge == 0

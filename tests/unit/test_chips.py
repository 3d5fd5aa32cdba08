# SPDX-License-Identifier: Apache-2.0
"""Chips load from TOML and refuse what they cannot be, naming file, field and value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ditto_cosim.device.chips import ChipError, chip_names, load_chip
from ditto_cosim.device.designs.base import DesignError, design_names, load_design
from ditto_cosim.protocol.hardware import GEOMETRIES

GOOD = """
timing = "tlm"
[tile]
lanes = 2
columns = 16
n_max = 64
tiles = 3
[buffer]
megabytes = 2
[vector]
lanes = 8
"""


def test_presets_have_the_published_sizes() -> None:
    assert chip_names() == ("ecp5", "edge", "paper", "paper_twin", "stonne", "tiny")
    twin = load_chip("paper_twin")
    assert (twin.lanes, twin.geometry.columns, twin.multipliers) == (77, 128, 39_424)
    assert load_chip("paper").multipliers == 39_398
    assert twin.buffer_bytes == load_chip("paper").buffer_bytes == 192 << 20
    assert twin.dram.peak_bytes_per_cycle(1000) == 1024
    tiny = load_chip("tiny")
    assert (tiny.tiles, tiny.geometry.lanes, tiny.geometry.columns, tiny.geometry.encode_width) == (
        1,
        2,
        8,
        4,
    )


def test_presets_are_tiles_that_are_built() -> None:
    assert load_chip("paper_twin").geometry == GEOMETRIES["paper_lane"]
    assert load_chip("edge").geometry == GEOMETRIES["edge"]
    assert load_chip("tiny").geometry == GEOMETRIES["tiny"]
    assert load_chip("ecp5").geometry == GEOMETRIES["ecp5"]


def test_own_chip_loads_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    chip = load_chip(path)
    assert (chip.name, chip.tiles, chip.multipliers) == ("mine", 3, 3 * 2 * 16 * 4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("lanes = 2", "lanes = 0"), r"\[tile\].*lanes = 0 is outside"),
        (("n_max = 64", "n_max = 60"), "not a multiple of columns"),
        (("columns = 16", "colums = 16"), r"\[tile\] colums is unknown"),
        (("tiles = 3", "tiles = 1.5"), r"tiles = 1.5 has the wrong type"),
        (("megabytes = 2", "megabytes = -2"), r"megabytes = -2 is outside"),
        (('"tlm"', '"cycle"'), "timing = 'cycle', expected one of tlm, paper"),
        (("[vector]", "[vectors]"), r"table vectors is unknown \(did you mean 'vector'\?\)"),
        (("timing", "timing ="), "not TOML"),
        (
            ("[vector]", '[dram]\nmapping = "wide"\n[vector]'),
            "mapping = 'wide', expected one of coarse, fine",
        ),
        (("[vector]", "[dram]\nrefresh = 1\n[vector]"), "refresh = 1 has the wrong type"),
        (("[vector]", "[dram]\nburst_ns = 0\n[vector]"), "burst_ns = 0 is outside"),
        (("[buffer]\nmegabytes = 2", ""), r"table \[buffer\] is missing"),
    ],
)
def test_chip_refusals_name_the_field(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(ChipError, match=complaint) as error:
        load_chip(path)
    assert "bad.toml" in str(error.value)


def test_own_chip_may_set_every_timing_of_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + '[dram]\nchannels = 3\nmapping = "fine"\nrefresh = false\nprecharge_ns = 20\n')
    dram = load_chip(path).dram
    assert (dram.channels, dram.mapping, dram.refresh, dram.precharge_ns) == (3, "fine", False, 20)


def test_unknown_chip_and_design_list_what_exists() -> None:
    with pytest.raises(ChipError, match="paper_twin"):
        load_chip("papper")
    with pytest.raises(DesignError, match="ditto_plus"):
        load_design("dito")


def test_chip_digest_changes_with_anything_that_changes_a_price() -> None:
    chip = load_chip("edge")
    other = [
        replace(chip, tiles=5),
        replace(chip, geometry=replace(chip.geometry, encode_width=4)),
        replace(chip, dram=replace(chip.dram, channels=3)),
        replace(chip, vector_lanes=65),
    ]
    assert len({c.digest for c in [chip, *other]}) == 5
    assert replace(chip).digest == chip.digest


@pytest.mark.parametrize("name", design_names())
def test_every_design_loads_by_its_file_name(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    assert design.exact is ("sign_mask" not in name and "cambricon" not in name)
    assert design.power_watts > 0


def test_iso_area_multipliers_are_the_published_ones() -> None:
    counts = {n: load_design(n).multipliers_on(39_398) for n in ("itc", "diffy", "ditto", "cambricon_d")}
    assert counts == {"itc": 27_648, "diffy": 39_398, "ditto": 39_398, "cambricon_d": 38_280}
    assert load_design("cambricon_d").outlier_multipliers == 2_552


def test_a_memory_that_only_refreshes_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Its first transfer would never end."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "paper_twin"\n[dram]\nrefresh_interval_ns = 200\n')
    with pytest.raises(ChipError, match="leaves no time between two refreshes"):
        load_chip(path)

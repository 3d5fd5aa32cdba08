# SPDX-License-Identifier: Apache-2.0
"""Area and power: memories by CACTI's table, copies where zeros are skipped, every figure with its word."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.device.chips import chip_names, load_chip
from ditto_cosim.device.designs.base import design_names, load_design
from ditto_cosim.device.pricing.area import (
    SILICON,
    Sram,
    area,
    buffer_pj_per_byte,
    memories_of,
    peak_power_w,
    port_copies,
)
from ditto_cosim.device.pricing.datapath import datapath_of
from ditto_cosim.device.pricing.energy import Events, energy_pj
from ditto_cosim.device.pricing.pricer import plans
from ditto_cosim.device.timing.schedule import schedule
from ditto_cosim.protocol.record import layer_work
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

DITTO, ITC = load_design("ditto"), load_design("itc")


def part(chip: str, design: str, name: str) -> float:
    (found,) = (p.mm2 for p in area(load_chip(chip), load_design(design)).parts if p.name == name)
    return found


def test_memories_are_the_tables_and_lie_between_its_sizes() -> None:
    points = SILICON["sram"]["points"]
    for size, mm2, read_nj, write_nj, leakage_mw in points:
        one = Sram(size)
        assert one.mm2 == pytest.approx(mm2)
        assert one.read_pj_per_byte == pytest.approx(read_nj * 1000 / 64)
        assert one.write_pj_per_byte == pytest.approx(write_nj * 1000 / 64)
        assert one.leakage_w == pytest.approx(leakage_mw / 1000)
    for low, high in pairwise(points):
        between = Sram((low[0] + high[0]) // 2)
        assert low[1] < between.mm2 < high[1]
        assert low[2] * 1000 / 64 < between.read_pj_per_byte < high[2] * 1000 / 64
    assert Sram(100) == Sram(100)
    assert Sram(100).mm2 == Sram(points[0][0]).mm2
    assert Sram(3 * points[-1][0]).mm2 == pytest.approx(3 * points[-1][1])


def test_lane_memory_has_a_copy_for_each_port_that_skipping_needs() -> None:
    assert [port_copies(load_design(n)) for n in ("ditto", "ds", "itc", "diffy", "cambricon_d")] == [
        4,
        4,
        1,
        1,
        1,
    ]
    assert port_copies(load_design("int4_dense")) == 1
    assert port_copies(load_design("sq_dm_sparse")) == 4
    assert port_copies(load_design("sq_dm")) == pytest.approx(2.5)
    assert part("paper_twin", "ditto", "lane memory") == pytest.approx(
        4 * part("paper_twin", "itc", "lane memory")
    )
    # by hand: 77 lanes × 38.5 MiB ÷ 77 × 4 copies, in macros of 1024 × 64 bytes
    assert part("paper_twin", "ditto", "lane memory") == pytest.approx(77 * 8 * 4 * Sram(65_536).mm2)


def test_iso_area_multipliers_are_the_papers() -> None:
    for name in ("itc", "ditto", "diffy", "cambricon_d"):
        assert part("paper", name, "multipliers") == pytest.approx(64.48)


def test_area_grows_with_every_part() -> None:
    edge = load_chip("edge")
    base = area(edge, DITTO).mm2
    geometry = edge.geometry
    for larger in (
        replace(edge, buffer_bytes=2 * edge.buffer_bytes),
        replace(edge, tiles=5),
        replace(edge, multipliers=2 * edge.multipliers),
        replace(edge, vector_lanes=128),
        replace(edge, dram=replace(edge.dram, channels=4)),
        replace(edge, geometry=replace(geometry, n_max=1024)),
        replace(edge, geometry=replace(geometry, weight_banks=2)),
        replace(edge, geometry=replace(geometry, encode_width=16)),
    ):
        assert area(larger, DITTO).mm2 > base
        assert area(larger, DITTO).leakage_w > area(edge, DITTO).leakage_w
    assert "encoders" not in {p.name for p in area(edge, ITC).parts}
    assert area(edge, load_design("gpu")).parts == ()


def test_every_figure_has_a_source_and_one_of_three_words() -> None:
    for chip in map(load_chip, chip_names()):
        for design in map(load_design, design_names()):
            for p in area(chip, design).parts:
                assert p.word in ("sourced", "scaled", "ours")
                assert len(p.source) > 20
                assert p.mm2 > 0
            assert peak_power_w(chip, design) > 0
    assert "CACTI 7.0" in SILICON["sram"]["source"]
    assert SILICON["node_nm"] == 45


def test_energy_of_memories_depends_on_their_size() -> None:
    edge = load_chip("edge")
    large = replace(edge, buffer_bytes=64 * edge.buffer_bytes)
    assert buffer_pj_per_byte(large) > 3 * buffer_pj_per_byte(edge)
    one = np.ones(1, np.int64)
    events = Events(10 * one, 0 * one, 0 * one, 0 * one, 7 * one, 3 * one, 5.0 * one)
    memories = memories_of(edge, DITTO)
    assert memories is not None
    found = energy_pj(events, DITTO, memories)
    assert found["sram"][0] == pytest.approx(7 * buffer_pj_per_byte(edge))
    macro = Sram(edge.geometry.k_max * 64)
    assert found["lane_memory"][0] == pytest.approx(10 * macro.read_pj_per_byte + 3 * macro.write_pj_per_byte)
    assert found["leakage"][0] == pytest.approx(5e-9 * area(edge, DITTO).leakage_w * 1e12)
    assert memories_of(load_chip("paper"), DITTO) is None
    assert sum(energy_pj(events, DITTO)[k][0] for k in ("lane_memory", "leakage")) == 0


def test_weights_are_written_into_every_lane_and_rows_encoded_by_every_encoder() -> None:
    """Counted on the schedule's own assignments, one by one."""
    program, chip = workload_program("ddpm"), load_chip("edge")
    pricer = plans(program, chip, DITTO)["full"].pricer
    record = synthetic_step(program, 1, PUBLISHED, chip.geometry.k_max)
    datapath = datapath_of(DITTO, chip)
    for layer in (0, 3, 40, 100):
        group = pricer.layers[layer]
        (work, *rest) = layer_work(program, layer, "original")
        if rest:
            continue
        written = encoded = 0
        for a in schedule(chip.geometry, chip.tiles, work, chip.adders):
            width = a.columns.stop - a.columns.start
            written += work.k * width * chip.geometry.lanes
            encoded += (a.rows.stop - a.rows.start) * work.k
        assert pricer.cost(group, "original", False).lane_write_bytes == written
        works = record.layers[layer].works["temporal"]
        from ditto_cosim.device.pricing.cost import stack

        (met,) = stack([works])
        assert datapath.lanes(met, "temporal").encoded[0] == encoded


def test_chips_command_says_area_power_and_whose_figures() -> None:
    done = CliRunner().invoke(root, ["chips", "paper_twin", "--json"])
    found = json.loads(done.stdout)
    assert found["area_mm2"] == pytest.approx(sum(p["mm2"] for p in found["area"]), abs=1e-2)
    assert found["power_w"] > 0
    text = CliRunner().invoke(root, ["chips", "edge", "--design", "itc"]).stdout
    assert "sourced: CACTI 7.0" in text
    assert "scaled:" in text
    assert "ours:" in text

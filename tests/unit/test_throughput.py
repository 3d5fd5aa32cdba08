# SPDX-License-Identifier: Apache-2.0
"""Several pictures, several chips: one of each is the run; what is shared and what is not, in the engine's own rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.cost import PricingError
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.pricing.throughput import FIELDS, _interleaved, throughput
from ditto_cosim.protocol.record import RunInfo, RunRecord, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

EDGE, ITC = load_chip("edge"), load_design("itc")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ddpm"
    program = workload_program("ddpm")
    info = RunInfo(program.to_dict(), "ddpm", EDGE.name, EDGE.digest, "itc", "synthetic", "twos4", 2, 0, 1024)
    writer = RunWriter(folder, info)
    for step in range(2):
        writer.append(synthetic_step(program, step, PUBLISHED, 1024))
    return folder


@pytest.fixture(scope="module")
def columns(run: Path) -> RecordColumns:
    return RecordColumns.load(RunRecord(run))


def of(columns: RecordColumns, chip: Any = EDGE, **ways: Any) -> Any:
    return throughput(columns, chip, ITC, **ways)


def test_one_picture_on_one_chip_is_the_run(columns: RecordColumns) -> None:
    found, priced = of(columns), price_run(columns, EDGE, ITC)
    assert found.cycles_per_picture == priced.total_cycles
    assert found.latency_s == pytest.approx(priced.total_cycles / EDGE.clock_hz)
    assert found.weight_bytes_per_picture == priced.traffic_totals()["weights"]
    assert found.busy == pytest.approx(priced.unit_totals()["compute"] / priced.total_cycles)


def test_a_batch_shares_weights_and_pictures_in_flight_do_not(columns: RecordColumns) -> None:
    one, batch, turn = of(columns), of(columns, batch=2), of(columns, in_flight=2)
    assert batch.weight_bytes_per_picture == one.weight_bytes_per_picture / 2
    assert turn.weight_bytes_per_picture == one.weight_bytes_per_picture
    for both in (batch, turn):  # work is not less, waiting may be
        assert one.latency_s < both.latency_s
        assert both.pictures_per_s > one.pictures_per_s
        assert both.busy > one.busy


def test_chips_add_up_unless_they_share_a_memory(columns: RecordColumns) -> None:
    one, two, tied = of(columns), of(columns, chips=2), of(columns, chips=2, shared_dram=True)
    assert two.pictures_per_s == 2 * one.pictures_per_s
    assert two.latency_s == one.latency_s
    narrow = replace(EDGE, dram=replace(EDGE.dram, channels=EDGE.dram.channels // 2))
    assert tied.latency_s == of(columns, narrow).latency_s
    assert tied.pictures_per_s < two.pictures_per_s
    with pytest.raises(PricingError, match="a channel for each"):
        of(columns, chips=3, shared_dram=True)


def test_interleaving_keeps_each_pictures_order() -> None:
    rows = np.zeros((3, len(FIELDS)), np.int64)
    rows[:, FIELDS["needs"]] = (-1, 0, 0)
    rows[:, FIELDS["busy_cycles"]] = (5, 6, 7)
    found = _interleaved(rows, 2)
    assert found[:, FIELDS["busy_cycles"]].tolist() == [5, 5, 6, 6, 7, 7]
    assert found[:, FIELDS["needs"]].tolist() == [-1, -1, 0, 1, 0, 1]


def test_what_has_no_halves_or_no_engine_is_refused(columns: RecordColumns) -> None:
    with pytest.raises(PricingError, match="has no halves"):
        of(columns, chips=2, halves=True)
    with pytest.raises(PricingError, match="even number"):
        of(columns, chips=3, halves=True)
    with pytest.raises(PricingError, match="closed form"):
        of(columns, load_chip("paper"), batch=2)


def test_whatif_prints_throughput(run: Path) -> None:
    asked = ["whatif", str(run), "--design", "itc", "--chips", "2", "--in-flight", "2"]
    done = CliRunner().invoke(root, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    one, more = found["throughput"]
    assert (one["chips"], more["chips"], more["in_flight"]) == (1, 2, 2)
    assert found["gain"] == pytest.approx(more["pictures_per_s"] / one["pictures_per_s"])
    assert "pictures/s" in CliRunner().invoke(root, asked).stdout

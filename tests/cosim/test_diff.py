# SPDX-License-Identifier: Apache-2.0
"""Two runs told apart: values to the element, cycles to the layer and cause; a build fails where it should."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from ditto_cosim.appraisal import appraise
from ditto_cosim.cli.junit import JUnitCase, write_junit
from ditto_cosim.device.pricing.moments import ROOMS, moments
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of
from ditto_cosim.difference import compare_runs
from ditto_cosim.host.generation import generate_run
from ditto_cosim.host.pipeline import journal
from ditto_cosim.host.pipeline.models import Wish, load_model
from ditto_cosim.host.report import load_report
from ditto_cosim.protocol.record import RunRecord
from ditto_cosim.pytest_plugin import assert_cycles_within, assert_same_values
from support.typed import ditto


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same steps under two designs, and one with another seed."""
    top = tmp_path_factory.mktemp("runs")
    for name, design, seed in (("ditto", "ditto", 1), ("itc", "itc", 1), ("other", "ditto", 2)):
        made = generate_run(
            load_model("fashion-ddpm"),
            Wish(3, seed),
            top / name,
            backend="model",
            chip="tiny",
            design=design,
            fp32=seed == 2,
        )
        assert made.report is not None
        assert len(made.report.fp32) == (seed == 2)
        assert all(10 < db < 80 for db in made.report.fp32_psnr_db), "int8 is near fp32 and not it"
    return top


def test_designs_compute_the_same_and_differ_by_layer_and_cause(runs: Path) -> None:
    found = compare_runs(runs / "itc", runs / "ditto")
    assert found.same_values
    assert found.first_difference is None
    assert found.pictures_psnr_db == (None,)
    assert found.cycles_a != found.cycles_b
    assert not found.agrees()
    assert found.agrees(tolerance=1e9)
    reports = load_report(runs / "itc"), load_report(runs / "ditto")
    assert sum(d.cycles_a for d in found.layers) == reports[0].cycles.sum()
    assert sum(d.cycles_b for d in found.layers) == reports[1].cycles.sum()
    assert all(bool(d.cause) == (d.cycles_a != d.cycles_b) for d in found.layers)
    assert compare_runs(runs / "itc", runs / "itc").agrees()


def test_first_difference_is_named_to_the_element(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "ditto", tmp_path / "spoiled")
    finished = journal.read(tmp_path / "spoiled", 1)
    ((name, array),) = finished.outputs.items()
    spoiled = array.copy()
    spoiled[0, 0, 5, 7] += 1
    journal.write(tmp_path / "spoiled", dataclasses.replace(finished, outputs={name: spoiled}))
    found = compare_runs(runs / "ditto", tmp_path / "spoiled")
    assert not found.same_values
    assert str(found.first_difference).startswith(f"step 1, output {name!r} at [0, 0, 5, 7]: ")
    assert not found.agrees(tolerance=1.0)
    other = compare_runs(runs / "ditto", runs / "other")
    assert str(other.first_difference).startswith("step 0, output")
    assert other.pictures_psnr_db[0] is not None


def test_diff_command_has_the_keys_and_the_status_of_its_interface(runs: Path) -> None:
    found = json.loads(ditto("diff", runs / "itc", runs / "ditto", "--json", status=1).stdout)
    assert (found["schema"], found["version"], found["same_values"]) == ("ditto.diff", 1, True)
    assert found["cycles"]["ratio"] == pytest.approx(found["cycles"]["b"] / found["cycles"]["a"])
    assert {*found["layers"][0]} == {"name", "cycles_a", "cycles_b", "cause"}
    assert {"first_difference", "pictures_psnr_db"} < {*found}
    assert "the same, bit for bit" in ditto("diff", runs / "itc", runs / "itc").stdout


def test_plugin_fails_a_build_on_values_and_on_cycles(runs: Path) -> None:
    assert_same_values(runs / "ditto", runs / "itc")
    slow, quick = sorted((runs / "ditto", runs / "itc"), key=lambda d: -load_report(d).total_cycles)
    assert_cycles_within(quick, slow)
    assert_cycles_within(slow, quick, tolerance=5.0)
    with pytest.raises(AssertionError, match=r"Most of it: \S+ \+"):
        assert_cycles_within(slow, quick, tolerance=0.0)
    with pytest.raises(AssertionError, match=r"differs from .*: step 0, output"):
        assert_same_values(runs / "other", runs / "ditto")


@pytest.mark.long
def test_plugin_is_one_that_pytest_takes(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from ditto_cosim.pytest_plugin import assert_same_values\n"
        "def test_run(ditto_run):\n"
        "    run = ditto_run(backend='model', chip='tiny', steps=3, seed=1)\n"
        f"    assert_same_values(run, {str(runs / 'ditto')!r})\n"
        f"    assert_same_values(run, {str(runs / 'other')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ditto_cosim.pytest_plugin", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "other: step 0, output" in done.stdout, "the first assertion holds, the second does not"


def test_junit_is_read_by_others(tmp_path: Path) -> None:
    cases = [
        JUnitCase("values", text="1,000 compared"),
        JUnitCase("stalls <&>", failure="row 3 differs\nexpected 7"),
    ]
    write_junit(tmp_path / "found.xml", "conform model", cases, 1.5)
    suite = ET.parse(tmp_path / "found.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "row 3 differs"
    assert suite[0].find("failure") is None


def test_conform_writes_junit(tmp_path: Path) -> None:
    path = tmp_path / "conform.xml"
    said = ditto("conform", "model", "--junit", path).stdout
    suite = ET.parse(path).getroot()[0]
    assert suite.get("failures") == "0"
    assert int(suite.get("tests", "0")) == said.count("ok  ")


def test_moments_of_a_step_add_up_to_its_books(runs: Path) -> None:
    """Units' pieces, bytes and the step's end are those that the run itself reported."""
    columns, report = RecordColumns.load(RunRecord(runs / "ditto")), load_report(runs / "ditto")
    step = moments(columns, chip_of(columns.info), design_of(columns.info), 1)
    assert step.cycles == columns.charged[1]
    assert step.busy("compute") == report.unit_cycles["compute"][1].sum()
    assert step.busy("load") == report.unit_cycles["weight_load"][1].sum()
    moved = sum(p.nbytes for p in step.pieces if p.group)
    assert moved == sum(int(a[1].sum()) for a in report.traffic_bytes.values())
    _, rate = step.bandwidth(50)
    assert rate.sum() * step.cycles / 50 == pytest.approx(sum(p.nbytes for p in step.pieces))
    for unit in ("load", "encode", "compute", "vector"):
        mine = sorted((p.start, p.end) for p in step.pieces if p.unit == unit)
        assert all(a[1] <= b[0] for a, b in pairwise(mine)), unit
    for room in ROOMS:
        levels = [level for _, level in step.fill(room)]
        assert levels[-1] == 0
        assert max(levels) <= step.rooms[room]


def test_appraisal_prices_the_run_as_it_was_charged(runs: Path) -> None:
    prices, report = appraise(runs / "ditto"), load_report(runs / "ditto")
    assert prices.equals_run
    assert prices.own.cycles == report.total_cycles
    assert sum(layer.cycles for layer in prices.layers) == report.cycles.sum()
    itc = prices.of("itc")
    assert itc is not None
    assert itc.cycles == load_report(runs / "itc").total_cycles
    assert prices.own.computing + sum(prices.own.waits.values()) == pytest.approx(1)

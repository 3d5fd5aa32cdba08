# SPDX-License-Identifier: Apache-2.0
"""What a sweep varies, what it finds, and what it says to who asks for what there is not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from ditto_cosim import workers
from ditto_cosim.cli import root
from ditto_cosim.device.chips import (
    ChipError,
    chip_fields,
    chip_from_settings,
    chip_names,
    chip_settings,
    load_chip,
)
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing import fields
from ditto_cosim.device.pricing.fields import Axis, FieldError, parse_axis
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.pricing.sweep import (
    Base,
    SweepError,
    pareto,
    parse_limit,
    parse_objectives,
    price,
    shared_first,
)
from ditto_cosim.device.timing.kernel import Pipe
from ditto_cosim.explore import explore
from ditto_cosim.protocol.record import RunInfo, RunRecord, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ddpm"
    program, chip = workload_program("ddpm"), load_chip("paper")
    info = RunInfo(
        program.to_dict(), "ddpm", chip.name, chip.digest, "ditto", "synthetic", "twos4", 2, 0, 1024
    )
    writer = RunWriter(folder, info)
    for step in range(2):
        writer.append(synthetic_step(program, step, PUBLISHED, 1024))
    return folder


# --- fields -------------------------------------------------------------------------------------------------


def test_values_are_lists_and_ranges() -> None:
    assert parse_axis("tile.columns=32,64,128") == Axis("tile.columns", (32, 64, 128))
    assert parse_axis("dram.stacks=1:4").values == (1, 2, 3, 4)
    assert parse_axis("vector.lanes=16:100:*2,7").values == (16, 32, 64, 7)
    assert parse_axis("clock_ghz=0.5:1:0.25").values == (0.5, 0.75, 1)
    assert parse_axis("design=itc,ditto").values == ("itc", "ditto")
    assert parse_axis("dram.refresh=true,false").values == (True, False)
    for text in ("dram.stacks=4:1", "dram.stacks=1:4:0", "dram.stacks=1:x", "dram.stacks=", "dram.stacks"):
        with pytest.raises(FieldError, match="expected"):
            parse_axis(text)


def test_an_unknown_field_is_answered_with_the_nearest() -> None:
    for wrong, near in (
        ("tile.colums", "tile.columns"),
        ("stacks", "dram.stacks"),
        ("design.hetero.treshold", "design.hetero.threshold"),
    ):
        with pytest.raises(FieldError, match=f"did you mean '{near}'"):
            parse_axis(f"{wrong}=1")
    with pytest.raises(FieldError, match="a record has it"):
        parse_axis("tile.low_rule=mag4")


@pytest.mark.parametrize("name", chip_names())
def test_a_chip_is_what_its_settings_make(name: str) -> None:
    chip = load_chip(name)
    assert chip_from_settings(chip_settings(chip), name, name) == chip


def test_every_field_of_a_chip_can_be_varied() -> None:
    """Each name that is offered reaches the chip: another value makes another chip."""
    chip, design = load_chip("edge"), load_design("ditto")
    settings = chip_settings(chip)
    for name in set(chip_fields()) - set(fields.RECORDED):
        table, _, key = name.rpartition(".")
        now = (settings[table] if table else settings).get(key)
        if isinstance(now, str):
            with pytest.raises(ChipError, match=key):
                fields.made(chip, design, {name: "x"})
            continue
        value = not now if isinstance(now, bool) else 2 if now is None else now * 2 or 64
        value = {"tile.k_max": 512, "tile.pe_stages": 5}.get(name, value)
        assert fields.made(chip, design, {name: value})[0] != chip, name


def test_multipliers_follow_the_lanes() -> None:
    design = load_design("ditto")
    assert fields.made(load_chip("edge"), design, {"tile.columns": 32})[0].multipliers == 2048
    paper = load_chip("paper")  # fewer than its lattice would have
    assert fields.made(paper, design, {"tile.tiles": 154})[0].multipliers == 2 * paper.multipliers
    with pytest.raises(FieldError, match="bytes_per_cycle"):
        fields.made(paper, design, {"dram.stacks": 2})


def test_what_cannot_be_built_is_left_out_and_said(run: Path) -> None:
    found, left = Base((run,)).candidates([Axis("tile.columns", (32, 33))])
    assert [c.chip.geometry.columns for c in found] == [32]
    assert "33" in left[0]
    with pytest.raises(ChipError, match="not a multiple"):
        Base((run,)).candidates([Axis("tile.columns", (33,))])
    with pytest.raises(SweepError, match="--sampler"):
        Base((run,)).candidates([Axis(f"dram.{k}", tuple(range(1, 400))) for k in ("stacks", "cas_ns")])


# --- points -------------------------------------------------------------------------------------------------


AXES = [
    Axis("tile.tiles", (2, 4)),
    Axis("dram.bytes_per_cycle", (500, 1000)),
    Axis("design", ("itc", "ditto")),
]


def test_a_point_is_the_price_of_its_chip(run: Path) -> None:
    found = explore(Base((run,)), AXES, ["cycles"], jobs=1)
    assert len(found.rows) == 8
    chip = load_chip("paper")
    few = round(chip.multipliers * 2 / 77)
    mine = replace(chip, tiles=2, multipliers=few, dram=replace(chip.dram, bytes_per_cycle=500))
    columns = RecordColumns.load(RunRecord(run))
    for design in ("itc", "ditto"):
        (row,) = (
            r
            for r in found.rows
            if (r["tile.tiles"], r["dram.bytes_per_cycle"], r["design"]) == (2, 500, design)
        )
        alone = price_run(columns, mine, load_design(design))
        assert row["cycles"] == alone.total_cycles
        assert row["energy_pj"] == alone.total_energy_pj
        assert row["power_w"] == pytest.approx(row["energy_pj"] / 1e12 / row["seconds"])
        assert row["energy_delay"] == pytest.approx(row["energy_pj"] / 1e12 * row["seconds"])


def test_a_sweep_takes_another_memory(run: Path, tmp_path: Path) -> None:
    (tmp_path / "instant.py").write_text(
        "class Instant:\n    def __init__(self, dram, clock_mhz): pass\n    def b_transport(self, payload, at): return at\n"
    )
    chip, axis = "paper_twin", parse_axis("design=itc")
    (ours,) = explore(Base((run,), chip), [axis], ["cycles"]).rows
    (found,) = explore(Base((run,), chip, f"{tmp_path}/instant.py:Instant"), [axis], ["cycles"]).rows
    assert found["cycles"] < ours["cycles"]
    alone = price_run(
        RecordColumns.load(RunRecord(run)), load_chip(chip), load_design("itc"), memory=lambda: Pipe(0)
    )
    assert found["cycles"] == alone.total_cycles


def test_a_sweep_is_the_same_on_one_and_on_two_processes(run: Path) -> None:
    one = explore(Base((run,)), AXES[:2], ["cycles"], jobs=1).rows
    assert explore(Base((run,)), AXES[:2], ["cycles"], jobs=2).rows == one


def test_candidates_whose_lanes_are_alike_follow_each_other(run: Path) -> None:
    found, _ = Base((run,)).candidates(AXES)
    order = [(found[i].design.name, found[i].chip.tiles) for i in shared_first(found)]
    assert len(order) == 8
    assert sum(a != b for a, b in pairwise(order)) == 3


def test_processes_times_threads_never_exceed_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (1, 2, 3, 8):
        monkeypatch.setattr(workers, "cores", lambda here=here: here)
        for jobs in (0, 1, 2, 5, 99):
            processes, threads = workers.budget(jobs, 240)
            assert processes * threads <= here
    monkeypatch.setattr(workers, "cores", lambda: 8)
    assert workers.budget(0, 2) == (2, 4)


def test_pareto_keeps_what_nothing_beats() -> None:
    assert set(pareto([(1, 5), (2, 4), (2, 6), (3, 4), (4, 1)])) == {0, 1, 4}
    assert set(pareto([(1, 5, 9), (2, 6, 1), (2, 6, 1), (3, 7, 2)])) == {0, 1}


def test_random_points_differ_and_follow_the_seed(run: Path) -> None:
    base = Base((run,))

    def drawn(seed: int) -> list[tuple[Any, ...]]:
        rows = explore(base, AXES[:2], ["cycles"], sampler="random", count=3, seed=seed, jobs=1).rows
        return [(r["tile.tiles"], r["dram.bytes_per_cycle"]) for r in rows]

    first = drawn(1)
    assert len(set(first)) == 3
    assert drawn(1) == first
    assert any(drawn(seed) != first for seed in (2, 3))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_optuna_prices_a_point_once_and_finds_the_same_again(run: Path, sampler: Any) -> None:
    pytest.importorskip("optuna")
    axes = [Axis("dram.bytes_per_cycle", (100, 200, 300, 400)), Axis("design", ("itc", "gpu"))]
    limits = [parse_limit("area_mm2=1400")]
    once, again = (
        explore(Base((run,)), axes, ["cycles"], limits, sampler=sampler, count=16, seed=4, jobs=1)
        for _ in range(2)
    )
    points = [(r["dram.bytes_per_cycle"], r["design"]) for r in once.rows]
    assert len(points) == len(set(points)) > 2
    assert once.rows == again.rows


# --- the command --------------------------------------------------------------------------------------------


def command(*arguments: str) -> Any:
    return CliRunner().invoke(root, ["sweep", *arguments])


def test_sweep_prints_points_and_front_and_draws_them(run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.html"
    vary = ("--vary", "tile.tiles=1,4", "--vary", "design=itc,ditto")
    done = command(str(run), *vary, "--limit", "power_w=1000", "-o", str(plot), "--json", "--jobs", "1")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found["points"]) == 4
    for row in found["points"]:
        assert row.keys() >= {"tile.tiles", "design", "cycles", "energy_pj", "area_mm2", "power_w"}
    best = min(found["points"], key=lambda r: r["cycles"])
    assert found["best"] == {k: v for k, v in best.items() if k != "pareto"}
    assert found["best"] in found["pareto"]
    page = plot.read_text()
    assert "vegaEmbed(" in page
    assert "tile tiles" in page
    assert "src=" not in page.split("<script>")[0]


def test_a_plot_needs_no_input_stream(run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.png"
    ditto = f"{sys.executable} -c 'from ditto_cosim.cli import main; main()'"
    shell = f"exec {ditto} sweep {run} --vary tile.tiles=1,4 -o {plot} --json <&- 2>&1"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert plot.stat().st_size > 1000


def test_limits_that_nothing_meets_are_told_how_near_the_best_comes(run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.html"
    vary = ("--vary", "tile.tiles=2,4", "--vary", "design=itc")
    limits = ("--limit", "area_mm2=20", "--limit", "power_w=1000")
    done = command(str(run), *vary, *limits, "-o", str(plot), "--jobs", "1")
    assert done.exit_code != 0
    assert isinstance(done.exception, SweepError)
    said = str(done.exception)
    assert "none of 2 points is within area_mm2 ≤ 20 and power_w ≤ 1000" in said
    assert "tile.tiles = 2" in said
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--limit", "aera_mm2=3"), "did you mean 'area_mm2'"),
        (("--limit", "area_mm2=-3"), "a number above 0"),
        (("--objective", "enery"), "did you mean 'energy'"),
        (("--sampler", "tep"), "did you mean 'tpe'"),
        (("--vary", "dram.stacks=1", "--vary", "dram.stacks=2"), "given twice"),
        (("--on", "cloud"), "expected local, ray"),
        (("-o", "sweep.pdf"), "written as .html"),
    ],
)
def test_bad_input_is_a_sentence_before_anything_runs(
    run: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = command(str(run), *arguments)
    assert said in str(done.exception)


def test_short_names_of_figures_are_known() -> None:
    assert parse_objectives(["energy,area", "edp"]) == ("energy_pj", "area_mm2", "energy_delay")


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("ray", ("--on", "ray"), "ditto-cosim[ray]"), ("optuna", ("--sampler", "tpe"), "ditto-cosim[search]")],
)
def test_what_is_not_installed_is_named_with_its_extra_before_anything_is_priced(
    run: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: tuple[str, ...], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(RecordColumns, "load", None)
    done = command(str(run), *arguments)
    assert f"not installed; `pip install '{extra}'`" in str(done.exception)


@pytest.mark.parametrize(
    ("address", "said"),
    [("ray://127.0.0.1:{port}", "nobody answers there"), ("ray://127.0.0.1", "expected ray://host:port")],
)
def test_a_ray_address_that_nobody_answers_is_a_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # it is not asked before somebody answers
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        done = command(str(run), "--on", address.format(port=taken.getsockname()[1]))
    assert said in str(done.exception)


def test_a_price_needs_no_judge(run: Path) -> None:
    """What a sweep leaves out of a price changes nothing else in it."""
    base = Base((run,))
    records = {run: RecordColumns.load(RunRecord(run))}
    row = price(records, base.candidate(run, {}))
    assert row["cycles"] == price_run(records[run], *base.own(run)).total_cycles

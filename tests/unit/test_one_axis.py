# SPDX-License-Identifier: Apache-2.0
"""One axis: what runs cost in its columns, quality that is equal, what it refuses, its picture and its kept figures."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ditto_cosim.cli import output, root
from ditto_cosim.cli.study_one_axis import slower_increments
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.pricing.recorded import RecordColumns
from ditto_cosim.host.analysis.quality import PictureMaker, on_golden
from ditto_cosim.host.compiler.cache import Cache
from ditto_cosim.host.pipeline.models import Wish
from ditto_cosim.host.report import RunReport, write_report
from ditto_cosim.host.zoo import models
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import (
    LayerRecord,
    RunInfo,
    RunRecord,
    RunWriter,
    StepRecord,
    SubOp,
    layer_work,
)
from ditto_cosim.study import one_axis
from ditto_cosim.study.costs import cost_of
from ditto_cosim.study.one_axis_chart import ChartError, chart, save
from ditto_cosim.study.side_by_side import kind_of
from support.families import compiled

CHIP = load_chip("tiny")
K_MAX = CHIP.geometry.k_max
KEPT = [name for name in models() if one_axis.kept(name) is not None]


def columns_of(program: Program, steps: int = 4) -> RecordColumns:
    """Every element of a difference a low one."""

    def step(i: int) -> StepRecord:
        records = []
        for layer in program.layers_of(program.step_class(i)):
            command = program.layers[layer]
            modes: list[Mode] = ["original"] if command.op != "linear_increment" else []
            modes += ["temporal"] if i or "reference" in command.attrs else []
            works = {m: tuple(sub(w, m) for w in layer_work(program, layer, m)) for m in modes}
            records.append(LayerRecord(layer, modes[-1], False, works))
        return StepRecord(i, tuple(records))

    def sub(work: Any, mode: Mode) -> SubOp:
        elements = work.groups * work.rows * work.k
        if mode == "original":
            return SubOp(work, (work.k,), None, 0, 0, elements)
        slots = np.full((1, work.groups * work.rows), work.k, np.uint16)
        return SubOp(work, (work.k,), slots, 0, elements, 0)

    info = RunInfo(program.to_dict(), "small", "tiny", "", "ditto", "model", "twos4", steps, 0, K_MAX)
    return RecordColumns(program, info, [step(i) for i in range(steps)])


def test_costs_are_of_what_runs_in_each_step() -> None:
    """MACs of two full steps and two increments, counted from the shapes of the module's own layers."""
    columns = columns_of(compiled("dit-icc").program)
    full = {c.name: c for c in compiled("dit").program.layers}

    def macs(program: Program) -> int:
        return sum(w.macs for i in range(len(program.layers)) for w in layer_work(program, i, "original"))

    corrected = [n.removesuffix(".B") for c in columns.program.layers if (n := c.name).endswith(".B")]
    tokens = 2 * 16
    thin = sum(
        tokens * 8 * (k + n)
        for name in corrected
        for n, k in [compiled("dit").program.values[full[name].operands[2]].shape]
    )
    whole = macs(compiled("dit").program)
    saved = sum(
        tokens * math.prod(compiled("dit").program.values[full[name].operands[2]].shape) for name in corrected
    )
    found = cost_of(columns, CHIP, "itc")
    assert len(corrected) == 12
    assert found["macs"] == 4 * whole - 2 * saved + 2 * thin
    assert found["multiplications"] == found["macs"], "ITC multiplies what there is"
    assert found["slots"] is None
    ditto = cost_of(columns, CHIP, "ditto")
    assert 0 < ditto["slots"] < 2 * found["macs"]
    assert ditto["cycles"] != found["cycles"]


def test_runs_are_known_by_what_they_leave_out() -> None:
    for name, steps, kind in (
        ("dit", 4, "full"),
        ("dit", 5, "steps"),
        ("dit-reuse", 4, "reuse"),
        ("dit-icc", 4, "icc"),
        ("dit-icc", 9, "both"),
    ):
        assert kind_of(columns_of(compiled(name).program), steps) == kind


def test_equal_quality_is_what_the_others_need_for_it() -> None:
    points = [(40.0, 1000), (30.0, 100), (35.0, 2000)]
    assert one_axis.cycles_for(35.0, points) == pytest.approx(math.sqrt(1000 * 100)), "on the line, in logs"
    assert one_axis.cycles_for(20.0, points) == 100
    assert one_axis.cycles_for(40.0, points) == pytest.approx(1000)
    assert one_axis.cycles_for(40.1, points) is None

    def row(way: str, kind: str, design: str, psnr_db: float, cycles: int) -> dict[str, Any]:
        base = {"way": way, "kind": kind, "design": design, "chip": "c"}
        return base | {"psnr_db": psnr_db, "cycles": cycles, "speedup_over_ditto": 400 / cycles}

    rows = [
        row("full", "full", "itc", 40, 1000),
        row("full", "full", "ditto", 40, 400),
        row("half", "steps", "itc", 30, 500),
        row("half", "steps", "ditto", 30, 200),
        row("reuse", "reuse", "ditto", 32, 250),
        row("icc", "icc", "ditto", 35, 260),
        row("slow", "icc", "ditto", 41, 440),
    ]
    first, second = one_axis.equal_quality(rows, "c")
    assert first["over_itc"] == pytest.approx(1000 / math.sqrt(2) / 260, abs=1e-4)
    assert first["over_ditto"] == pytest.approx(400 / math.sqrt(2) / 260, abs=1e-4)
    assert first["over_reuse"] == pytest.approx(250 * (400 / 250) ** (3 / 8) / 260, abs=1e-4)
    assert {second[f"over_{n}"] for n in ("itc", "ditto", "reuse")} == {None}
    assert slower_increments(rows, "c").startswith("slow: slower than every step in full on c.")
    assert slower_increments(rows[:-1], "c") == ""


def test_quality_has_the_error_of_what_it_is_over_every_step() -> None:
    """Pictures of one error each, so that decibels are plain; features that are moved, so that the distance is."""
    from ditto_cosim.host.zoo.classifier import FeatureStatistics

    rng = np.random.default_rng(0)
    off = {"full": rng.uniform(0.01, 0.02, 40), "icc": rng.uniform(0.02, 0.03, 40)}
    made = {one_axis.FP32: np.zeros((40, 2, 2))} | {
        n: np.tile(e[:, None, None], (1, 2, 2)) for n, e in off.items()
    }
    full = rng.normal(size=(40, 3))
    real = FeatureStatistics.of(rng.normal(size=(500, 3)))
    moved = np.array([0.5, 0.0, 0.0])
    found = one_axis.quality_of(made, {"full": full, "icc": full + moved, one_axis.FP32: full}, real)
    db = {name: [-20 * math.log10(e) for e in errors] for name, errors in off.items()}
    apart = [a - b for a, b in zip(db["icc"], db["full"], strict=True)]
    icc = found["icc"]
    assert icc["psnr_db"] == pytest.approx(statistics.mean(db["icc"]), abs=0.006)
    assert icc["psnr_error_db"] == pytest.approx(statistics.stdev(db["icc"]) / math.sqrt(40), abs=0.006)
    assert icc["psnr_over_full_db"] == pytest.approx(statistics.mean(apart), abs=0.006)
    assert icc["psnr_over_full_error_db"] == pytest.approx(statistics.stdev(apart) / math.sqrt(40), abs=0.006)
    offset = full.mean(0) - real.mean
    assert icc["frechet_over_full"] == pytest.approx(moved @ moved + 2 * (moved @ offset), abs=0.006)
    slope = statistics.stdev(full[:, 0]) / math.sqrt(
        40
    )  # the covariances are alike, so the rest is a mean's error
    assert icc["frechet_over_full_error"] == pytest.approx(2 * 0.5 * slope, rel=0.35)
    assert icc["frechet_error"] > 0
    assert found["full"]["frechet_over_full"] == found["full"]["frechet_over_full_error"] == 0
    assert found[one_axis.FP32]["psnr_db"] is None
    few = one_axis.quality_of({n: p[:1] for n, p in made.items()}, {})
    assert few["icc"]["psnr_error_db"] is None
    assert few["icc"]["frechet_distance"] is None


def test_kept_command_names_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [
        "ditto",
        "study",
        "one_axis",
        "--figures",
        "/tmp/x/axis.json",
        "--output=/tmp/a b.svg",
        "-o",
        "docs/a.svg",
    ]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/ditto", *typed[1:]])
    assert output.typed() == "ditto study one_axis --figures axis.json '--output=a b.svg' -o docs/a.svg"


def test_machine_gives_goldens_pictures(tmp_path: Path) -> None:
    made = []
    for computed in (on_golden, one_axis.on_machine):
        settings = {"cache": Cache("reuse", 2)}
        maker = PictureMaker("fashion-dit", "p", Wish(3), {}, 2, settings, None, computed=computed)
        made.append(maker.pictures(3, 0, tmp_path / computed.__name__))
    assert np.array_equal(made[0], made[1])
    maker = PictureMaker("fashion-dit", "p", Wish(3), {}, 2, settings, None, computed=one_axis.on_machine)
    longer = maker.pictures(4, 0, tmp_path / "on_machine")
    assert np.array_equal(longer[:3], made[0]), "it goes on with what is kept"
    with np.load(next((tmp_path / "on_machine").iterdir())) as kept:
        assert len(kept["pictures"]) == 4


def written(folder: Path, seed: int, shade: int, *, fp32: bool = False, steps: int = 2) -> Path:
    """A run's directory with one grey picture."""
    columns = columns_of(compiled("dit").program, steps)
    writer = RunWriter(folder, replace(columns.info, seed=seed))
    program = columns.program
    for i in columns.steps:
        layers = tuple(
            LayerRecord(layer, "original", False, {"original": columns.met[layer]["original"].works[i]})
            for layer in program.layers_of("full")
        )
        writer.append(StepRecord(i, layers))
    writer.close({"wall_s": 1.0})
    for name, grey in (("picture-0.png", shade), *((("fp32-0.png", 100),) if fp32 else ())):
        Image.new("L", (8, 8), grey).save(folder / name)
    shown = LayerReport(step=0, layer=0, name="l", op="linear", mode="original", cycles=1)
    report = RunReport.of(
        [shown],
        model="small",
        design="ditto",
        chip="tiny",
        backend="model",
        low_rule="twos4",
        seed=seed,
        clock_hz=10**9,
        command_line="",
        wall_s=1.0,
        images=("picture-0.png",),
        fp32=("fp32-0.png",) if fp32 else (),
    )
    write_report(report, folder)
    return folder


def test_compare_puts_runs_beside_each_other_and_refuses_what_does_not_belong(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", 1, 100, fp32=True), written(tmp_path / "b", 1, 110, steps=1)
    done = CliRunner().invoke(root, ["compare", str(first), str(second), "--designs", "itc,ditto", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = found["rows"]
    assert [(r["way"], r["design"], r["kind"]) for r in rows] == [
        ("a", "itc", "full"), ("a", "ditto", "full"), ("b", "itc", "steps"), ("b", "ditto", "steps")
    ]  # fmt: skip
    assert rows[0]["psnr_db"] is None, "its picture is the fp32 one"
    assert rows[2]["psnr_db"] == round(20 * math.log10(255 / 10), 2)
    assert rows[2]["macs"] * 2 == rows[0]["macs"]
    assert rows[2]["speedup"] > rows[0]["speedup"] == 1
    assert Path(found["plot"]).stat().st_size > 1000
    other = written(tmp_path / "c", 2, 100)
    refused = CliRunner().invoke(root, ["compare", str(first), str(other)])
    assert "is of seed 2" in str(refused.exception)
    assert "needs the same seed in all runs" in str(refused.exception)


def test_compare_of_one_run_has_the_columns_too(tmp_path: Path) -> None:
    run = written(tmp_path / "a", 1, 100)
    done = CliRunner().invoke(root, ["compare", str(run), "--designs", "itc,ditto", "--no-plot", "--json"])
    found = json.loads(done.stdout)["designs"]
    assert found["itc"]["macs"] == found["ditto"]["macs"] == found["itc"]["multiplications"]
    assert found["itc"]["slots"] is None
    assert found["ditto"]["slots"] > 0


def test_kept_figures_are_of_the_model_that_takes_most_ways() -> None:
    assert "fashion-dit" in KEPT


@pytest.mark.parametrize("model", KEPT)
def test_kept_figures_are_whole_and_drawn(model: str, tmp_path: Path) -> None:
    """What ships was made by the command that it names, and every row of it is in the picture."""
    found = one_axis.kept(model)
    assert found is not None
    assert found["command"].startswith(f"ditto study one_axis --measure --model {model}")
    columns = {
        "psnr_db",
        "frechet_distance",
        "macs",
        "slots",
        "multiplications",
        "cycles",
        "bytes",
        "energy_j",
    }
    assert all(columns <= row.keys() and row["exact"] for row in found["rows"])
    kinds = {row["kind"] for row in found["rows"]}
    assert kinds >= {"full", "steps"} | ({"reuse", "icc", "both"} if model == "fashion-dit" else {"sq_dm"})
    for left in found["left_out"]:
        assert len(left["why"]) > 20
    values = chart(found["rows"]).to_dict()["data"]["values"]
    assert len(values) == len(found["rows"])
    save(found["rows"], tmp_path / "axis.svg")
    assert (tmp_path / "axis.svg").read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(ChartError, match=r"axis.pdf: a chart is written as \.svg"):
        save(found["rows"], tmp_path / "axis.pdf")


@pytest.mark.long
def test_measure_makes_runs_once_and_verifies_them(tmp_path: Path) -> None:
    said: list[str] = []
    found = one_axis.measure(
        "fashion-dit", tmp_path, steps=4, pictures=2, tell=lambda what, done, of: said.append(what)
    )
    assert {row["kind"] for row in found["rows"]} == {"full", "steps", "reuse", "icc", "both"}
    assert all(row["exact"] for row in found["rows"])
    assert [left["way"] for left in found["left_out"]] == ["sq_dm"]
    best = max(found["rows"], key=lambda row: float(row["psnr_db"]))
    assert best["kind"] == "full"
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("record.zip")}
    assert one_axis.measure("fashion-dit", tmp_path, steps=4, pictures=2) == found
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("record.zip")}
    assert len(list(RunRecord(next(iter(before)).parent))) <= 4

# SPDX-License-Identifier: Apache-2.0
"""`ditto rtl …`: build, test, replay, look at, cover, lint and synthesise the RTL.

The only place where the device's lane model is handed to the harness's regression. Heavy imports wait until a
command runs. What it does not do: generate images (`ditto generate --backend rtl`) or measure speed (`ditto
bench rtl`).
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ditto_cosim.sim_harness.regression import Mismatch, Report

app = typer.Typer(help="The silicon: build, test, replay, synthesise.", no_args_is_help=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class _LaneReference:
    """What the RTL is held to: products in float64 (exact far beyond 2³¹), the rest from the contract."""

    def __init__(self) -> None:
        from ditto_cosim.device.timing import lane

        self.counts = lane.row_counts
        self.times = lane.tile_times
        self.stalled_times = lane.stalled_times
        self.weight_load_cycles = lane.weight_load_cycles

    def accumulators(self, current: Any, reference: Any, weights: Any) -> Any:
        import numpy as np

        difference = current.astype(np.float64) - reference
        return (difference @ weights.astype(np.float64)).astype(np.int32)


def _set_names(names: list[str] | None) -> list[str]:
    from ditto_cosim.sim_harness.regression import SETS

    for name in names or []:
        if name not in SETS:
            raise typer.BadParameter(f"{name!r} is no parameter set; known: {', '.join(SETS)}")
    return names or list(SETS)


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Parameter sets; all by default.")] = None,
    assertions: Annotated[bool, typer.Option(help="Keep the RTL's assertions.")] = False,
    trace: Annotated[str, typer.Option(help="none, vcd or fst.")] = "none",
    as_json: JsonFlag = False,
) -> None:
    """Compile tiles (or find them in the cache)."""
    from ditto_cosim.sim_harness.build import BuildOptions
    from ditto_cosim.sim_harness.build import build as build_tile
    from ditto_cosim.sim_harness.regression import SETS

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if trace not in ("none", "vcd", "fst"):
        raise typer.BadParameter(f"--trace {trace}: expected none, vcd or fst")
    rows = []
    for name in _set_names(names):
        options = BuildOptions(assertions=assertions, trace=trace)  # type: ignore[arg-type]  # checked above
        made = build_tile(SETS[name], options)
        rows.append(
            {
                "set": name,
                "cached": made.cached,
                "seconds": round(made.seconds, 3),
                "library": str(made.library),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['set']:12} {'cached' if row['cached'] else 'built':7} {row['seconds']:7.3f} s  {row['library']}"
        )


@app.command("test")
def run_test(
    seconds: Annotated[float, typer.Option(help="How long to run.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the random cases.")] = 0,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Parameter sets; all by default.")] = None,
    case: Annotated[str, typer.Option(help="Run this one case, as a mismatch printed it.")] = "",
    after: Annotated[str, typer.Option(help="Run this case before it, on the same tile.")] = "",
    activations: Annotated[
        Path | None, typer.Option(help="Recorded activations (.npz) to run as well.")
    ] = None,
    wave: Annotated[Path, typer.Option(help="Folder for the waveform of a mismatch.")] = Path("rtl-mismatch"),
    as_json: JsonFlag = False,
) -> None:
    """Hold the RTL to its model, row by row and cycle by cycle."""
    from ditto_cosim.sim_harness.cases import Case
    from ditto_cosim.sim_harness.regression import Report, run_alone, run_regression

    model = _LaneReference()
    say = (lambda text: typer.echo(text, err=True)) if as_json else typer.echo
    if case:
        found = run_alone(Case.parse(case), Case.parse(after) if after else None, model, None, None)
        report = Report(seed, cases=1, mismatches=[found] if found else [])
    else:
        report = run_regression(
            model, seconds=seconds, seed=seed, geometries=_set_names(sets), wave_dir=wave, progress=say,
            recorded=_recorded(activations, model),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(_report_json(report)))
    else:
        _print_report(report)
    if report.mismatches:
        raise typer.Exit(1)


def _recorded(path: Path | None, model: Any) -> Any:
    """Runs recorded activations on a bench: those of the file, or the ones that ship."""
    from ditto_cosim.sim_harness.captures import load_captures, shipped
    from ditto_cosim.sim_harness.recorded import replay

    if path is None and not shipped().exists():
        return None
    captures = load_captures(path or shipped())

    def run(bench: Any, report: Any) -> Any:
        for capture in captures:
            found = replay(capture, bench, model, report)
            if found is not None:
                return found
        return None

    return run


def _mismatch_json(mismatch: Mismatch) -> dict[str, Any]:
    return {
        "what": mismatch.what,
        "case": mismatch.case.text,
        "row": mismatch.row,
        "element": mismatch.element,
        "expected": mismatch.expected,
        "got": mismatch.got,
        "detail": mismatch.detail,
        "command": mismatch.command,
    }


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "stalled_rows": report.stalled_rows,
        "recorded_rows": report.recorded_rows,
        "cycles": report.cycles,
        "cases": report.cases,
        "mismatches": [_mismatch_json(m) for m in report.mismatches],
        "coverage": report.functional.share,
        "coverage_missed": report.functional.missed,
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "waveform": str(report.waveform) if report.waveform else None,
    }


def _print_report(report: Report) -> None:
    typer.echo(
        f"{report.cases} passes, {report.rows} rows ({report.stalled_rows} under stalls, {report.recorded_rows} "
        f"recorded), {report.cycles} cycles compared in {report.seconds:.0f} s, seed {report.seed}"
    )
    typer.echo(f"functional coverage {report.functional.share:.1%}")
    for name in report.functional.missed:
        typer.echo(f"  not seen: {name}")
    for mismatch in report.mismatches:
        typer.echo(f"MISMATCH {mismatch}\n  again:    {mismatch.command}")
    if report.waveform:
        typer.echo(f"  waveform: {report.waveform}")
    if not report.mismatches:
        typer.echo("RTL and model agree")


@app.command()
def wave(
    output: Annotated[Path, typer.Option("-o", "--output", help="waveform.vcd or .fst")] = Path("tile.vcd"),
    name: Annotated[str, typer.Option("--set", help="Parameter set.")] = "tiny",
    case: Annotated[str, typer.Option(help="A case; by default a small mixed one.")] = "",
) -> None:
    """Run one case into a waveform."""
    from ditto_cosim.sim_harness.cases import Case
    from ditto_cosim.sim_harness.regression import SETS, run_alone

    _set_names([name])
    e, c = SETS[name].encode_width, SETS[name].columns
    chosen = (
        Case.parse(case) if case else Case(name, 4, 3 * e + 1, 2 * c, "temporal", "mixed", stalls="light")
    )
    found = run_alone(chosen, None, _LaneReference(), None, output)
    typer.echo(f"{output}: {chosen.text}: {found or 'RTL and model agree'}")


@app.command()
def coverage(
    seconds: Annotated[float, typer.Option(help="How long to run.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the random cases.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Line, toggle and functional coverage of the regression's cases."""
    from ditto_cosim.sim_harness import coverage as measured

    lines, toggles, report = measured.measure(_LaneReference(), seconds, seed)
    values = {
        "lines": lines.share,
        "lines_missed": lines.missed,
        "toggles": toggles.share,
        "toggles_missed": toggles.missed,
        "toggles_excused": toggles.excused,
        "functional": report.functional.share,
        "functional_missed": report.functional.missed,
        "rows": report.rows,
        "seed": seed,
    }
    if as_json:
        typer.echo(json.dumps(values))
        return
    typer.echo(f"lines       {lines.share:7.2%} of {lines.total}")
    typer.echo(
        f"toggles     {toggles.share:7.2%} of {toggles.total} ({toggles.excused} more excused, by name)"
    )
    typer.echo(f"functional  {report.functional.share:7.2%}   over {report.rows} rows, seed {seed}")
    for missed in (*lines.missed, *toggles.missed, *report.functional.missed):
        typer.echo(f"  not covered: {missed}")


@app.command()
def lint() -> None:
    """Verilator -Wall and verible over the RTL."""
    from ditto_cosim.sim_harness.lint import run_lint

    problems = run_lint()
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo("clean: verilator -Wall on every parameter set, verible-verilog-lint")


@app.command()
def synth(
    name: Annotated[str, typer.Option("--set", help="Parameter set.")] = "tiny",
    as_json: JsonFlag = False,
) -> None:
    """Synthesise a tile for ECP5 with yosys and print its size."""
    from ditto_cosim.sim_harness.regression import SETS
    from ditto_cosim.sim_harness.synth import synthesise

    _set_names([name])
    size = synthesise(SETS[name])
    values = {f: getattr(size, f) for f in ("lut4", "ff", "dsp", "bram", "latches", "loops")}
    if as_json:
        typer.echo(json.dumps({"set": name, **values, "cells": size.cells}))
        return
    for key, value in values.items():
        typer.echo(f"{key:8} {value}")


@app.command()
def replay(
    run: Annotated[
        Path, typer.Argument(help="A run that `ditto generate` wrote, or captured operands (.npz).")
    ],
    step: Annotated[int, typer.Option(help="Step of the run.")] = 0,
    layer: Annotated[str, typer.Option(help="Layer of the run; all of them if left out.")] = "",
    row: Annotated[int | None, typer.Option(help="Only this row, into a waveform.")] = None,
    name: Annotated[str, typer.Option("--set", help="Parameter set; by default the run's chip's.")] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="Waveform of --row.")] = Path("row.vcd"),
    save: Annotated[Path | None, typer.Option(help="Also keep the operands in this .npz.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a layer of a recorded run through the RTL again and hold every row to the model."""
    from ditto_cosim.sim_harness.captures import load_captures, save_captures
    from ditto_cosim.sim_harness.recorded import replay_all

    if run.suffix == ".npz":
        captures = load_captures(run)
        captures = [c for c in captures if not layer or c.name.partition("[")[0] == layer]
    else:
        captures, chip_set = _recapture(run, step, layer)
        name = name or chip_set
    name = name or "cosim"
    _set_names([name])
    if row is not None and not layer:
        raise typer.BadParameter("--row needs --layer: a waveform shows one row of one layer")
    if save is not None:
        save_captures(save, captures)
    model = _LaneReference()
    found, report = replay_all(captures, name, model, row, output if row is not None else None)
    values = {
        "set": name,
        "products": len(captures),
        "rows": report.rows,
        "cycles": report.cycles,
        "mismatch": None if found is None else str(found),
        "waveform": str(output) if row is not None else None,
    }
    if as_json:
        typer.echo(json.dumps(values))
    else:
        typer.echo(f"{len(captures)} products on {name}: {report.rows} rows, {report.cycles} cycles")
        typer.echo(str(found or "RTL and model agree"))
        if row is not None:
            typer.echo(f"waveform: {output}")
    if found is not None:
        raise typer.Exit(1)


def _recapture(run: Path, step: int, layer: str) -> tuple[Any, str]:
    """A run's operands again, and the parameter set of its chip."""
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.host.pipeline.models import load_denoiser
    from ditto_cosim.protocol.record import RunRecord
    from ditto_cosim.recapture import recapture
    from ditto_cosim.sim_harness.regression import SETS

    record = RunRecord(run)
    layers = [layer] if layer else [command.name for command in record.program.layers]
    geometry = load_chip(record.info.chip).geometry
    known = next((name for name, candidate in SETS.items() if candidate == geometry), "")
    return recapture(run, load_denoiser(record.info.model), step, layers), known

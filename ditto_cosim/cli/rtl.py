# SPDX-License-Identifier: Apache-2.0
"""`ditto rtl …`: build, test, replay, look at, cover, lint and synthesise the RTL, ours or the user's own.

The only place where the device's lane contract is handed to the harness's regression. Heavy imports wait until a command
runs. A mismatch ends in status 1, a regression that could not run its directed cases in status 3.
What it does not do: compare two RTLs, mutate, prove or poke (`rtl_trust.py`), generate images (`ditto generate --backend
rtl`) or measure speed (`ditto bench rtl`).
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.protocol.suggest import did_you_mean

if TYPE_CHECKING:
    from ditto_cosim.sim_harness.array_regression import ArrayMismatch, ArrayReport
    from ditto_cosim.sim_harness.regression import Mismatch, Report

app = typer.Typer(
    help="The silicon: build, test, replay, synthesise.", no_args_is_help=True, rich_markup_mode=None
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


RtlDir = Annotated[
    Path | None,
    typer.Option("--rtl-dir", help="Folder with your own copies of our modules; what it lacks is ours."),
]
ContractName = Annotated[
    str, typer.Option("--contract", help="Cycles and counts your RTL keeps instead of ours: file.py:Class.")
]
ChipName = Annotated[
    str, typer.Option("--chip", help="Lanes of this chip (a name or a TOML file) instead of sets.")
]

INCOMPLETE = 3
"""Exit status of a regression that agreed as far as it came, which was not far enough."""


class LaneReference:
    """What the RTL is held to: products in float64 (exact far beyond 2³¹), the rest from a contract."""

    def __init__(self, contract: str = "") -> None:
        from ditto_cosim.device.timing.contract import load_contract

        lane = load_contract(contract)
        self.counts = lane.row_counts
        self.times = lane.tile_times
        self.stalled_times = lane.stalled_times
        self.weight_load_cycles = lane.weight_load_cycles

    def accumulators(self, current: Any, reference: Any, weights: Any) -> Any:
        import numpy as np

        difference = current.astype(np.float64) - reference
        return (difference @ weights.astype(np.float64)).astype(np.int32)


def block_reference() -> Any:
    """What SQ-DM's arrays and detector are held to: int64 sums, the rest from the contract."""
    import numpy as np

    from ditto_cosim.device.timing.contract import ArrayContract
    from ditto_cosim.protocol.blocks import E4M3_CODES, e4m3_scale

    numbers = np.array([e4m3_scale(code) for code in range(E4M3_CODES)], np.int64)

    class BlockReference(ArrayContract):
        @property
        def detector(self) -> ArrayContract:
            return self

        def accumulators(self, codes: Any, scales: Any, weights: Any, weight_scales: Any) -> Any:
            (rows, blocks), n = scales.shape, weights.shape[1]
            a = codes.reshape(rows, blocks, -1).transpose(1, 0, 2)
            sums = a @ weights.astype(np.int64).reshape(blocks, -1, n)
            both = numbers[scales].T[:, :, None] * numbers[weight_scales][:, None]
            return (sums * both).sum(0)

    return BlockReference()


def fail(message: object) -> NoReturn:
    """Ends the command: what was asked cannot be done."""
    typer.echo(f"ditto rtl: {message}", err=True)
    raise typer.Exit(2)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors that a user can cause end in one sentence."""
    from ditto_cosim.protocol.errors import DittoError

    try:
        yield
    except (DittoError, ValueError) as error:
        fail(error)


def set_names(names: list[str] | None, chip: str = "") -> list[str]:
    """Parameter sets to run; the lanes of `chip` become one."""
    from ditto_cosim.sim_harness.regression import SETS

    if chip:
        from ditto_cosim.device.chips import load_chip

        SETS["chip"] = load_chip(chip).geometry
        return ["chip"]
    for name in names or []:
        if name not in SETS:
            fail(f"{name!r} is no parameter set{did_you_mean(name, SETS)}; known: {', '.join(SETS)}")
    return names or [name for name in SETS if name != "tall"]


def split_sets(names: list[str] | None) -> tuple[list[str], list[str]]:
    """(the tile's sets, SQ-DM's) among those named."""
    from ditto_cosim.sim_harness.array_regression import ARRAY_NAMES

    given = names or []
    return [name for name in given if name not in ARRAY_NAMES], [
        name for name in given if name in ARRAY_NAMES
    ]


def own_rtl(rtl_dir: Path | None, names: list[str]) -> tuple[str, ...]:
    """Names of the user's files, whose interface has been checked for every set."""
    if rtl_dir is None:
        return ()
    from ditto_cosim.sim_harness.interface import check_interface
    from ditto_cosim.sim_harness.regression import SETS

    own: tuple[str, ...] = ()
    for name in names:
        own = check_interface(rtl_dir, SETS[name])
    return own


def repeated_flags(rtl_dir: Path | None, contract: str, chip: str = "") -> str:
    """What a command that reproduces has to say again."""
    given = (("--rtl-dir", rtl_dir and str(rtl_dir)), ("--contract", contract), ("--chip", chip))
    return "".join(f" {name} {shlex.quote(value)}" for name, value in given if value)


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Parameter sets; all by default.")] = None,
    assertions: Annotated[bool, typer.Option(help="Keep the RTL's assertions.")] = False,
    trace: Annotated[str, typer.Option(help="none, vcd or fst.")] = "none",
    rtl_dir: RtlDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile tiles (or find them in the cache)."""
    from ditto_cosim.sim_harness.build import BuildOptions
    from ditto_cosim.sim_harness.build import build as build_tile
    from ditto_cosim.sim_harness.regression import SETS

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if trace not in ("none", "vcd", "fst"):
        fail(f"--trace {trace}: expected none, vcd or fst")
    rows = []
    with one_sentence():
        own_rtl(rtl_dir, set_names(names))
        for name in set_names(names):
            options = BuildOptions(assertions=assertions, trace=trace, rtl_dir=rtl_dir)  # type: ignore[arg-type]
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
        emit("rtl build", {"builds": rows})
        return
    for row in rows:
        typer.echo(
            f"{row['set']:12} {'cached' if row['cached'] else 'built':7} {row['seconds']:7.3f} s  {row['library']}"
        )


@app.command("test")
def run_test(
    seconds: Annotated[
        float, typer.Option(help="How long to run; directed cases are finished whatever it says.")
    ] = 60.0,
    limit: Annotated[
        float, typer.Option(help="Give up after so many seconds, directed cases or not; 0: never.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(help="Seed of the random cases and of the registers' first state.")
    ] = 0,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Parameter sets, of the tile or of SQ-DM's arrays and detector; all by default."
        ),
    ] = None,
    case: Annotated[str, typer.Option(help="Run this one case, as a mismatch printed it.")] = "",
    after: Annotated[str, typer.Option(help="Run this case before it, on the same tile.")] = "",
    activations: Annotated[
        Path | None, typer.Option(help="Recorded activations (.npz) to run as well.")
    ] = None,
    wave: Annotated[Path, typer.Option(help="Folder for the waveform of a mismatch.")] = Path("rtl-mismatch"),
    rtl_dir: RtlDir = None,
    contract: ContractName = "",
    chip: ChipName = "",
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML for a build server into this file.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold the RTL to its model, row by row and cycle by cycle: Ditto's tile, then SQ-DM's arrays and detector.

    SQ-DM's take a quarter of the seconds beside the tile's, and all of them if only they are named. With RTL, a contract or a
    chip of your own they run if they are named.

    Status 0: it agrees. 1: it does not. 3: incomplete, not all directed cases could be run."""
    from ditto_cosim.sim_harness.build import BuildOptions
    from ditto_cosim.sim_harness.cases import Case
    from ditto_cosim.sim_harness.regression import Report, run_alone, run_regression, write_waveform

    say: Callable[[str], None] = (lambda text: typer.echo(text, err=True)) if as_json else typer.echo
    flags = repeated_flags(rtl_dir, contract, chip)
    options = BuildOptions(rtl_dir=rtl_dir)
    arrays: ArrayReport | None = None
    with one_sentence():
        model = LaneReference(contract)
        tile_sets, array_sets = split_sets(sets)
        whole = not sets and not (chip or contract or rtl_dir)
        names = set_names(tile_sets, chip) if tile_sets or not array_sets else []
        if case.startswith("array="):
            names = []
            report, arrays = Report(seed, complete=True), _array_case(case, after, options, wave, seed)
        elif case:
            chosen = Case.parse(case)
            own_rtl(rtl_dir, set_names([chosen.geometry]))
            found = run_alone(chosen, Case.parse(after) if after else None, model, options, state_seed=seed)
            report = Report(seed, cases=1, complete=True, mismatches=[])
            if found is not None:
                flags = (f" --seed {seed}" if seed else "") + flags
                report.mismatches.append(replace(found, flags=flags))
                report.waveform = write_waveform(found, model, wave, options, seed)
        else:
            own = own_rtl(rtl_dir, names)
            if own:
                say(f"yours: {', '.join(own)}; the rest is ours")
            report = Report(seed, complete=True) if not names else run_regression(
                model, seconds=seconds, limit_s=limit or float("inf"), seed=seed, geometries=names,
                options=options, wave_dir=wave, progress=say, flags=flags,
                recorded=_recorded(activations, model),
            )  # fmt: skip
            if (whole or array_sets) and not report.mismatches:
                from ditto_cosim.sim_harness.array_regression import ARRAY_NAMES, run_array_regression

                arrays = run_array_regression(
                    block_reference(), seconds=seconds / 4 if names else seconds, limit_s=limit or float("inf"),
                    seed=seed, names=array_sets or ARRAY_NAMES, options=options, progress=say,
                )  # fmt: skip
    if as_json:
        values = _report_json(report)
        emit("rtl test", values | ({"arrays": _arrays_json(arrays)} if arrays else {}))
    else:
        if names or not arrays:
            _print_report(report)
        if arrays:
            _print_arrays(arrays)
    if junit is not None:
        _write_junit(report, [chosen.geometry] if case else names, arrays, junit)
    if report.mismatches or (arrays and arrays.mismatches):
        raise typer.Exit(1)
    if not report.complete or (arrays and not arrays.complete):
        raise typer.Exit(INCOMPLETE)


def _array_case(case: str, after: str, options: Any, wave: Path, seed: int) -> ArrayReport:
    """One case of SQ-DM's arrays; a waveform if it differs."""
    from ditto_cosim.sim_harness.array_cases import ArrayCase
    from ditto_cosim.sim_harness.array_regression import ArrayReport, run_array_alone

    chosen, before = ArrayCase.parse(case), ArrayCase.parse(after) if after else None
    report, model = ArrayReport(seed, cases=1, complete=True), block_reference()
    found = run_array_alone(chosen, before, model, options, state_seed=seed)
    if found is not None:
        report.mismatches.append(found)
        wave.mkdir(parents=True, exist_ok=True)
        trace = wave / f"mismatch-{chosen.array}-{found.what.replace(' ', '-')}.vcd"
        run_array_alone(chosen, before, model, options, trace, seed)
        typer.echo(f"waveform: {trace}", err=True)
    return report


def _arrays_json(report: ArrayReport) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "stalled_rows": report.stalled_rows,
        "cycles": report.cycles,
        "cases": report.cases,
        "channels": report.channels,
        "complete": report.complete,
        "directed": report.directed,
        "mismatches": [_mismatch_json(m) for m in report.mismatches],
        "coverage": report.share,
        "coverage_missed": report.missed,
        "seconds": round(report.seconds, 1),
    }


def _print_arrays(report: ArrayReport) -> None:
    for mismatch in report.mismatches:
        typer.echo(f"MISMATCH {mismatch}\n  again:    {mismatch.command}")
    typer.echo(
        f"SQ-DM: {report.cases} passes, {report.rows} rows ({report.stalled_rows} under stalls), {report.cycles} cycles, "
        f"{report.channels} channels tagged in {report.seconds:.0f} s, seed {report.seed}"
    )
    if report.hits:
        typer.echo(f"functional coverage {report.share:.1%}")
        for name in report.missed:
            typer.echo(f"  not seen: {name}")
    if report.complete:
        typer.echo("arrays, detector and model agree")
    elif not report.mismatches:
        typer.echo(
            f"INCOMPLETE: {min(report.done, report.directed)} of {report.directed} directed cases were run"
        )


def _write_junit(report: Report, sets: list[str], arrays: ArrayReport | None, path: Path) -> None:
    """A case a parameter set, and one that says whether everything was run."""
    from ditto_cosim.cli.junit import JUnitCase, write_junit

    cases = []
    for name in sets:
        found = [f"{m}\n{m.command}" for m in report.mismatches if m.case.geometry == name]
        cases.append(JUnitCase(f"tile {name}", failure="\n".join(found)))
    ran = f"{min(report.done, report.directed)} of {report.directed} directed cases were run"
    told = f"{report.rows} rows, {report.cycles} cycles compared, seed {report.seed}"
    stopped = not report.complete and not report.mismatches
    cases.append(JUnitCase("complete", failure=ran if stopped else "", text=told))
    if arrays is not None:
        found = [f"{m}\n{m.command}" for m in arrays.mismatches]
        cases.append(JUnitCase("arrays and detector of SQ-DM", failure="\n".join(found)))
        ran = f"{min(arrays.done, arrays.directed)} of {arrays.directed} directed cases were run"
        stopped = not arrays.complete and not arrays.mismatches
        cases.append(JUnitCase("arrays and detector of SQ-DM, complete", failure=ran if stopped else ""))
    write_junit(path, "ditto rtl test", cases, report.seconds)


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


def _mismatch_json(mismatch: Mismatch | ArrayMismatch) -> dict[str, Any]:
    return {
        "what": mismatch.what,
        "case": mismatch.case.text if mismatch.case else None,
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
        "complete": report.complete,
        "directed": report.directed,
        "mismatches": [_mismatch_json(m) for m in report.mismatches],
        "coverage": report.functional.share,
        "coverage_missed": report.functional.missed,
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "waveform": str(report.waveform) if report.waveform else None,
    }


def _print_report(report: Report) -> None:
    for mismatch in report.mismatches:
        typer.echo(f"MISMATCH {mismatch}\n  again:    {mismatch.command}")
    if report.waveform:
        typer.echo(f"  waveform: {report.waveform}")
    typer.echo(
        f"{report.cases} passes, {report.rows} rows ({report.stalled_rows} under stalls, {report.recorded_rows} "
        f"recorded), {report.cycles} cycles compared in {report.seconds:.0f} s, seed {report.seed}"
    )
    if report.functional.hits:
        typer.echo(f"functional coverage {report.functional.share:.1%}")
        for name in report.functional.missed:
            typer.echo(f"  not seen: {name}")
    if report.mismatches:
        typer.echo("RTL and model differ: see MISMATCH above")
    elif report.complete:
        typer.echo("RTL and model agree")
    else:
        ran = min(report.done, report.directed)
        typer.echo(f"INCOMPLETE: {ran} of {report.directed} directed cases were run; what ran agreed")


@app.command()
def wave(
    output: Annotated[Path, typer.Option("-o", "--output", help="waveform.vcd or .fst")] = Path("tile.vcd"),
    name: Annotated[str, typer.Option("--set", help="Parameter set.")] = "tiny",
    case: Annotated[str, typer.Option(help="A case; by default a small mixed one.")] = "",
    rtl_dir: RtlDir = None,
    contract: ContractName = "",
) -> None:
    """Run one case into a waveform: ports, registers, and the four weight rows of every word.

    An .fst of this Verilator crashes Surfer before 0.7 (its reader is too old); GTKWave reads it, and every viewer a .vcd."""
    from ditto_cosim.sim_harness.build import BuildOptions
    from ditto_cosim.sim_harness.cases import Case
    from ditto_cosim.sim_harness.regression import SETS, run_alone

    set_names([name])
    e, c = SETS[name].encode_width, SETS[name].columns
    with one_sentence():
        small = Case(name, 4, 3 * e + 1, 2 * c, "temporal", "mixed", stalls="light")
        chosen = Case.parse(case) if case else small
    with one_sentence():
        own_rtl(rtl_dir, [chosen.geometry])
        found = run_alone(chosen, None, LaneReference(contract), BuildOptions(rtl_dir=rtl_dir), output)
    typer.echo(f"{output}: {chosen.text}: {found or 'RTL and model agree'}")


@app.command()
def coverage(
    of: Annotated[str, typer.Option(help="tile: Ditto's; sq_dm: SQ-DM's arrays and detector.")] = "tile",
    seconds: Annotated[float, typer.Option(help="How long to run.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the random cases.")] = 0,
    rtl_dir: RtlDir = None,
    contract: ContractName = "",
    as_json: JsonFlag = False,
) -> None:
    """Line, toggle and functional coverage of the regression's cases."""
    from ditto_cosim.sim_harness import coverage as measured

    if of not in ("tile", "sq_dm"):
        fail(f"--of {of}: expected one of tile, sq_dm")
    if of == "sq_dm" and contract:
        fail("--contract is about Ditto's lane; --of sq_dm has none")
    report: Report | ArrayReport
    with one_sentence():
        if of == "tile":
            own_rtl(rtl_dir, list(measured.COVERAGE_SETS))
            lines, toggles, report = measured.measure(LaneReference(contract), seconds, seed, rtl_dir)
            functional = report.functional.share, report.functional.missed
        else:
            lines, toggles, report = measured.measure_arrays(block_reference(), seconds, seed, rtl_dir)
            functional = report.share, report.missed
    values = {
        "of": of,
        "lines": lines.share,
        "lines_missed": lines.missed,
        "toggles": toggles.share,
        "toggles_missed": toggles.missed,
        "toggles_excused": toggles.excused,
        "functional": functional[0],
        "functional_missed": functional[1],
        "rows": report.rows,
        "seed": seed,
        "mismatches": [_mismatch_json(m) for m in report.mismatches],
    }
    if as_json:
        emit("rtl coverage", values)
        raise typer.Exit(1 if report.mismatches else 0)
    for mismatch in report.mismatches:
        typer.echo(f"MISMATCH {mismatch}")
    typer.echo(f"lines       {lines.share:7.2%} of {lines.total}")
    typer.echo(
        f"toggles     {toggles.share:7.2%} of {toggles.total} ({toggles.excused} more excused, by name)"
    )
    typer.echo(f"functional  {functional[0]:7.2%}   over {report.rows} rows, seed {seed}")
    for missed in (*lines.missed, *toggles.missed, *functional[1]):
        typer.echo(f"  not covered: {missed}")
    raise typer.Exit(1 if report.mismatches else 0)


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
    name: Annotated[
        str, typer.Option("--set", help="Parameter set, of the tile or of SQ-DM's arrays and detector.")
    ] = "tiny",
    rtl_dir: RtlDir = None,
    chip: ChipName = "",
    clock: Annotated[
        bool, typer.Option(help="Place and route as well, and print the highest clock.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Synthesise a tile for ECP5 with yosys and print its size."""
    from ditto_cosim.sim_harness.regression import SETS
    from ditto_cosim.sim_harness.synth import clock_mhz, synthesise

    with one_sentence():
        mhz = None
        if split_sets([name])[1]:
            from ditto_cosim.sim_harness.array_regression import ARRAY_SETS
            from ditto_cosim.sim_harness.detector import DetectorBench

            if clock:
                fail(f"--clock places and routes Ditto's tile; {name} is only synthesised")
            size = synthesise(ARRAY_SETS.get(name, DetectorBench.SMALL), rtl_dir)
        else:
            (name,) = set_names([name], chip)
            own_rtl(rtl_dir, [name])
            if clock:
                size, mhz = clock_mhz(SETS[name], rtl_dir)
            else:
                size = synthesise(SETS[name], rtl_dir)
    values: dict[str, Any] = {f: getattr(size, f) for f in ("lut4", "ff", "dsp", "bram", "latches", "loops")}
    if mhz is not None:
        values["clock_mhz"] = mhz
    if as_json:
        emit("rtl synth", {"set": name, **values, "cells": size.cells})
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
    rtl_dir: RtlDir = None,
    contract: ContractName = "",
    chip: ChipName = "",
    as_json: JsonFlag = False,
) -> None:
    """Run a layer of a recorded run through the RTL again and hold every row to the model."""
    from ditto_cosim.sim_harness.build import BuildOptions
    from ditto_cosim.sim_harness.captures import load_captures, save_captures
    from ditto_cosim.sim_harness.recorded import replay_all

    with one_sentence():
        if run.suffix == ".npz":
            captures = load_captures(run)
            captures = [c for c in captures if not layer or c.name.partition("[")[0] == layer]
        else:
            captures, chip_set = _recapture(run, step, layer)
            name = name or chip_set
        (name,) = set_names([name or "cosim"], chip)
        own_rtl(rtl_dir, [name])
        if row is not None and not layer:
            fail("--row needs --layer: a waveform shows one row of one layer")
        if save is not None:
            save_captures(save, captures)
        model = LaneReference(contract)
        trace = output if row is not None else None
        found, report = replay_all(captures, name, model, row, trace, BuildOptions(rtl_dir=rtl_dir))
    values = {
        "set": name,
        "products": len(captures),
        "rows": report.rows,
        "cycles": report.cycles,
        "mismatch": None if found is None else str(found),
        "waveform": str(output) if row is not None else None,
    }
    if as_json:
        emit("rtl replay", values)
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
    from ditto_cosim.protocol.record import RunRecord
    from ditto_cosim.recapture import recapture, recorded_denoiser
    from ditto_cosim.sim_harness.regression import SETS

    record = RunRecord(run)
    layers = [layer] if layer else [command.name for command in record.program.layers]
    geometry = load_chip(record.info.chip).geometry
    known = next((name for name, candidate in SETS.items() if candidate == geometry), "")
    return recapture(run, recorded_denoiser(record), step, layers), known

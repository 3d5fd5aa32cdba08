# SPDX-License-Identifier: Apache-2.0
"""`ditto price`, `compare`, `whatif`, `export`, `paper`: what a recorded run costs, under any design and chip.

Heavy imports wait until a command runs. What this file does not do: price (`device/`) or judge
(`ditto_cosim/study/claims.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.protocol.files import replacing

if TYPE_CHECKING:
    from ditto_cosim.device.chips import Chip
    from ditto_cosim.device.designs.base import Design
    from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime
    from ditto_cosim.device.pricing.robust import Robustness
    from ditto_cosim.study.presets import Turned

RunArgument = Annotated[Path, typer.Argument(help="Directory that `ditto generate` wrote")]
ChipOption = Annotated[str, typer.Option("--chip", help="Preset or TOML file; the run's own by default")]
DramOption = Annotated[
    str,
    typer.Option(
        "--dram", help="Another memory model behind the same socket, module:Class or file.py:Class (slower)"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")]


def price(
    run: RunArgument,
    design: Annotated[
        str, typer.Option("--design", help="Preset or TOML file; the run's own by default")
    ] = "",
    chip: ChipOption = "",
    dram: DramOption = "",
    layers: Annotated[int, typer.Option(help="How many of the slowest layers to show")] = 12,
    sources: Annotated[bool, typer.Option("--sources", help="Say where the energies come from")] = False,
    as_json: AsJson = False,
) -> None:
    """Cycles by unit, stalls, traffic, energy and Defo decisions of a recorded run."""
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.device.pricing.contracts import memory_named
    from ditto_cosim.device.pricing.recorded import design_of, price_run

    columns, made = _load(run, chip)
    wanted = load_design(design) if design else design_of(columns.info)
    memory = memory_named(dram, made)
    found = price_run(columns, made, wanted, memory=memory)
    itc = price_run(columns, made, _baseline(columns), memory=memory)
    figures = _figures(found, made, wanted, itc)
    exact = None if dram else _as_charged(columns, found, made, wanted)
    figures["equals_the_run"] = exact
    if as_json:
        emit(
            "price",
            {"run": str(run), **figures, "defo": found.decisions, "layers": _layer_rows(found)},
        )
        return
    print(f"{run}: {columns.info.model}, {len(columns.steps)} steps, as {found.design} on {found.chip}")
    print(
        f"  {found.total_cycles:,} cycles, {figures['seconds'] * 1e3:.3f} ms at {made.clock_ghz:g} GHz,",
        end=" ",
    )
    print(
        f"{figures[f'speedup_over_{itc.design}']:.2f}× {_baseline(columns).title}, {figures['energy_j']:.4g} J,"
        f" {figures['measured_share']:.0%} measured"
    )
    if exact is not None:
        print("  equal to what the run charged, step by step" if exact else "  NOT what the run charged")
    _print_table(
        ["unit (they overlap)", "cycles", "of total"],
        _shares(figures["unit_cycles"], found.total_cycles),
    )
    waited = {"compute": figures["unit_cycles"]["compute"], **figures["stall_cycles"]}
    _print_table(["PEs work or wait for", "cycles", "share"], _shares(waited, found.total_cycles))
    _print_table(["traffic", "bytes", "share"], _shares(figures["traffic_bytes"], max(found.total_bytes, 1)))
    _print_table(["energy", "pJ", "share"], _shares(figures["energy_pj"], found.total_energy_pj))
    if sources:
        from ditto_cosim.device.pricing.area import area
        from ditto_cosim.device.pricing.energy import AREA_MM2, TABLE

        watts = wanted.power_watts
        print(
            f"compute: {watts} W at the paper's size (its Table III), {AREA_MM2} mm² for every design alike"
        )
        print(f"area: {figures['area_mm2']:,.1f} mm², mean power {figures['power_w']:.3g} W")
        for part in area(made, wanted).parts:
            print(
                f"  {part.name}: {part.mm2:,.2f} mm², leaks {part.leakage_w:.3g} W ({part.word}: {part.source})"
            )
        for event, energy in TABLE.items():
            print(f"{event}: {energy.picojoules} {energy.unit}, {energy.source}")
    if found.decisions:
        temporal = sum(bool(d["temporal"]) for d in found.decisions)
        ties, full = (sum(bool(d[k]) for d in found.decisions) for k in ("tie", "saturated"))
        right = "" if found.accuracy is None else f", {found.accuracy:.1%} of choices right"
        print(
            f"Defo: {temporal} of {len(found.decisions)} layers temporal, {ties} ties, {full}"
            f" saturated{right}"
        )
    rows = sorted(_layer_rows(found), key=lambda r: -r["cycles"])[:layers]
    _print_table(
        ["slowest layers", "cycles", "bound by", "temporal", "measured"],
        [
            [r["name"], f"{r['cycles']:,}", r["bound"], f"{r['temporal']:.0%}", f"{r['measured']:.0%}"]
            for r in rows
        ],
    )


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Directory that `ditto generate` wrote; several: what fewer steps, caching or 4 bits save and what they cost",
        ),
    ],
    chip: ChipOption = "",
    designs: Annotated[str, typer.Option(help="Comma-separated, presets or TOML files; all by default")] = "",
    dram: DramOption = "",
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", help="Vary what nobody knows and say which conclusions survive; into the report"
        ),
    ] = False,
    plot: Annotated[bool, typer.Option(help="Write compare.png beside the run")] = True,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure this machine's GPU too, if it has one")] = False,
    as_json: AsJson = False,
) -> None:
    """All designs side by side on one recorded run; or several runs of one model and seed, each under the designs that fit.

    The first of several is what the others are held against: its fp32 pictures and its cycles. `ditto study one_axis` makes
    such runs, with more pictures and Fréchet distances.
    """
    from ditto_cosim.device.designs.base import designs_for, load_design
    from ditto_cosim.device.pricing.contracts import memory_named
    from ditto_cosim.device.pricing.recorded import price_run
    from ditto_cosim.study.costs import work_of

    if len(runs) > 1:
        from ditto_cosim.cli.compare_runs import compare_runs

        if dram or robust or gpu:
            raise typer.BadParameter("--dram, --robust and --gpu go with one run")
        compare_runs(runs, chip, _names(designs), plot, as_json)
        return
    (run,) = runs
    columns, made = _load(run, chip)
    fitting = designs_for(columns.program)
    names = _names(designs) or list(fitting)
    memory = memory_named(dram, made)
    itc = price_run(columns, made, _baseline(columns), memory=memory)
    found = {name: price_run(columns, made, load_design(name), memory=memory) for name in names}
    over = f"speedup_over_{itc.design}"
    encoded = {name: load_design(name).datapath == "slots" for name in names}
    figures = {
        n: _figures(t, made, load_design(n), itc) | work_of(columns, t, encoded[n]) for n, t in found.items()
    }
    measured = _measure_gpu(columns, itc.total_cycles / made.clock_ghz / 1e9) if gpu else None
    path = run / "compare.png"
    if plot:
        _draw_compare(figures, path, itc.design)
    survives = _robust(columns, made, names, run) if robust else None
    if as_json:
        drawn = str(path) if plot else None
        data = {"run": str(run), "chip": made.name, "designs": figures, "gpu": measured, "plot": drawn}
        emit("compare", data if survives is None else data | {"robust": _robust_figures(survives)})
        return
    rows = [
        [
            load_design(name).title,
            f"{f['total_cycles']:,}",
            f"{f[over]:.2f}",
            f"{f['multiplications'] / 1e9:.3f}",
            f"{f['unit_cycles']['compute'] / max(f['total_cycles'], 1):.0%}",
            f"{f['stall_cycles']['dram'] / max(f['total_cycles'], 1):.0%}",
            f"{f['total_bytes'] / 1e6:,.1f}",
            f"{f['energy_j'] * 1e3:.4g}",
            f"{f['area_mm2']:.4g}",
            f"{f['power_w']:.3g}",
            f"{f['temporal_share']:.0%}",
        ]
        for name, f in sorted(figures.items(), key=lambda item: -item[1][over])
    ]
    print(f"{run}: {columns.info.model}, {len(columns.steps)} steps on {made.name} ({made.timing})")
    _print_table(
        [
            "design",
            "cycles",
            f"× {_baseline(columns).title}",
            "G mult.",
            "computing",
            "DRAM stall",
            "MB",
            "mJ",
            "mm²",
            "W",
            "temporal",
        ],
        rows,
    )
    if measured is not None:
        print(
            f"{measured['name']}, measured: {measured['run_s'] * 1e3:.1f} ms,"
            f" {measured['speedup_over_itc']:.2f}× ITC"
            if measured["name"]
            else "this machine has no GPU to measure"
        )
    if survives is not None:
        _print_robust(survives)
    if plot:
        print(f"plot: {path}")


def export(
    run: RunArgument,
    dram: Annotated[
        str, typer.Option("--dram", help="Write a step's memory requests for ramulator2 or dramsim3")
    ] = "",
    topology: Annotated[str, typer.Option("--topology", help="Write the layers for scalesim")] = "",
    step: Annotated[int, typer.Option(help="The step whose requests are written")] = 1,
    design: Annotated[
        str, typer.Option("--design", help="Preset or TOML file; the run's own by default")
    ] = "",
    chip: ChipOption = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory; the run's own by default")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The run's memory requests and layers in other simulators' formats."""
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.device.pricing import export as formats
    from ditto_cosim.device.pricing.recorded import design_of

    for given, known, option in (
        (dram, ("ramulator2", "dramsim3"), "dram"),
        (topology, ("scalesim",), "topology"),
    ):
        if given and given not in known:
            raise typer.BadParameter(f"--{option} {given!r} is not a format; known: {', '.join(known)}")
    if not dram and not topology:
        raise typer.BadParameter(
            "say what to write: --dram ramulator2|dramsim3, --topology scalesim, or both"
        )
    columns, made = _load(run, chip)
    wanted = load_design(design) if design else design_of(columns.info)
    folder, written = output or run, {}
    folder.mkdir(parents=True, exist_ok=True)
    if dram:
        moved = formats.transfers(columns, made, wanted, step)
        lines = formats.dramsim3(moved, made) if dram == "dramsim3" else formats.ramulator2(moved)
        written[dram] = _write_lines(folder / f"{dram}-step-{step:04d}.trace", lines)
    if topology:
        written[topology] = _write_lines(folder / "scalesim.csv", formats.scalesim(columns))
    if as_json:
        emit("export", {"run": str(run), "written": written})
        return
    for name, made_file in written.items():
        print(f"{name}: {made_file['lines']:,} lines in {made_file['path']}")


def whatif(
    run: RunArgument,
    layer: Annotated[
        str, typer.Option("--layer", help="One layer, by name or a part of it that is unique")
    ] = "",
    design: Annotated[
        str, typer.Option("--design", help="Preset or TOML file; the run's own by default")
    ] = "",
    chip: ChipOption = "",
    layers: Annotated[int, typer.Option(help="How many of the slowest layers to show")] = 20,
    chips: Annotated[int, typer.Option("--chips", min=1, help="So many chips, each on its own pictures")] = 1,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, help="Pictures (or batches) that share a chip in turn")
    ] = 1,
    batch: Annotated[
        int,
        typer.Option("--batch", min=1, help="Pictures that take each step together and share its weights"),
    ] = 1,
    shared_dram: Annotated[
        bool, typer.Option("--shared-dram", help="The chips hang on one chip's DRAM")
    ] = False,
    halves: Annotated[
        bool, typer.Option("--halves", help="Two chips take the two halves of a guided picture")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What bounds each layer, what would bound it next, and what doubling each resource gains; how much of the chip it uses.

    With --chips, --in-flight, --batch or --halves: pictures a second of that way of working, beside one chip with one picture."""
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.device.pricing.recorded import design_of
    from ditto_cosim.device.pricing.whatif import bounds, of_layer

    columns, made = _load(run, chip)
    wanted = load_design(design) if design else design_of(columns.info)
    if max(chips, in_flight, batch) > 1 or halves or shared_dram:
        ways = {"batch": batch, "in_flight": in_flight, "chips": chips}
        _throughput(columns, made, wanted, {**ways, "shared_dram": shared_dram, "halves": halves}, as_json)
        return
    found, whole = bounds(columns, made, wanted)
    shown = [of_layer(found, layer)] if layer else found
    if as_json:
        of_layers = [asdict(b) for b in shown]
        named = {"run": str(run), "chip": made.name, "design": wanted.name}
        emit("whatif", {**named, "layers": of_layers, "whole": asdict(whole)})
        return
    print(f"{run}: {columns.info.model}, {len(columns.steps)} steps, as {wanted.name} on {made.name}")
    rows = [whole, *sorted(shown, key=lambda b: -b.cycles)[:layers]]
    _print_table(
        ["layer", "cycles", "bound", "next", *(f"2× {name}" for name in whole.gain)],
        [
            [b.name, f"{b.cycles:,}", b.bound, b.next, *(f"{gain:.2f}" for gain in b.gain.values())]
            for b in rows
        ],
    )
    _print_table(
        ["layer", "lanes busy", "multipliers busy", "measured", "MAC/byte", "MAC/cycle", "roof", "of"],
        [
            [b.name, f"{b.use.occupancy:.1%}", f"{b.use.utilisation:.1%}", f"{b.use.measured:.0%}",
             f"{b.use.macs_per_byte:.1f}", f"{b.use.macs_per_cycle:,.0f}", f"{b.use.roof_macs_per_cycle:,.0f}", b.use.roof]
            for b in rows
        ],
    )  # fmt: skip


def _throughput(
    columns: RecordColumns, chip: Chip, design: Design, ways: dict[str, Any], as_json: bool
) -> None:
    """One chip with one picture, and the way that was asked for."""
    from ditto_cosim.device.pricing.throughput import throughput

    one, asked = throughput(columns, chip, design), throughput(columns, chip, design, **ways)
    gain, slower = asked.pictures_per_s / one.pictures_per_s, asked.latency_s / one.latency_s
    if as_json:
        named = {"chip": chip.name, "design": design.name, "throughput": [asdict(one), asdict(asked)]}
        emit("whatif", {**named, "gain": gain, "latency_ratio": slower})
        return
    print(f"{columns.info.model}, {len(columns.steps)} steps a picture, as {design.name} on {chip.name}")
    _print_table(
        ["chips", "in flight", "batch", "pictures/s", "latency ms", "cycles a picture", "PEs busy", "weights MB a picture"],
        [
            [f"{t.chips}{' halves' * t.halves}{', one DRAM' * t.shared_dram}", str(t.in_flight), str(t.batch),
             f"{t.pictures_per_s:.4g}", f"{t.latency_s * 1e3:.4g}", f"{t.cycles_per_picture:,.0f}",
             f"{t.busy:.0%}", f"{t.weight_bytes_per_picture / 1e6:.4g}"]
            for t in (one, asked)
        ],
    )  # fmt: skip
    print(f"{gain:.2f}× the pictures a second, {slower:.2f}× the latency of a picture")


def paper(
    record: Annotated[Path | None, typer.Option(help="A recorded run, judged beside and kept apart")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the figures into this directory")
    ] = None,
    presets: Annotated[
        bool,
        typer.Option(
            "--presets",
            help="Also: assumptions turned so that C33, C34, C35 may hold, with the price in the other claims; Defo by its"
            " counters' unit (C22, C41). Twice the time",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Every claim of the paper: published, ours under the presets `paper` and `tlm`, deviation, verdict, why."""
    from ditto_cosim.device.pricing.recorded import RecordColumns
    from ditto_cosim.protocol.record import RunRecord
    from ditto_cosim.study.claims import judge, null_test
    from ditto_cosim.study.evaluation import evaluate_all, evaluate_record
    from ditto_cosim.study.presets import price_presets

    by_preset = evaluate_all()
    turned = None
    if presets:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(2) as pool:
            turned = price_presets(pool.map, by_preset)
    measured = evaluate_record(RecordColumns.load(RunRecord(record))) if record is not None else None
    verdicts = judge(by_preset["paper"], by_preset["tlm"], measured)
    null = null_test(by_preset["paper"], by_preset["tlm"])
    counts: dict[str, int] = {}
    for v in verdicts:
        counts[v.verdict] = counts.get(v.verdict, 0) + 1
    drawn: list[str] = []
    if output is not None:
        from ditto_cosim.study.figures import draw

        drawn = [str(path) for evaluation in by_preset.values() for path in draw(evaluation, output)]
    if as_json:
        claims = [asdict(v) for v in verdicts]
        more = {} if turned is None else asdict(turned)
        emit("paper", {"claims": claims, "verdicts": counts, "null_test": null, "figures": drawn, **more})
        return
    for v in verdicts:
        deviation = "" if v.deviation is None else f"{v.deviation:+.1%}"
        print(f"{v.id} {v.verdict:<12} {deviation:>8}  {v.claim}: {v.published}")
        for label, text in (("paper", v.ours_paper), ("tlm", v.ours_tlm), ("measured", v.ours_measured)):
            if text:
                print(f"{'':25}{label:>9}  {text}")
        print(f"{'':25}{'why':>9}  {v.why}")
    print(", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items(), key=lambda item: -item[1])))
    print(
        f"null test, every design equal to its baseline: {null['reproduced']} of {len(null['claims'])} graded claims would read"
        f" reproduced, {null['near']} near"
    )
    if turned is not None:
        _print_presets(turned)
    for path in drawn:
        print(f"figure: {path}")


def _print_presets(turned: Turned) -> None:
    for price in turned.presets:
        changes = ", ".join(f"{key} {value}" for key, value in price.changes.items())
        print(
            f"\npreset {price.name} turns {price.turns}: {price.base} with {changes}, frozen for all claims"
        )
        for moved in price.claims:
            kept = moved.verdict_before == moved.verdict_after
            verdict = moved.verdict_after if kept else f"{moved.verdict_before} → {moved.verdict_after}"
            print(f"  {moved.id} {verdict:<24} {moved.before}  →  {moved.after}")
    _print_table(
        ["Defo's counters count", "2^u", "accuracy (C22)", "back (C41)", "Latte back", "saturated", "ties", "cycles"],
        [
            [f"{r['preset']} {r['design']}", str(r["unit_log2"]), f"{r['accuracy']:.1%}", f"{r['back']:.1%}",
             f"{r['latte_back']:.1%}", str(r["saturated"]), str(r["ties"]), f"{r['cycles']:,}"]
            for r in turned.counter_units
        ],
    )  # fmt: skip


# --- shared -------------------------------------------------------------------------------------------------


def _load(run: Path, chip: str) -> tuple[RecordColumns, Chip]:
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of
    from ditto_cosim.protocol.record import RunRecord

    record = RunRecord(run)
    if record.interrupted:
        print(
            f"{run} was interrupted after {record.interrupted}; its figures are of these steps",
            file=sys.stderr,
        )
    columns = RecordColumns.load(record)
    return columns, load_chip(chip) if chip else chip_of(columns.info)


def _baseline(columns: RecordColumns) -> Design:
    """What a run's other prices are held against: a dense design of the kind that it can be priced under."""
    from ditto_cosim.device.designs.base import designs_for, load_design

    return load_design("itc" if "itc" in designs_for(columns.program) else "fp16_dense")


def _write_lines(path: Path, lines: Iterable[str]) -> dict[str, Any]:
    written = 0
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            written += 1
    return {"path": str(path), "lines": written}


ROBUST_DESIGNS = ("diffy", "cambricon_d", "ditto_plus")
"""Beside ITC and Ditto, where all designs are asked for: each costs a dozen prices."""


def _robust(columns: RecordColumns, chip: Chip, names: Sequence[str], run: Path) -> Robustness:
    """Asks, and leaves the sentence in the run's report if there is one."""
    from ditto_cosim.device.designs.base import designs_for
    from ditto_cosim.device.pricing.robust import robustness

    found = robustness(
        columns, chip, ROBUST_DESIGNS if set(names) == set(designs_for(columns.program)) else names
    )
    if (run / "report.json").exists():
        from ditto_cosim.host.report import load_report, write_report

        write_report(replace(load_report(run), robust=found.sentence), run)
    return found


def _robust_figures(found: Robustness) -> dict[str, Any]:
    least, most = found.ditto_over_itc
    varied = [{"what": p.what, "ditto_over_itc": p.ditto_over_itc} for p in (found.base, *found.varied)]
    return {
        "ditto_over_itc": {"min": least, "max": most, "varied": varied},
        "stable": found.stable,
        "unstable": found.unstable,
        "sentence": found.sentence,
    }


def _print_robust(found: Robustness) -> None:
    rows = [[p.what, f"{p.ditto_over_itc:.3f}"] for p in (found.base, *found.varied)]
    _print_table(["with", "Ditto × ITC"], rows)
    print(found.sentence)


def _measure_gpu(columns: RecordColumns, itc_s: float) -> dict[str, Any]:
    """The whole run on this machine's GPU, eager and in half precision; all empty without one."""
    from ditto_cosim.bench.gpu import measure_step, present

    device = present()
    if device is None:
        return {"name": "", "step_s": None, "run_s": None, "speedup_over_itc": None}
    step = measure_step(columns.info.model, device)
    run_s = step.seconds * len(columns.steps)
    return {"name": step.name, "step_s": step.seconds, "run_s": run_s, "speedup_over_itc": itc_s / run_s}


def _watts(found: RunTime, chip: Chip) -> float:
    """The mean over the run."""
    return found.total_energy_pj / 1000 / max(found.total_cycles / chip.clock_ghz, 1)


def _figures(found: RunTime, chip: Chip, design: Design, itc: RunTime) -> dict[str, Any]:
    from ditto_cosim.device.pricing.area import area

    return {
        "design": found.design,
        "chip": found.chip,
        "timing": chip.timing,
        "total_cycles": found.total_cycles,
        "seconds": found.total_cycles / chip.clock_ghz / 1e9,
        "unit_cycles": found.unit_totals(),
        "stall_cycles": found.stall_totals(),
        "traffic_bytes": found.traffic_totals(),
        "total_bytes": found.total_bytes,
        "energy_pj": found.energy_totals(),
        "energy_j": found.total_energy_pj / 1e12,
        "area_mm2": area(chip, design).mm2,
        "power_w": _watts(found, chip),
        f"speedup_over_{itc.design}": itc.total_cycles / max(found.total_cycles, 1),
        f"energy_over_{itc.design}": found.total_energy_pj / max(itc.total_energy_pj, 1e-30),
        "temporal_share": _mean(found.modes[found.runs] == 1),
        "measured_share": _mean(found.measured[found.runs]),
        "defo_accuracy": found.accuracy,
        "step_cycles": found.step_cycles.tolist(),
    }


def _mean(of_executions: Any) -> float:
    """A share of a layer's executions; 0 if it has not run."""
    return float(of_executions.mean()) if len(of_executions) else 0.0


def _as_charged(columns: RecordColumns, found: RunTime, chip: Chip, design: Design) -> bool | None:
    """Whether this price is the run's own; None if it was asked under another chip or design."""
    from ditto_cosim.device.pricing.recorded import design_of

    asked_as_run = chip.digest == columns.info.chip_digest and design.digest == design_of(columns.info).digest
    if not asked_as_run or None in columns.charged:
        return None
    return bool(found.step_cycles.tolist() == list(columns.charged))


def _layer_rows(found: RunTime) -> list[dict[str, Any]]:
    from ditto_cosim.device.pricing.cost import BOUNDS

    return [
        {
            "name": name,
            "cycles": int(found.cycles[:, i].sum()),
            "bound": BOUNDS[int(found.bound[-1, i])],
            "temporal": _mean(found.modes[found.runs[:, i], i] == 1),
            "measured": _mean(found.measured[found.runs[:, i], i]),
            "stall_cycles": {k: int(v[i + 1]) for k, v in found.stalls.items()},
        }
        for i, name in enumerate(found.names)
    ]


def _shares(values: dict[str, Any], whole: float) -> list[list[str]]:
    return [[name, f"{value:,.0f}", f"{value / whole:.1%}"] for name, value in values.items()]


def _names(text: str) -> list[str]:
    """Those of a comma-separated option."""
    return [n.strip() for n in text.split(",") if n.strip()]


def _numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"--{what} {text!r} is not a list of numbers such as 0.5,1,2") from None


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from ditto_cosim.cli.tables import show_table

    if not rows:
        return
    table = Table(box=SIMPLE, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    show_table(table)


def _draw_compare(figures: dict[str, dict[str, Any]], path: Path, base: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from ditto_cosim.protocol.files import replacing

    names = sorted(figures, key=lambda n: -figures[n][f"speedup_over_{base}"])
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.5), layout="constrained")
    for axis, key, label in zip(
        axes,
        (f"speedup_over_{base}", f"energy_over_{base}", "total_bytes"),
        (f"speed-up over {base}", f"energy over {base}", "DRAM bytes"),
        strict=True,
    ):
        axis.barh(names[::-1], [figures[n][key] for n in names[::-1]])
        axis.set_xlabel(label)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
    plt.close(figure)

# SPDX-License-Identifier: Apache-2.0
"""`ditto show`: what flows. A program command by command, a record step by step, a run layer by layer.

Nothing runs: programs are lowered or read, records and reports are read as they lie on disk.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.protocol.errors import DittoError

if TYPE_CHECKING:
    from ditto_cosim.protocol.program import Command, Program
    from ditto_cosim.protocol.record import LayerRecord, RunRecord, SubOp

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text")]
Run = Annotated[Path, typer.Argument(help="Directory that `ditto generate` wrote")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Print what flows: a program's commands, a record's steps, one layer of a run.",
)


class ShowError(DittoError):
    """Nothing of that name or number is there; the message says what is."""


@app.command()
def program(
    model: Annotated[
        str, typer.Argument(help="A model, a workload of the paper, a file of `ditto compile`, or a run")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once, for a model")] = 1,
    as_json: AsJson = False,
) -> None:
    """A denoiser as the device gets it: values, and the commands that make them."""
    found = _program(model, batch)
    if as_json:
        emit("show program", found.to_dict())
        return
    ends = {"input": found.inputs, "constant": found.constants, "output": found.outputs}
    print(f"program {found.digest}: {len(found.layers)} layers in {len(found.commands)} commands")
    for kind, values in ends.items():
        for name, value in values.items():
            print(f"{kind:8} %{value:<5} {found.values[value]!s:24} {name}")
    layer = 0
    for index, command in enumerate(found.commands):
        number = f"L{layer}" if command.is_layer else ""
        layer += command.is_layer
        print(f"{index:5} {number:5} {_instruction(found, command)}")


@app.command()
def record(
    run: Run,
    step: Annotated[int, typer.Option(help="The layers of this step instead of all steps")] = -1,
    as_json: AsJson = False,
) -> None:
    """What a run recorded, by step: modes, what the encoder met, cycles; with --step, by layer."""
    found = _record(run)
    info = found.info
    if step >= 0:
        rows = [_layer_row(found.program, layer) for layer in _step(found, step).layers]
    else:
        rows = [_step_row(found, index) for index in range(len(found))]
    if as_json:
        about = {
            n: getattr(info, n) for n in ("model", "design", "chip", "backend", "low_rule", "seed", "batch")
        }
        emit("show record", {**about, "steps": info.steps, "rows": rows})
        return
    print(
        f"{info.model}: {info.design} on {info.chip}, backend {info.backend}, low rule {info.low_rule}, seed {info.seed}"
    )
    print(
        f"{len(found)} of {info.steps} steps recorded, {len(found.program.layers)} layers, batch {info.batch}"
    )
    print_rows(rows)


@app.command("run")
def show_run(
    run: Run,
    step: Annotated[int, typer.Option(min=0, help="Denoising step")] = 0,
    layer: Annotated[str, typer.Option(help="Layer: its number, its name, or a pattern that fits one")] = "0",
    as_json: AsJson = False,
) -> None:
    """One layer in one step: its command, what every mode would have met, and where its cycles and bytes went."""
    found = _record(run)
    index = _layer_index(found.program, layer)
    recorded = next((r for r in _step(found, step).layers if r.layer == index), None)
    if recorded is None:
        raise ShowError(f"{run}: step {step} has no record of layer {index}")
    command = found.program.layers[index]
    works = {mode: [_work(sub) for sub in subs] for mode, subs in recorded.works.items()}
    facts: dict[str, Any] = {
        "step": step,
        "layer": index,
        "name": command.name,
        "command": _instruction(found.program, command),
        "mode": recorded.mode,
        "forced": recorded.forced,
        "measured_cycles": recorded.measured_cycles,
        "charged_cycles": recorded.charged_cycles,
        "works": works,
        **_reported(run, step, command.name),
    }
    if as_json:
        emit("show run", facts)
        return
    for name in ("name", "command", "mode", "forced", "measured_cycles", "charged_cycles"):
        print(f"{name.replace('_', ' '):16} {facts[name]}")
    print_rows([{"mode": mode, **row} for mode, rows in works.items() for row in rows])
    for name in ("unit_cycles", "stall_cycles", "traffic_bytes"):
        if name in facts:
            print(f"{name.replace('_', ' '):16} " + ", ".join(f"{k} {v:,}" for k, v in facts[name].items()))


# --- where they come from -----------------------------------------------------------------------------------


def _program(name: str, batch: int) -> Program:
    from ditto_cosim.study.workloads import WORKLOADS, workload_program

    path = Path(name)
    if (path / "run.json").is_file():
        return _record(path).program
    if path.is_file():
        from ditto_cosim.host.compiler.compiled import Compiled

        return Compiled.load(path).program
    if name in WORKLOADS:
        return workload_program(name)
    import inspect

    from ditto_cosim.host.compiler.capture import capture
    from ditto_cosim.host.compiler.lower import lower
    from ditto_cosim.host.compiler.quantize import load_grids
    from ditto_cosim.host.pipeline.models import load_model
    from ditto_cosim.host.zoo import example_inputs

    model = load_model(name)
    positional, named = example_inputs(name, batch=batch)
    arguments = list(inspect.signature(model.denoiser.forward).parameters)
    inputs = {**dict(zip(arguments, positional, strict=False)), **named}
    grids = None if model.scales is None else load_grids(model.scales)
    return lower(capture(model.denoiser, inputs, extra={"return_dict": False}), grids).program


def _record(run: Path) -> RunRecord:
    from ditto_cosim.protocol.record import RunRecord

    return RunRecord(run)


def _step(record: RunRecord, step: int) -> Any:
    if step >= len(record):
        raise ShowError(
            f"{record.directory}: step {step} is not recorded; there are steps 0 to {len(record) - 1}"
        )
    return record[step]


def _layer_index(program: Program, wanted: str) -> int:
    names = [command.name for command in program.layers]
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    fits = [i for i, name in enumerate(names) if name == wanted] or [
        i for i, name in enumerate(names) if fnmatchcase(name, wanted)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        some = ", ".join(names[i] for i in fits[:6]) + ", …" * (len(fits) > 6)
        raise ShowError(f"layer {wanted!r} fits {len(fits)}: {some}; name one")
    raise ShowError(
        f"there is no layer {wanted!r}; there are 0 to {len(names) - 1}, from {names[0]} to {names[-1]} "
        "(`ditto show program RUN` lists them)"
    )


def _reported(run: Path, step: int, name: str) -> dict[str, Any]:
    """What the device reported of a layer, if the run came to its report."""
    from ditto_cosim.host.report import load_report

    if not (run / "report.json").is_file():
        return {}
    report = load_report(run)
    if step not in report.steps or name not in report.names:
        return {}
    at = report.steps.index(step), report.names.index(name)
    parts = {n: getattr(report, n) for n in ("unit_cycles", "stall_cycles", "traffic_bytes")}
    return {n: {k: int(array[at]) for k, array in part.items()} for n, part in parts.items()}


# --- how they read ------------------------------------------------------------------------------------------


def _instruction(program: Program, command: Command) -> str:
    """`%3 i8[1,8], %4 f32[2] = quantize %1 {policy=static}   name`."""
    results = ", ".join(f"%{v} {program.values[v]}" for v in command.results)
    operands = ", ".join(f"%{v}" for v in command.operands)
    attrs = ", ".join(f"{k}={_short(v)}" for k, v in command.attrs.items())
    skips = [
        word
        for word, names in (("Δ", program.skip_difference), ("Σ", program.skip_summation))
        if command.name in names
    ]
    note = f"  skips {' '.join(skips)}" if skips else ""
    return f"{results} = {command.op} {operands}{f' {{{attrs}}}' if attrs else ''}  {command.name}{note}"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        shown = ",".join(map(_short, value[:4]))
        return f"({shown}{f',… {len(value)} in all' if len(value) > 4 else ''})"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _work(sub: SubOp) -> dict[str, Any]:
    elements = sub.zero + sub.low + sub.full
    w = sub.work
    return {
        "product": f"{w.groups} × [{w.rows}, {w.k}]·[{w.k}, {w.n}]",
        "macs": w.macs,
        "chunks": len(sub.splits),
        "zero": sub.zero,
        "low": sub.low,
        "full": sub.full,
        "slots": sub.slot_total,
        "slots_per_element": round(sub.slot_total / elements, 4) if elements else 0.0,
    }


def _met(subs: tuple[SubOp, ...]) -> dict[str, Any]:
    counts = {name: sum(getattr(s, name) for s in subs) for name in ("zero", "low", "full")}
    total = max(sum(counts.values()), 1)
    return {name: round(count / total, 4) for name, count in counts.items()}


def _layer_row(program: Program, layer: LayerRecord) -> dict[str, Any]:
    command = program.layers[layer.layer]
    return {
        "layer": layer.layer,
        "name": command.name,
        "op": command.op,
        "mode": f"{layer.mode}{' (forced)' if layer.forced else ''}",
        **_met(layer.works.get(layer.mode, ())),
        "slots": sum(s.slot_total for s in layer.works.get(layer.mode, ())),
        "measured": layer.measured_cycles,
        "charged": layer.charged_cycles,
    }


def _step_row(record: RunRecord, index: int) -> dict[str, Any]:
    step = record[index]
    modes: dict[str, int] = {}
    for layer in step.layers:
        modes[layer.mode] = modes.get(layer.mode, 0) + 1
    classified = tuple(
        s for layer in step.layers if layer.mode != "original" for s in layer.works[layer.mode]
    )
    return {
        "step": step.step,
        "layers": len(step.layers),
        "modes": ", ".join(f"{mode} {count}" for mode, count in modes.items()),
        "forced": sum(layer.forced for layer in step.layers),
        **_met(classified),
        "charged": step.charged_cycles,
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Columns as wide as they need to be, numbers to the right, no colours: made to be piped."""
    if not rows:
        return
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    for line in ([name.replace("_", " ") for name in names], *cells):
        print(
            "  ".join(
                c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
            ).rstrip()
        )


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

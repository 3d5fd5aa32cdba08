# SPDX-License-Identifier: Apache-2.0
"""`ditto rtl diff | mutate | prove | poke | pnr`: your RTL beside ours, wrong RTL, proved RTL, RTL by hand, a bitstream.

What this file does not do: the regression and the tools around it (`rtl.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli.output import emit

from .board import pnr
from .rtl import (
    ChipName,
    ContractName,
    JsonFlag,
    LaneReference,
    RtlDir,
    app,
    block_reference,
    fail,
    one_sentence,
    own_rtl,
    set_names,
)

__all__ = ["app"]


@app.command()
def diff(
    rtl_dir: Annotated[Path, typer.Option("--rtl-dir", help="Folder with your own copies of our modules.")],
    contract: ContractName = "",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter sets; the small ones by default.")
    ] = None,
    chip: ChipName = "",
    synth: Annotated[bool, typer.Option(help="Synthesise both (a minute or two).")] = True,
    clock: Annotated[
        bool, typer.Option(help="Place and route a narrow lane of both (a minute or two).")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Your RTL beside ours: values, cycles, area and clock.

    Values must be right; cycles may be what they are, and are held to a contract only if you name one."""
    from ditto_cosim.sim_harness.compare import compare_sets, compare_sizes
    from ditto_cosim.sim_harness.regression import CHECKED, SETS

    with one_sentence():
        names = set_names(sets or list(CHECKED), chip)
        own = own_rtl(rtl_dir, names)
        model = LaneReference(contract)
        rows = [compare_sets(name, rtl_dir, model, held=bool(contract)) for name in names]
        sizes = compare_sizes(SETS[names[0]], rtl_dir, clock=clock) if synth else None
    wrong = any(row.wrong for row in rows)
    if as_json:
        values: dict[str, Any] = {"own": list(own), "sets": [asdict(row) for row in rows]}
        if sizes is not None:
            values |= {"area": {"set": names[0], "ours": sizes.ours, "own": sizes.own}}
            values |= {"clock_mhz": {"ours": sizes.ours_mhz, "own": sizes.own_mhz}} if clock else {}
        emit("rtl diff", values)
        raise typer.Exit(int(wrong))
    typer.echo(f"yours: {', '.join(own)}; the rest is ours")
    typer.echo(f"{'set':12} {'passes':>7} {'rows':>7} {'cycles ours':>12} {'yours':>12} {'ratio':>7}  values")
    for row in rows:
        typer.echo(
            f"{row.set:12} {row.passes:7} {row.rows:7} {row.cycles_ours:12,} {row.cycles_own:12,} "
            f"{row.cycles_own / row.cycles_ours:7.3f}  {'WRONG: ' + row.wrong if row.wrong else 'agree'}"
        )
        if row.first_slower:
            typer.echo(f"  cycles first differ in {row.first_slower}")
    if sizes is not None:
        typer.echo(f"{'ECP5, ' + names[0]:12} {'ours':>9} {'yours':>9}")
        for key, ours in sizes.ours.items():
            typer.echo(f"{key:12} {ours:9} {sizes.own[key]:9}")
        if clock:
            typer.echo(f"{'clock, MHz':12} {sizes.ours_mhz:9} {sizes.own_mhz:9}")
    raise typer.Exit(int(wrong))


@app.command()
def mutate(
    of: Annotated[str, typer.Option(help="tile: Ditto's; sq_dm: SQ-DM's arrays and detector.")] = "tile",
    count: Annotated[int, typer.Option(min=1, help="Mutants to draw.")] = 500,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    seconds: Annotated[float, typer.Option(help="Random cases for what survives the directed ones.")] = 10.0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    only: Annotated[str, typer.Option(help="Mutants whose name matches this regular expression.")] = "",
    prove: Annotated[bool, typer.Option(help="Ask yosys whether survivors are mistakes at all.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Make mistakes in the RTL at random, and count how many the regression finds.

    Status 1 if any escapes."""
    from ditto_cosim.sim_harness.mutation import SUBJECTS, campaign

    if of not in SUBJECTS:
        fail(f"--of {of}: expected one of {', '.join(SUBJECTS)}")
    say = (lambda text: typer.echo(text, err=True)) if as_json else typer.echo
    with one_sentence():
        result = campaign(
            LaneReference() if of == "tile" else block_reference(),
            SUBJECTS[of],
            count=count,
            seed=seed,
            seconds=seconds,
            jobs=jobs,
            only=only,
            prove=prove,
            progress=say,
        )
    escaped, equivalent = result.of("escaped"), result.of("equivalent")
    low, high = result.interval
    if as_json:
        kinds: dict[str, int] = {}
        for outcome in result.outcomes:
            kinds[outcome.mutant.kind] = kinds.get(outcome.mutant.kind, 0) + 1
        values = {
            "built": result.built,
            "killed": result.killed,
            "equivalent": len(equivalent),
            "escaped": [outcome.mutant.name for outcome in escaped],
            "kill_rate": round(result.kill_rate, 5),
            "interval": [round(low, 5), round(high, 5)],
            "refused": len(result.refused),
            "kinds": kinds,
            "equivalents": {outcome.mutant.name: outcome.how for outcome in equivalent},
            "seed": seed,
            "seconds": round(result.seconds, 1),
        }
        emit("rtl mutate", values)
    else:
        typer.echo(
            f"{result.built} mutants of {len({o.mutant.kind for o in result.outcomes})} kinds built, "
            f"{result.killed} killed, {len(equivalent)} no mistakes, {len(escaped)} escaped, "
            f"{len(result.refused)} refused by Verilator, in {result.seconds:.0f} s"
        )
        typer.echo(f"kill rate {result.kill_rate:.2%} (95 % interval {low:.2%} to {high:.2%}), seed {seed}")
        for outcome in escaped:
            typer.echo(f"ESCAPED {outcome.mutant.name}")
    raise typer.Exit(int(bool(escaped)))


@app.command("prove")
def prove_properties(
    names: Annotated[list[str] | None, typer.Argument(help="Properties; all by default.")] = None,
    timeout: Annotated[float, typer.Option(help="Most seconds for a property.")] = 900.0,
    rtl_dir: RtlDir = None,
    wave: Annotated[Path, typer.Option(help="Folder for the waveform of a counterexample.")] = Path(
        "rtl-mismatch"
    ),
    as_json: JsonFlag = False,
) -> None:
    """Prove what the blocks promise: encoder, PE, slot buffer, handshakes, reset.

    proved: from reset for ever, by induction. bounded: for `depth` cycles. Status 1 if a property fails, 3 if one is unknown."""
    from ditto_cosim.sim_harness.proofs import PROPERTIES, Proof, prove_all

    says = {chosen.name: chosen.says for chosen in PROPERTIES}

    def tell(proof: Proof) -> None:
        line = f"{proof.result:8} {proof.name:22} {proof.seconds:7.1f} s  {proof.detail or says[proof.name]}"
        typer.echo(line + (f"\n  counterexample: {proof.waveform}" if proof.waveform else ""), err=as_json)

    with one_sentence():
        own_rtl(rtl_dir, ["tiny"])
        proofs = prove_all(list(names or ()), rtl_dir, timeout, wave, tell)
    if as_json:
        rows = [
            {
                "name": proof.name,
                "result": proof.result,
                "depth": proof.depth,
                "seconds": proof.seconds,
                "says": says[proof.name],
                "detail": proof.detail,
                "waveform": str(proof.waveform) if proof.waveform else None,
            }
            for proof in proofs
        ]
        emit("rtl prove", {"properties": rows})
    results = {proof.result for proof in proofs}
    raise typer.Exit(1 if "failed" in results else 3 if "timeout" in results else 0)


@app.command()
def poke(
    block: Annotated[
        str, typer.Argument(help="Module: encoder, slot_buffer, pe_array, lane, tile, or one of yours.")
    ],
    actions: Annotated[
        list[str] | None,
        typer.Argument(
            help="port=value sets, tick or tick:N clocks, port prints; none: a prompt, or Python from stdin."
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-G", help="name=value, as often as needed; else small ones."),
    ] = None,
    rtl_dir: RtlDir = None,
    clock: Annotated[str, typer.Option(help="The block's clock.")] = "clk_i",
    reset: Annotated[str, typer.Option(help="The block's reset.")] = "rst_ni",
    reset_level: Annotated[int, typer.Option(min=0, max=1, help="Level at which it resets.")] = 0,
    wave: Annotated[Path | None, typer.Option(help="Waveform (.vcd) of what you do.")] = None,
) -> None:
    """Open a block as a PyVerilator object, after a reset, and drive its ports by hand.

    ditto rtl poke encoder original_i=0 k_i=4 open_i=1 valid_i=1 current_i_0=3 tick ready_o tick:3 row_end_o row_slots_o"""
    from ditto_cosim.sim_harness.block import open_by_hand, tick
    from ditto_cosim.sim_harness.small import small_parameters
    from ditto_cosim.sim_harness.sources import sources

    with one_sentence():
        chosen = _parameters(parameters, small_parameters(block))
        files = [path for path in sources(rtl_dir).design if block == "tile" or path.name != "tile.sv"]
        sim = open_by_hand(files, block, chosen, clock=clock, reset=reset, reset_level=reset_level, wave=wave)
        if actions:
            for action in actions:
                _act(sim, action)
        else:
            _by_python(sim, block, chosen, tick)
        if sim.vcd_trace is not None:
            sim.stop_vcd_trace()
            typer.echo(f"waveform: {wave}")


def _parameters(given: list[str] | None, small: dict[str, int]) -> dict[str, int]:
    chosen = dict(small)
    for text in given or []:
        name, _, value = text.partition("=")
        try:
            chosen[name] = int(value, 0)
        except ValueError:
            fail(f"--parameter {text!r} is no name=number")
    return chosen


def _act(sim: Any, action: str) -> None:
    """One word of a poke."""
    from ditto_cosim.sim_harness.block import tick

    name, equals, value = action.partition("=")
    if name.partition(":")[0] == "tick" and not equals:
        count = action.partition(":")[2] or "1"
        if not count.isdigit():
            fail(f"{action!r} is not tick:N")
        tick(sim, int(count))
        return
    known = [*sim.inputs, *sim.outputs] if hasattr(sim, "inputs") else []
    known = [entry[0] if isinstance(entry, tuple) else entry for entry in known]
    if known and name not in known:
        near = [port for port in known if port.startswith(name.rstrip("0123456789_")[:6])] or known
        fail(f"no port {name}; ports near it: {', '.join(near[:12])}")
    if equals:
        try:
            sim.io[name] = int(value, 0)
        except ValueError as error:
            fail(f"{action!r}: {error}")
        sim.eval()
    else:
        sim.eval()
        typer.echo(f"{name} = {int(sim.io[name])}")


def _by_python(sim: Any, block: str, parameters: dict[str, int], clock: Any) -> None:
    """A prompt, or a script from stdin, that sees `sim`, `io` and `tick`."""
    import code
    import sys

    names = {"sim": sim, "io": sim.io, "tick": lambda cycles=1: clock(sim, cycles)}
    shape = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    if sys.stdin.isatty():
        code.interact(
            f"{block} ({shape}), after a reset: io.<port>, tick(cycles), sim. Ctrl-D ends.", local=names
        )
    else:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), names)


app.command("pnr")(pnr)

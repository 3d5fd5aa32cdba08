# SPDX-License-Identifier: Apache-2.0
"""`ditto rtl diff | mutate | prove | poke | pnr`: your RTL beside ours, wrong RTL, proved RTL, RTL by hand, a bitstream.

What this file does not do: the regression and the tools around it (`rtl.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .board import pnr
from .rtl import (
    ChipName,
    ContractName,
    JsonFlag,
    LaneReference,
    app,
    one_sentence,
    own_rtl,
    set_names,
)


@app.command()
def diff(
    rtl_dir: Annotated[Path, typer.Option("--rtl-dir", help="Folder with your own copies of our modules.")],
    contract: ContractName = "",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter sets; the small ones by default.")
    ] = None,
    chip: ChipName = "",
    synth: Annotated[bool, typer.Option(help="Synthesise both (a minute or two).")] = True,
    clock: Annotated[bool, typer.Option(help="Place and route both as well (minutes).")] = False,
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
        sizes = compare_sizes(SETS[names[0]], rtl_dir, clock=clock) if synth or clock else None
    wrong = any(row.wrong for row in rows)
    if as_json:
        values: dict[str, Any] = {"own": list(own), "sets": [asdict(row) for row in rows]}
        if sizes is not None:
            values |= {"area": {"set": names[0], "ours": sizes.ours, "own": sizes.own}}
            values |= {"clock_mhz": {"ours": sizes.ours_mhz, "own": sizes.own_mhz}} if clock else {}
        typer.echo(json.dumps(values))
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


app.command("pnr")(pnr)

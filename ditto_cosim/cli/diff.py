# SPDX-License-Identifier: Apache-2.0
"""`ditto diff`: two runs held against each other, for a person and for a build that should fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="Directory of the run to hold against")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Directory of the other run")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Share by which cycles, of the whole and of each layer, may differ")
    ] = 0.0,
    layers: Annotated[int, typer.Option(min=0, help="How many of the layers that differ most to show")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """Two runs: values, pictures, cycles by layer and cause, energy. Exit status 1 where values or cycles differ.

    Examples: ditto diff runs/before runs/after --tolerance 0.01; ditto diff runs/a runs/b --json
    """
    from ditto_cosim.difference import compare_runs

    found = compare_runs(a, b)
    if as_json:
        emit("diff", found.to_dict())
    else:
        from rich.console import Console
        from rich.table import Table

        from ditto_cosim.host.report.summary import CAUSES

        print(
            "values    "
            + ("the same, bit for bit" if found.same_values else f"differ: {found.first_difference}")
        )
        for i, db in enumerate(found.pictures_psnr_db):
            print(f"picture {i} " + ("the same" if db is None else f"{db:.1f} dB apart (PSNR)"))
        print(f"cycles    {found.cycles_a:,} and {found.cycles_b:,}: {found.ratio:.4f}")
        energy = found.energy_b_pj / max(found.energy_a_pj, 1e-30)
        print(f"energy    {found.energy_a_pj / 1e9:,.3f} and {found.energy_b_pj / 1e9:,.3f} mJ: {energy:.4f}")
        moved = sorted(
            (d for d in found.layers if d.cycles_a != d.cycles_b), key=lambda d: -abs(d.cycles_b - d.cycles_a)
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("layer", "A", "B", "difference", "most of it"):
            table.add_column(
                name, justify="left" if name in ("layer", "most of it") else "right", overflow="fold"
            )
        for d in moved[:layers]:
            more = f"{d.cycles_b - d.cycles_a:+,}"
            table.add_row(d.name, f"{d.cycles_a:,}", f"{d.cycles_b:,}", more, CAUSES.get(d.cause, d.cause))
        if moved:
            Console().print(table)
            print(f"{len(moved)} of {len(found.layers)} layers differ")
    if not found.agrees(tolerance):
        raise typer.Exit(1)

# SPDX-License-Identifier: Apache-2.0
"""`ditto study icc`: increment-calibrated caching on DiT-XL/2, counted and priced, beside what was measured on fashion-dit.

What this file does not do: count or price (`ditto_cosim/study/icc.py`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli.output import emit


def icc(
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Make the pictures of fashion-dit again (minutes) instead of what was kept"
        ),
    ] = False,
    pictures: Annotated[int, typer.Option(min=1, help="With --measure: pictures")] = 8,
    rank: Annotated[int, typer.Option(min=1, help="With --measure: rank, of 192")] = 43,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --measure: keep it there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """ICC on DiT-XL/2: MACs, lane cycles, bytes, whole runs; and reuse, SVD, CA, CD on fashion-dit."""
    from ditto_cosim.study import icc as study

    if measure:
        found = study.measure(pictures, (rank,), (2, 3), lambda what: print(what, file=sys.stderr))
        if output is not None:
            command = f"ditto study icc --measure --pictures {pictures} --rank {rank}"
            output.write_text(json.dumps({"command": command, "ordering": found}, indent=1), encoding="utf-8")
    else:
        found = study.ordering()
    figures: dict[str, Any] = {
        "dit_xl_2": study.accounting(),
        "dit_xl_2_512": study.accounting(study.TOKENS_512),
        "cycles": study.cycles(),
        "traffic_mb": study.traffic(),
        "runs": study.runs(),
        "ordering": found,
    }
    if as_json:
        emit("study icc", figures)
        return
    size = figures["dit_xl_2"]
    print(
        f"DiT-XL/2, 256×256, one branch: {size['full_gmac']:.3f} GMAC a full step, {size['reuse_gmac']:.3f} with reuse"
    )
    _table("increments", [{"rank": r, "GMAC": f"{g:.3f}"} for r, g in size["increment_gmac"].items()])
    _table("MACs of a schedule, of all", [{k: f"{v:.4f}" for k, v in size["mac_ratio"].items()}])
    shown = ("configuration", "full", "increment", "mean", "speedup_over_itc", "speedup_over_ditto")
    _table(
        "million lane cycles a step, chip paper",
        [{k: row.get(k, "") for k in shown} for row in figures["cycles"]],
    )
    _table("MB a step", [{"step": name, **row} for name, row in figures["traffic_mb"].items()])
    _table("whole runs, DRAM and vector unit included", figures["runs"])
    _table("fashion-dit, dB (50 steps, guidance 2)", figures["ordering"])


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    """Columns as wide as they need to be."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    print(f"\n{title}")
    for line in (names, *cells):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

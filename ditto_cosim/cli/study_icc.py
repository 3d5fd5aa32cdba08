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

from ditto_cosim.cli.output import emit, typed


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
    record: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded runs of a transformer, cached or not: slots by distance to the full step; may be repeated"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """ICC on DiT-XL/2: MACs, lane cycles, bytes, whole runs; and reuse, SVD, CA, CD on fashion-dit."""
    from ditto_cosim.cli.tables import print_rows
    from ditto_cosim.study import icc as study

    slots = [{"run": run.name, **row} for run in record or () for row in _slots(run)]
    if measure:
        found = study.with_excess(
            study.measure(pictures, (rank,), (2, 3), lambda what: print(what, file=sys.stderr))
        )
        if output is not None:
            from ditto_cosim.protocol.files import write_text

            write_text(output, json.dumps({"command": typed(), "ordering": found}, indent=1) + "\n")
    else:
        found = study.ordering()
    figures: dict[str, Any] = {
        "dit_xl_2": study.accounting(),
        "dit_xl_2_512": study.accounting(study.TOKENS_512),
        "cycles": study.cycles(),
        "traffic_mb": study.traffic(),
        "runs": study.runs(),
        "ordering": found,
        "slots": slots,
    }
    if as_json:
        emit("study icc", figures)
        return
    size = figures["dit_xl_2"]
    print(
        f"DiT-XL/2, 256×256, one branch: {size['full_gmac']:.3f} GMAC a full step, {size['reuse_gmac']:.3f} with reuse"
    )
    print_rows("increments", [{"rank": r, "GMAC": f"{g:.3f}"} for r, g in size["increment_gmac"].items()])
    print_rows("MACs of a schedule, of all", [{k: f"{v:.4f}" for k, v in size["mac_ratio"].items()}])
    shown = ("configuration", "full", "increment", "mean", "speedup_over_itc", "speedup_over_ditto")
    print_rows(
        "million lane cycles a step, chip paper",
        [{k: row.get(k, "") for k in shown} for row in figures["cycles"]],
    )
    print_rows("MB a step", [{"step": name, **row} for name, row in figures["traffic_mb"].items()])
    print_rows("whole runs, DRAM and vector unit included", figures["runs"])
    print_rows("slots an element of corrected layers, by steps back to what differences are taken to", slots)
    print_rows("fashion-dit, dB (50 steps, guidance 2)", figures["ordering"])


def _slots(run: Path) -> list[dict[str, Any]]:
    from ditto_cosim.device.pricing.recorded import RecordColumns
    from ditto_cosim.protocol.record import RunRecord
    from ditto_cosim.study.icc import slots_by_lag

    return slots_by_lag(RecordColumns.load(RunRecord(run)))

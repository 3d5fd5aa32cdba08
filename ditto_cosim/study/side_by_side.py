# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of one model and seed beside each other, each under every design that can run it: `ditto compare RUN RUN…`.

    found = side_by_side([Path("runs/full"), Path("runs/icc")], chip, designs=())
    found["rows"]           a row a run and design: PSNR, MACs, slots, multiplications, cycles, bytes, energy

The first run is what the others are held against: its fp32 pictures, where it drew them (else its own), and its cycles. Fewer
steps, caching and 4 bits change the picture, so PSNR stands beside what they save; a Fréchet distance needs more pictures than
runs make (`ditto study one_axis`). What this file does not do: run anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import designs_for
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of
from ditto_cosim.host.generation import psnr_db
from ditto_cosim.host.report import load_report
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.record import RunRecord
from ditto_cosim.study.costs import BLOCK_DESIGNS, cost_of, usual_designs


class SideBySideError(DittoError):
    """Runs that do not belong on one axis; the message says which and why."""


def side_by_side(runs: Sequence[Path], chip: Chip | None, designs: Sequence[str]) -> dict[str, Any]:
    """Without a chip the first run's; without designs the best known that each run can be priced under."""
    records = [RunRecord(run) for run in runs]
    first = records[0].info
    for run, record in zip(runs, records, strict=True):
        for what in ("model", "seed", "batch"):
            mine, its = getattr(first, what), getattr(record.info, what)
            if mine != its:
                raise SideBySideError(
                    f"{run} is of {what} {its!r}, {runs[0]} of {mine!r}: one axis needs the same {what} in all runs"
                )
        if record.interrupted:
            raise SideBySideError(
                f"{run} was interrupted after {record.interrupted}; `ditto resume {run}` finishes it"
            )
    made = chip or chip_of(first)
    against, reference = _reference(runs[0])
    rows: list[dict[str, Any]] = []
    for run, record in zip(runs, records, strict=True):
        columns = RecordColumns.load(record)
        fitting = designs_for(columns.program)
        asked = [d for d in designs if d in fitting or Path(d).is_file()] or usual_designs(columns)
        shared = {
            "run": str(run),
            "way": run.name,
            "kind": kind_of(columns, first.steps),
            "steps": record.info.steps,
        }
        quality = {"psnr_db": _psnr_db(run, reference)}
        rows += [shared | cost_of(columns, made, design) | quality for design in asked]
    slowest = rows[0]["cycles"]
    for row in rows:
        row["speedup"] = round(slowest / row["cycles"], 4)
    return {
        "chip": made.name,
        "quality_against": against,
        "over": f"{rows[0]['way']}, {rows[0]['design']}",
        "rows": rows,
    }


def kind_of(columns: RecordColumns, steps: int) -> str:
    """What a run leaves out: `full`, `steps`, `reuse`, `icc`, `both` or `sq_dm` (`one_axis.py`)."""
    if usual_designs(columns) == BLOCK_DESIGNS:
        return "sq_dm"
    fewer, program = columns.info.steps < steps, columns.program
    if program.period == 1:
        return "steps" if fewer else "full"
    if fewer:
        return "both"
    return "icc" if any(c.op == "linear_increment" for c in program.layers) else "reuse"


def _reference(run: Path) -> tuple[str, list[Any]]:
    """What pictures are held against, in words and as arrays."""
    report = load_report(run)
    if report.fp32:
        return f"the fp32 pictures of {run.name}", _pictures(run, report.fp32)
    return f"the pictures of {run.name} (it drew none in fp32)", _pictures(run, report.images)


def _psnr_db(run: Path, reference: Sequence[Any]) -> float | None:
    """Mean over a run's pictures; None where they equal the reference, or where it made none."""
    found = _pictures(run, load_report(run).images)
    each = [psnr_db(a, b) for a, b in zip(found, reference, strict=True)]
    return round(float(np.mean(each)), 2) if each and all(map(math.isfinite, each)) else None


def _pictures(run: Path, names: Sequence[str]) -> list[Any]:
    return [np.asarray(Image.open(run / name)) for name in names]

# SPDX-License-Identifier: Apache-2.0
"""Sweeps: one recorded run on many chips and designs, in parallel.

Interface
    points(run, chip, designs, tiles, bandwidths, buffers) -> list of Point
    run_points(points, jobs) -> one row of figures a point, in order
    pareto(pairs) -> indices that no other pair beats in both

A low rule belongs to a record (it decides what counts as a slot), so it is swept by giving several records.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from ditto_cosim.device.chips import Chip, ChipError, load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, price_run
from ditto_cosim.protocol.record import RunInfo, RunRecord


@dataclass(frozen=True, slots=True)
class Point:
    """One price to find."""

    run: Path
    design: str
    chip: Chip


def points(
    run: Path,
    chip: str,
    designs: Sequence[str],
    tiles: Sequence[float],
    bandwidths: Sequence[float],
    buffers: Sequence[float],
) -> list[Point]:
    """Every combination around a chip (the run's own if `chip` is empty)."""
    base = load_chip(chip) if chip else chip_of(_info(run))
    names = [d.strip() for d in designs if d.strip()]
    for name in names:
        load_design(name)
    return [
        Point(run, design, _variant(base, tile, bandwidth, buffer))
        for design, tile, bandwidth, buffer in product(names, tiles, bandwidths, buffers)
    ]


def _info(run: Path) -> RunInfo:
    return RunRecord(run).info


def _variant(base: Chip, tile: float, bandwidth: float, buffer_mb: float) -> Chip:
    if min(tile, bandwidth) <= 0 or buffer_mb < 0:
        raise ChipError(
            f"sweep: factors {tile:g} and {bandwidth:g} and buffer {buffer_mb:g} MB must be positive"
        )
    count = max(1, round(base.tiles * tile))
    dram = base.dram
    if dram.bytes_per_cycle is None:
        dram = replace(dram, channels=max(1, round(dram.channels * bandwidth)))
    else:
        dram = replace(dram, bytes_per_cycle=max(1, round(dram.bytes_per_cycle * bandwidth)))
    sized = replace(
        base, tiles=count, multipliers=max(1, round(base.multipliers * count / base.tiles)), dram=dram
    )
    if buffer_mb == 0:
        return replace(sized, residency="streaming")
    return replace(sized, residency="resident", buffer_bytes=int(buffer_mb * 2**20))


@lru_cache(maxsize=2)
def _columns(run: Path) -> RecordColumns:
    return RecordColumns.load(RunRecord(run))


def _price(point: Point) -> dict[str, Any]:
    columns, chip = _columns(point.run), point.chip
    found = price_run(columns, chip, load_design(point.design))
    return {
        "run": str(point.run),
        "low_rule": columns.info.low_rule,
        "design": found.design,
        "tiles": chip.tiles,
        "multipliers": chip.multipliers,
        "bytes_per_cycle": chip.dram.peak_bytes_per_cycle(chip.clock_mhz),
        "buffer_mb": chip.buffer_bytes / 2**20 if chip.residency == "resident" else 0.0,
        "cycles": found.total_cycles,
        "seconds": found.total_cycles / chip.clock_ghz / 1e9,
        "energy_j": found.total_energy_pj / 1e12,
        "bytes": found.total_bytes,
    }


def run_points(wanted: Sequence[Point], jobs: int = 0) -> list[dict[str, Any]]:
    """Prices all points, on `jobs` processes (0: one a core)."""
    jobs = min(jobs or os.cpu_count() or 1, len(wanted))
    if jobs <= 1:
        return [_price(p) for p in wanted]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(_price, wanted, chunksize=max(1, len(wanted) // (4 * jobs))))


def pareto(pairs: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the pairs that no other is at least as good as in both and better in one."""
    front: set[int] = set()
    best = float("inf")
    for i in sorted(range(len(pairs)), key=lambda i: pairs[i]):
        if pairs[i][1] < best:
            best = pairs[i][1]
            front.add(i)
    return front

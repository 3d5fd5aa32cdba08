# SPDX-License-Identifier: Apache-2.0
"""Prices a finished run for its report: designs beside each other, layers against the chip's limits, one step over time.

    prices = appraise(Path("runs/demo"))                 seconds: the best-known designs, the chips that ship, and for a run of
                                                         few layers and steps one step in transactions and the sliders' grid
    prices = appraise(Path("runs/demo"), full=True)      all designs, and the latter two for any run

Without a compiler only the full form, which is asked for: it takes minutes.

What this file does not do: price (`device/pricing/`) or draw (`host/report/`).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

from ditto_cosim import workers
from ditto_cosim.device.chips import Chip, chip_names, load_chip
from ditto_cosim.device.designs.base import Design, designs_for, load_design
from ditto_cosim.device.kernels import native
from ditto_cosim.device.pricing.area import Area, area
from ditto_cosim.device.pricing.contracts import Pipelined
from ditto_cosim.device.pricing.fields import Value
from ditto_cosim.device.pricing.moments import ROOMS, StepMoments, moments
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, chip_of, design_of, price_run
from ditto_cosim.device.pricing.sweep import Base, price
from ditto_cosim.device.pricing.two_arrays import RecordedArrays, theta
from ditto_cosim.host.report.prices import (
    BothArrays,
    DesignPrice,
    Elsewhere,
    LayerPrice,
    Prices,
    StepSeries,
    Threshold,
    WhatIf,
)
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import MODES
from ditto_cosim.protocol.record import RunRecord, layer_work

WELL_KNOWN = ("itc", "diffy", "cambricon_d", "ditto", "ditto_plus", "ideal_ditto")
BLOCK_SCALED = ("fp16_dense", "int4_dense", "sq_dm")
"""Those of a program with block-scaled layers, the first what others are held against."""
TILES, BANDWIDTHS, BUFFERS_MB = (0.5, 1.0, 2.0), (0.5, 1.0, 2.0), (0.0, 192.0)
GRID_LAYER_STEPS, SERIES_LAYERS = 5000, 200
"""Up to so many layers × steps, and layers, the grid and a step in transactions take a few seconds and are made unasked."""
BINS = 240
SERIES_STEP = 2
"""Of the steps that are there, the first in which Defo's decisions stand."""


class NotPricedError(DittoError):
    """Prices that would take too long to be made unasked."""


def appraise(run: Path, *, full: bool = False) -> Prices:
    """Prices the run; it must have been recorded."""
    if not full and native.kernels() is None:
        raise NotPricedError("without a C++ compiler that takes minutes; `ditto report RUN --full` does it")
    columns = RecordColumns.load(RunRecord(run))
    chip, own = chip_of(columns.info), design_of(columns.info)
    fitting = designs_for(columns.program)
    known = [n for n in WELL_KNOWN if n in fitting] or BLOCK_SCALED
    names = dict.fromkeys((*known, *(fitting if full else ())))
    designs = {own.name: own, **{n: load_design(n) for n in names if n != own.name}}
    times = {name: price_run(columns, chip, design, judge=False) for name, design in designs.items()}
    extent = len(columns.program.layers) * len(columns.steps)
    size = area(chip, own)
    return Prices(
        design=own.name,
        chip=chip.name,
        clock_hz=chip.clock_hz,
        multipliers=chip.multipliers,
        peak_bytes_per_cycle=float(chip.dram.peak_bytes_per_cycle(chip.clock_mhz)),
        area_mm2=round(size.mm2, 1),
        area_source=_consists(size),
        equals_run=None
        if None in columns.charged
        else times[own.name].step_cycles.tolist() == list(columns.charged),
        designs=[_design(chip, designs[name], time) for name, time in times.items()],
        layers=_layers(columns, times[own.name]),
        elsewhere=[_elsewhere(columns, load_chip(name), own) for name in chip_names() if name != chip.name],
        series=_series(columns, chip, own) if full or len(columns.program.layers) <= SERIES_LAYERS else None,
        what_if=_what_if(run, columns, own, jobs=0 if full else 1)
        if full or extent <= GRID_LAYER_STEPS
        else [],
        two_arrays=_two_arrays(columns, chip, own),
    )


def _two_arrays(columns: RecordColumns, chip: Chip, own: Design) -> BothArrays | None:
    """How busy SQ-DM's arrays were, and what other thresholds would have given."""
    if own.hetero is None or own.hetero.arrays != "both":
        return None
    arrays = RecordedArrays(columns, chip, own)
    if not arrays.layers:
        return None
    dense, sparse = arrays.busy_by_step()
    return BothArrays(
        threshold=own.hetero.threshold,
        dense_busy=[round(float(b), 4) for b in dense],
        sparse_busy=[round(float(b), 4) for b in sparse],
        thresholds=[
            Threshold(dense_share=r["dense_share"], threshold=r["threshold"], speedup=r["speedup"])
            for r in theta(arrays)
        ],
    )


def _consists(size: Area) -> str:
    largest = sorted(size.parts, key=lambda part: -part.mm2)[:3]
    return (
        f"45 nm, most of it {', '.join(f'{p.name} {p.mm2:,.0f}' for p in largest)}; sources: ditto chips NAME"
    )


def _design(chip: Chip, design: Design, time: RunTime) -> DesignPrice:
    total = max(time.total_cycles, 1)
    return DesignPrice(
        name=design.name,
        title=design.title,
        cycles=time.total_cycles,
        energy_pj=time.energy_totals(),
        dram_bytes=time.total_bytes,
        computing=time.unit_totals()["compute"] / total,
        waits={cause: cycles / total for cause, cycles in time.stall_totals().items()},
        temporal=float((time.modes == MODES.index("temporal")).mean()),
        area_mm2=round(area(chip, design).mm2, 1),
    )


def _layers(columns: RecordColumns, time: RunTime) -> list[LayerPrice]:
    """Work of each layer over the run, as it ran."""
    nbytes = np.sum(list(time.traffic.values()), axis=0)
    found = []
    for layer in range(len(time.names)):
        whole = sum(work.macs for work in layer_work(columns.program, layer, "original"))
        macs = whole * int(columns.runs[:, layer].sum())
        products = 0
        for mode, met in columns.met[layer].items():
            ran = [
                w
                for at, w in zip(met.at, met.works, strict=True)
                if columns.ran[at, layer] == MODES.index(mode)
            ]
            products += sum(s.slot_total * s.work.n for works in ran for s in works)
        found.append(
            LayerPrice(
                macs=macs,
                products=products,
                dram_bytes=int(nbytes[layer + 1]),
                cycles=int(time.cycles[:, layer].sum()),
            )
        )
    return found


def _elsewhere(columns: RecordColumns, chip: Chip, own: Design) -> Elsewhere:
    fitting = designs_for(columns.program)
    against = load_design("itc" if "itc" in fitting else BLOCK_SCALED[0])
    base, mine = (price_run(columns, chip, design, judge=False) for design in (against, own))
    return Elsewhere(
        chip=chip.name,
        speedup=base.total_cycles / max(mine.total_cycles, 1),
        energy=mine.total_energy_pj / max(base.total_energy_pj, 1e-30),
    )


def _series(columns: RecordColumns, chip: Chip, own: Design) -> StepSeries | None:
    """One step in transactions, if this chip and design have any."""
    if not isinstance(Pricer(columns.program, chip, own).contract, Pipelined):
        return None
    step = moments(columns, chip, own, columns.steps[min(SERIES_STEP, len(columns.steps) - 1)])
    at, bandwidth = step.bandwidth(BINS)
    return StepSeries(
        step=step.step,
        at_cycles=at.tolist(),
        dram_bytes_per_cycle=[round(float(b), 2) for b in bandwidth],
        held_bytes={room: _most(step, room) for room in ROOMS},
        rooms_bytes={str(room): size for room, size in step.rooms.items()},
    )


def _most(step: StepMoments, room: str) -> list[int]:
    """The most that was held in each bin."""
    found, level, bin_ = [0] * BINS, 0, 0
    for at, held in step.fill(room):  # type: ignore[arg-type]  # one of ROOMS
        until = min(at * BINS // step.cycles, BINS - 1)
        for passed in range(bin_, until + 1):
            found[passed] = max(found[passed], level)
        level, bin_ = held, until
        found[until] = max(found[until], level)
    return found


def _what_if(run: Path, columns: RecordColumns, own: Design, jobs: int) -> list[WhatIf]:
    fitting = designs_for(columns.program)
    names = [n for n in dict.fromkeys(("itc", "ditto", own.name)) if n in fitting]
    base = Base((run,))
    chip, _ = base.own(run)
    piped = chip.dram.bytes_per_cycle
    width = "dram.channels" if piped is None else "dram.bytes_per_cycle"
    wanted = []
    for design, tiles, bandwidth, buffer_mb in product(names, TILES, BANDWIDTHS, BUFFERS_MB):
        settings: dict[str, Value] = {
            "design": design,
            "tile.tiles": max(1, round(chip.tiles * tiles)),
            width: max(1, round((piped or chip.dram.channels) * bandwidth)),
            "buffer.policy": "resident" if buffer_mb else "streaming",
        }
        if buffer_mb:
            settings["buffer.megabytes"] = buffer_mb
        wanted.append(base.candidate(run, settings))
    priced = dict(workers.each(price, {run: columns}, wanted, jobs=jobs))
    return [
        WhatIf(
            design=c.design.name,
            tiles=c.chip.tiles,
            bytes_per_cycle=c.chip.dram.peak_bytes_per_cycle(c.chip.clock_mhz),
            buffer_mb=c.chip.buffer_bytes / 2**20 if c.chip.residency == "resident" else 0.0,
            cycles=priced[i]["cycles"],
            energy_pj=priced[i]["energy_pj"],
        )
        for i, c in enumerate(wanted)
    ]

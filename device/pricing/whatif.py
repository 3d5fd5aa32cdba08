# SPDX-License-Identifier: Apache-2.0
"""What if there were twice as much of something: the bound of every layer, and the one behind it.

Contract
    A layer's gain from a resource is its cycles over its cycles on a chip with twice as much of that resource and nothing else
    changed, the whole run priced again, neighbours included (so a layer may gain from what another one needs). Its bound is the
    resource with the largest gain, `latency` if none gains a per cent; the next bound is what gains most once that is doubled.
    What a chip cannot have twice (an encoder as wide as the rows it may take) is left out.
    Occupancy is the share of a layer's cycles in which PEs are at work; utilisation the share of its multiplier cycles (all
    multipliers, all of its cycles) in which one of them multiplies: what lanes without rows, the fill of words and full values
    leave of occupancy. The roofline point is the layer over the run: MACs as in the model, DRAM bytes, and under which of the two
    roofs it lies. The roof over compute is that of 8-bit MACs without skipping, two multiplications each: skipping may pass it.

Interface
    RESOURCES                                    name -> function from a chip to one with twice as much
    bounds(columns, chip, design)                -> LayerBound of every layer, and of the run
    LayerBound.use                               -> Use: occupancy, utilisation, measured share, the point in the roofline
    of_layer(found, name)                        -> that layer's, or a sentence with the nearest name

What this file does not do: price (`recorded.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.protocol.errors import DittoError, GeometryError
from ditto_cosim.protocol.record import layer_work

LATENCY = "latency"
WORTH = 1.01
"""A gain below is none."""


class WhatIfError(DittoError):
    """A question about a layer that the run does not have."""


def _tiles(chip: Chip) -> Chip:
    return replace(chip, tiles=2 * chip.tiles, multipliers=2 * chip.multipliers)


def _dram(chip: Chip) -> Chip:
    dram = chip.dram
    if dram.bytes_per_cycle is not None:
        return replace(chip, dram=replace(dram, bytes_per_cycle=2 * dram.bytes_per_cycle))
    return replace(chip, dram=replace(dram, channels=2 * dram.channels))


def _weight_banks(chip: Chip) -> Chip:
    return replace(chip, geometry=replace(chip.geometry, weight_banks=2 * chip.geometry.weight_banks))


def _encoder(chip: Chip) -> Chip:
    return replace(chip, geometry=replace(chip.geometry, encode_width=2 * chip.geometry.encode_width))


RESOURCES: Mapping[str, Callable[[Chip], Chip]] = {
    "tiles": _tiles,
    "dram": _dram,
    "vector": lambda chip: replace(chip, vector_lanes=2 * chip.vector_lanes),
    "buffer": lambda chip: replace(chip, buffer_bytes=2 * chip.buffer_bytes),
    "weight_banks": _weight_banks,
    "encoder": _encoder,
}


@dataclass(frozen=True, slots=True)
class Use:
    """What of the chip a layer uses."""

    occupancy: float
    utilisation: float
    measured: float
    """Share of its cycles whose lanes were measured, not modelled."""
    macs: int
    dram_bytes: int
    macs_per_byte: float
    macs_per_cycle: float
    roof_macs_per_cycle: float
    roof: str
    """`compute` or `dram`."""


@dataclass(frozen=True, slots=True)
class LayerBound:
    """One layer over the run, or the whole of it."""

    name: str
    cycles: int
    bound: str
    next: str
    gain: Mapping[str, float]
    """By resource that can be doubled."""
    use: Use


def bounds(columns: RecordColumns, chip: Chip, design: Design) -> tuple[list[LayerBound], LayerBound]:
    """Every layer in program order, and the whole run."""

    def cycles(of: Chip) -> list[int]:
        return _cycles(price_run(columns, of, design, judge=False))

    priced = price_run(columns, chip, design, judge=False)
    used = _used(columns, priced, chip, design)
    base, names = _cycles(priced), [*(command.name for command in columns.program.layers), "the run"]
    more = {name: made for name, double in RESOURCES.items() if (made := _doubled(double, chip)) is not None}
    alone = {name: cycles(made) for name, made in more.items()}
    gains = [{n: base[i] / max(1, c[i]) for n, c in alone.items()} for i in range(len(names))]
    first = [_most(gain) for gain in gains]
    behind: dict[str, dict[str, list[int]]] = {}
    for name in sorted(set(first) - {LATENCY}):
        others = {n: _doubled(RESOURCES[n], more[name]) for n in more}
        behind[name] = {n: cycles(made) for n, made in others.items() if made is not None and n != name}
    found = []
    for i, name in enumerate(names):
        second = LATENCY
        if first[i] != LATENCY:
            now = alone[first[i]][i]
            second = _most({n: now / max(1, c[i]) for n, c in behind[first[i]].items()})
        found.append(LayerBound(name, int(base[i]), first[i], second, gains[i], used[i]))
    return found[:-1], found[-1]


def _cycles(found: RunTime) -> list[int]:
    """Of each layer, then of the run."""
    each: list[int] = (found.weights @ found.cycles).tolist()
    return [*each, found.total_cycles]


def _used(columns: RecordColumns, found: RunTime, chip: Chip, design: Design) -> list[Use]:
    """Of each layer, then of the run, what precedes the first layer included."""
    times, runs = found.weights, found.weights @ found.runs
    cycles = np.array(_cycles(found))
    macs = np.array(
        [sum(w.macs for w in layer_work(columns.program, i, "original")) for i in range(len(runs))]
    )
    moved = np.sum(list(found.traffic.values()), axis=0)
    busy, products = found.units["compute"], found.products
    measured = times @ (found.cycles * found.measured)

    def with_whole(of_layers: Any, whole: Any) -> Any:
        return np.append(of_layers, whole)

    columns_of = (
        with_whole(busy[1:], busy.sum()),
        with_whole(products[1:], products.sum()),
        with_whole(measured, measured.sum()),
        with_whole(macs * runs, (macs * runs).sum()),
        with_whole(moved[1:], moved.sum()),
    )
    multipliers = design.multipliers_on(chip.multipliers)
    peak = multipliers / (1 if design.datapath in ("dense8", "sparse8") else 2)
    bandwidth = chip.dram.peak_bytes_per_cycle(chip.clock_mhz)
    made = []
    for taken, at_work, done, counted, worked, nbytes in zip(cycles, *columns_of, strict=True):
        taken = max(int(taken), 1)
        dense = float(worked) / max(int(nbytes), 1)
        under_dram = dense * bandwidth
        made.append(
            Use(
                occupancy=float(at_work) / taken,
                utilisation=float(done) / (taken * multipliers),
                measured=float(counted) / taken,
                macs=int(worked),
                dram_bytes=int(nbytes),
                macs_per_byte=dense,
                macs_per_cycle=float(worked) / taken,
                roof_macs_per_cycle=min(peak, under_dram),
                roof="compute" if peak <= under_dram else "dram",
            )
        )
    return made


def of_layer(found: list[LayerBound], name: str) -> LayerBound:
    """By name, or by the only name that holds this text."""
    held = [b for b in found if b.name == name] or [b for b in found if name in b.name]
    if len(held) == 1:
        return held[0]
    near = [b.name for b in held][:4] or difflib.get_close_matches(name, [b.name for b in found], 4, 0.3)
    raise WhatIfError(
        f"layer {name!r} is {'none' if not held else 'several'} of this run's {len(found)} layers; "
        f"nearest: {', '.join(near) or 'nothing like it'}"
    )


def _doubled(double: Callable[[Chip], Chip], chip: Chip) -> Chip | None:
    try:
        return double(chip)
    except GeometryError:
        return None


def _most(gain: Mapping[str, float]) -> str:
    """The resource that gains most; of equals the first named."""
    best = max(gain, key=lambda name: gain[name], default=LATENCY)
    return best if best != LATENCY and gain[best] >= WORTH else LATENCY

# SPDX-License-Identifier: Apache-2.0
"""One recorded run on many chips and designs: what a point is, what it comes to, which points nothing beats.

Interface
    Base(runs, chip).candidates(axes)      every combination, and what cannot be built of them, in sentences
    Base(runs, chip).candidate(run, settings)
    price(records, candidate) -> row       cycles, seconds, energy_pj, energy_delay, area_mm2, power_w, bytes beside its fields
    parse_limit("area_mm2=80"), parse_objectives(["energy_delay"]), METRICS
    within(row, limits), nearest(rows, limits)
    pareto(vectors) -> indices             of those that no other is at least as good as in all and better in one

A row depends on its candidate alone, so who prices it, and how many at a time, changes nothing (`ditto_cosim/workers.py`).
Candidates are ordered so that those whose lanes are alike follow each other: they share half of the work.

What this file does not do: start processes, choose points (`ditto_cosim/explore.py`), draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.area import area
from ditto_cosim.device.pricing.contracts import memory_named
from ditto_cosim.device.pricing.fields import Axis, Value, made, told
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of, price_run
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.record import RunInfo, RunRecord
from ditto_cosim.protocol.suggest import did_you_mean

Row = dict[str, Any]
Records = Mapping[Path, RecordColumns]

METRICS: Mapping[str, str] = {
    "cycles": "cycles",
    "seconds": "s",
    "energy_pj": "pJ",
    "energy_delay": "J·s",
    "area_mm2": "mm²",
    "power_w": "W",
    "bytes": "bytes of DRAM traffic",
}
"""What a point comes to, all of it better when less, and the unit."""
_SHORT = {
    "energy": "energy_pj",
    "area": "area_mm2",
    "power": "power_w",
    "delay": "seconds",
    "edp": "energy_delay",
}
MOST_POINTS = 100_000


class SweepError(DittoError):
    """A question that a sweep cannot answer; the message says which part."""


@dataclass(frozen=True)
class Candidate:
    """One price to find."""

    run: Path
    chip: Chip
    design: Design
    settings: Mapping[str, Value]
    dram: str = ""


@dataclass(frozen=True)
class Base:
    """What varies around: the runs, and a chip or a memory model (`module:Class`) if it is not theirs."""

    runs: tuple[Path, ...]
    chip: str = ""
    dram: str = ""

    @cached_property
    def _own(self) -> dict[Path, tuple[Chip, Design]]:
        found = {}
        for run in self.runs:
            info: RunInfo = RunRecord(run).info
            found[run] = load_chip(self.chip) if self.chip else chip_of(info), design_of(info)
        return found

    def own(self, run: Path) -> tuple[Chip, Design]:
        return self._own[run]

    def candidate(self, run: Path, settings: Mapping[str, Value]) -> Candidate:
        return Candidate(run, *made(*self._own[run], settings), settings, self.dram)

    def candidates(self, axes: Sequence[Axis]) -> tuple[list[Candidate], list[str]]:
        """If none can be built, the first sentence is raised."""
        count = len(self.runs)
        for axis in axes:
            count *= len(axis.values)
        if count > MOST_POINTS:
            raise SweepError(
                f"sweep: {count:,} points; a grid takes up to {MOST_POINTS:,}. Vary less, or sample: --sampler tpe --points 500"
            )
        found: list[Candidate] = []
        refused: list[DittoError] = []
        each = product(*(axis.values for axis in axes))
        for run, values in product(self.runs, list(each)):
            settings = dict(zip((axis.name for axis in axes), values, strict=True))
            try:
                found.append(self.candidate(run, settings))
            except DittoError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        return found, [str(error) for error in refused]


def shared_first(candidates: Sequence[Candidate]) -> list[int]:
    """Indices in the order in which most is shared from one to the next."""

    def lanes(at: int) -> tuple[str, ...]:
        c = candidates[at]
        of_chip = c.chip.timing, c.chip.geometry, c.chip.tiles, c.chip.multipliers, c.chip.adders
        return str(c.run), c.design.datapath, str(c.design.multipliers), repr(of_chip), c.design.name

    return sorted(range(len(candidates)), key=lanes)


def price(records: Records, candidate: Candidate) -> Row:
    chip, design, columns = candidate.chip, candidate.design, records[candidate.run]
    found = price_run(columns, chip, design, memory=memory_named(candidate.dram, chip), judge=False)
    seconds = found.total_cycles / chip.clock_hz
    energy_pj = found.total_energy_pj
    return {
        "run": str(candidate.run),
        "low_rule": columns.info.low_rule,
        "chip": chip.name,
        "design": design.name,
        **{k: v for k, v in candidate.settings.items() if k not in ("chip", "design")},
        "cycles": found.total_cycles,
        "seconds": seconds,
        "energy_pj": energy_pj,
        "energy_delay": energy_pj / 1e12 * seconds,
        "area_mm2": area(chip, design).mm2,
        "power_w": energy_pj / 1e12 / max(seconds, 1e-30),
        "bytes": found.total_bytes,
    }


# --- what is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a point may come to."""

    metric: str
    most: float

    def __str__(self) -> str:
        return f"{self.metric} ≤ {self.most:g}"


def metric(name: str, option: str) -> str:
    full = _SHORT.get(name, name)
    if full not in METRICS:
        known = (*METRICS, *_SHORT)
        raise SweepError(
            f"{option} {name!r}: no such figure{did_you_mean(name, known)}; known: {', '.join(METRICS)}"
        )
    return full


def parse_limit(text: str) -> Limit:
    name, sign, value = text.replace("<=", "=").partition("=")
    try:
        most = float(value)
    except ValueError:
        most = -1.0
    if not sign or not 0 < most < float("inf"):
        raise SweepError(f"--limit {text!r}: expected figure=most, a number above 0, such as area_mm2=80")
    return Limit(metric(name.strip(), "--limit"), most)


def parse_objectives(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(metric(n.strip(), "--objective") for t in texts for n in t.split(",") if n.strip())
    )


def within(row: Row, limits: Sequence[Limit]) -> bool:
    return all(row[limit.metric] <= limit.most for limit in limits)


def excess(row: Row, limits: Sequence[Limit]) -> float:
    """How many times a point's worst figure is of its limit; up to 1 within."""
    return max((row[limit.metric] / limit.most for limit in limits), default=0.0)


def nearest(rows: Sequence[Row], limits: Sequence[Limit], axes: Sequence[Axis]) -> str:
    """What is said where no point is within the limits."""
    best = min(rows, key=lambda row: excess(row, limits))
    fields = {axis.name: best[axis.name] for axis in axes if axis.name in best}
    met = " and ".join(
        f"{limit.metric} = {best[limit.metric]:.4g} ({best[limit.metric] / limit.most:.2f} of the limit)"
        for limit in limits
    )
    each = ", ".join(f"{limit.metric} {min(row[limit.metric] for row in rows):.4g}" for limit in limits)
    return (
        f"none of {len(rows)} points is within {' and '.join(map(str, limits))}. The nearest, {told(fields) or 'as the run is'}, "
        f"has {met}; the least of each alone: {each}. Vary what counts there (`ditto chips NAME` says what area consists of), or "
        "allow more"
    )


def pareto(vectors: Sequence[Sequence[float]]) -> list[int]:
    """In the order of the first figure; of equals the first."""
    front: list[int] = []
    for i in sorted(range(len(vectors)), key=lambda i: (*vectors[i], i)):
        mine = vectors[i]
        if not any(all(a <= b for a, b in zip(vectors[f], mine, strict=True)) for f in front):
            front.append(i)
    return front

# SPDX-License-Identifier: Apache-2.0
"""Assumptions of the study turned so that a claim may hold, each frozen for all claims, with its price in the others.

Interface
    TURNS                               name -> which claim it turns, and which of the two presets it starts from
    turned(name) -> Evaluation          the seven workloads on `turns/<name>.toml`
    price_presets(map, by_preset) -> Turned     all of it, as `ditto paper --presets` shows it
    price_of(name, before, after) -> Price      every claim whose figure moves, before and after
    counter_units(preset) -> rows       Defo (C22, C41) by the unit that its counters count in

A preset is judged alone: both columns of a claim are of one chip, so that the price under `tlm` is graded as under `paper`. The
drifting benchmark (C43) is an input, and is not priced again. What this file does not do: say what a claim claims (`claims.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.study.claims import Judgement, judge
from ditto_cosim.study.evaluation import CHIP_OF, PRESETS, Evaluation, Preset, evaluate_on, mean, price_steady
from ditto_cosim.study.workloads import WORKLOADS

COUNTER_UNITS = (0, 1, 2, 3, 4, 5, 6, 8)
COUNTING = ("ditto", "ditto_plus")
NOT_PRICED = ("C43",)


@dataclass(frozen=True, slots=True)
class Turn:
    claim: str
    base: Preset


TURNS: Mapping[str, Turn] = {
    "vector": Turn("C33", "tlm"),
    "encoders": Turn("C34", "tlm"),
    "resident": Turn("C35", "paper"),
}


@dataclass(frozen=True, slots=True)
class MovedClaim:
    """One claim of which a preset changes the figure."""

    id: str
    before: str
    after: str
    verdict_before: Judgement
    verdict_after: Judgement


@dataclass(frozen=True, slots=True)
class Price:
    """What a preset does to every claim; claims that are not here stay as they were to four digits."""

    name: str
    turns: str
    base: Preset
    changes: dict[str, Any]
    """Fields of the chip, as in its TOML file."""
    claims: tuple[MovedClaim, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """All of it."""

    presets: tuple[Price, ...]
    counter_units: tuple[dict[str, Any], ...]


def price_presets(mapped: Callable[..., Iterable[Any]], by_preset: Mapping[Preset, Evaluation]) -> Turned:
    """`mapped` may spread it over processes."""
    found = dict(zip(TURNS, mapped(turned, TURNS), strict=True))
    prices = tuple(price_of(name, by_preset[turn.base], found[name]) for name, turn in TURNS.items())
    return Turned(prices, tuple(row for rows in mapped(counter_units, PRESETS) for row in rows))


def turned_chip(name: str) -> Chip:
    file = resources.files("ditto_cosim.study").joinpath("turns").joinpath(f"{name}.toml")
    with resources.as_file(file) as path:
        return load_chip(path)


def turned(name: str) -> Evaluation:
    """Costs what one of the two presets costs, less the drifting benchmark."""
    return evaluate_on(turned_chip(name), TURNS[name].base)


def price_of(name: str, before: Evaluation, after: Evaluation) -> Price:
    """`before` is the preset that it starts from."""
    turn, chip = TURNS[name], turned_chip(name)
    moved = [
        MovedClaim(was.id, was.ours_paper, now.ours_paper, was.verdict, now.verdict)
        for was, now in zip(judge(before, before), judge(after, after), strict=True)
        if was.ours_paper != now.ours_paper and was.id not in NOT_PRICED
    ]
    return Price(name, turn.claim, turn.base, _changes(load_chip(CHIP_OF[turn.base]), chip), tuple(moved))


def _changes(before: Chip, after: Chip) -> dict[str, Any]:
    fields: Mapping[str, Callable[[Chip], Any]] = {
        "columns": lambda c: c.geometry.columns,
        "encode_width": lambda c: c.geometry.encode_width,
        "tiles": lambda c: c.tiles,
        "policy": lambda c: c.residency,
        "vector_lanes": lambda c: c.vector_lanes,
    }
    return {key: of(after) for key, of in fields.items() if of(before) != of(after)}


def counter_units(preset: Preset, only: tuple[str, ...] = tuple(WORKLOADS)) -> list[dict[str, Any]]:
    """What Defo makes of counters that count 2^u cycles. `saturated` and `ties` are layers of all workloads."""
    chip = load_chip(CHIP_OF[preset])
    chips = {unit: replace(chip, defo_unit_log2=unit) for unit in COUNTER_UNITS}
    by_workload = {name: price_steady(name, list(chips.values()), COUNTING) for name in only}
    rows = []
    for i, unit in enumerate(chips):
        for design in COUNTING:
            runs = {name: priced[i][design] for name, priced in by_workload.items()}
            decisions = [d for run in runs.values() for d in run.decisions]
            found = Evaluation(preset, {name: {design: run} for name, run in runs.items()}, {}, {})
            rows.append(
                {
                    "preset": preset,
                    "design": design,
                    "unit_log2": unit,
                    "accuracy": round(mean(found.accuracy(design)), 4),
                    "back": round(mean(found.back(design)), 4),
                    "latte_back": round(
                        dict(zip(runs, found.back(design), strict=True)).get("latte", 0.0), 4
                    ),
                    "saturated": sum(bool(d["saturated"]) for d in decisions),
                    "ties": sum(bool(d["tie"]) for d in decisions),
                    "cycles": sum(run.total_cycles for run in runs.values()),
                }
            )
    return rows

# SPDX-License-Identifier: Apache-2.0
"""Which points of a space are priced: all of them, some at random, or those that Optuna finds worth it.

    found = explore(base, axes, objectives, limits, sampler="tpe", count=200, on="ray://…", told=print_progress)
    found.rows, found.front, found.best, found.left_out, found.sentence

Contract
    grid      every combination; random   `count` different ones, each as likely
    tpe, nsga2   Optuna's samplers, asked for `BATCH` points at a time, whatever the number of workers, so that the same seed
                 finds the same points everywhere; limits are constraints of theirs. A point is priced once, however often it
                 is suggested.
Rows come in the order of their candidates, whoever priced them.

What this file does not do: price (`device/pricing/sweep.py`), start processes (`workers.py`), print.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

from ditto_cosim import workers
from ditto_cosim.device.pricing.fields import Axis
from ditto_cosim.device.pricing.recorded import RecordColumns
from ditto_cosim.device.pricing.sweep import (
    MOST_POINTS,
    Base,
    Candidate,
    Limit,
    Row,
    SweepError,
    nearest,
    pareto,
    price,
    shared_first,
    within,
)
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.record import RunRecord

Sampler = Literal["grid", "random", "tpe", "nsga2"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
BATCH = 8
TRADE = ("cycles", "energy_pj")
"""What the front is drawn over where one objective was asked for."""

Told = Callable[[int, int], None]
"""Of how many points are priced, and how many there will be."""


@dataclass(frozen=True)
class Explored:
    """Points and what is to be said of them."""

    rows: list[Row]
    objectives: tuple[str, ...]
    front_over: tuple[str, ...]
    front: list[int]
    """Rows within the limits that nothing beats, by the first objective."""
    left_out: list[str]
    """What could not be built."""
    sentence: str
    """If nothing is within the limits: how near the best comes."""

    @property
    def best(self) -> Row | None:
        """Of the first objective, within the limits."""
        held = [self.rows[i] for i in self.front]
        return min(held, key=lambda row: row[self.objectives[0]]) if held else None


def explore(
    base: Base,
    axes: Sequence[Axis],
    objectives: Sequence[str],
    limits: Sequence[Limit] = (),
    *,
    sampler: Sampler = "grid",
    count: int = 64,
    seed: int = 0,
    on: str = "local",
    jobs: int = 0,
    told: Told = lambda done, of: None,
) -> Explored:
    workers.check(on)
    optuna = _optuna() if sampler in ("tpe", "nsga2") else None
    space = len(base.runs) * prod(len(axis.values) for axis in axes)
    left_out: list[str] = []
    if sampler == "grid":
        candidates, left_out = base.candidates(axes)
    elif sampler == "random":
        candidates, left_out = _random(base, axes, min(count, space), seed)
    else:
        candidates = []
    records = {run: RecordColumns.load(RunRecord(run)) for run in base.runs}

    def priced(asked: Sequence[Candidate], before: int, of: int) -> list[Row]:
        order, found = shared_first(asked), [Row()] * len(asked)
        done = workers.each(price, records, [asked[i] for i in order], on, jobs)
        for n, (at, row) in enumerate(done, 1):
            found[order[at]] = row
            told(before + n, of)
        return found

    if optuna is None:
        rows = priced(candidates, 0, len(candidates))
    else:
        rows = list(
            _suggested(optuna, base, axes, objectives, limits, sampler, count, seed, priced, left_out)
        )
    return conclude(rows, objectives, limits, axes, left_out)


def conclude(
    rows: list[Row],
    objectives: Sequence[str],
    limits: Sequence[Limit],
    axes: Sequence[Axis],
    left_out: list[str],
) -> Explored:
    """The front and the sentence."""
    over = tuple(objectives) if len(objectives) > 1 else tuple(dict.fromkeys((*objectives, *TRADE)))
    held = [i for i, row in enumerate(rows) if within(row, limits)]
    front = [held[i] for i in pareto([[rows[h][name] for name in over] for h in held])]
    sentence = "" if held else nearest(rows, limits, axes)
    return Explored(rows, tuple(objectives), over, front, left_out, sentence)


def _random(base: Base, axes: Sequence[Axis], count: int, seed: int) -> tuple[list[Candidate], list[str]]:
    """Different combinations, those that cannot be built among them and left out."""
    sizes = [len(base.runs), *(len(axis.values) for axis in axes)]
    drawn = random.Random(seed).sample(range(prod(sizes)), count)
    found: list[Candidate] = []
    refused: list[DittoError] = []
    for number in drawn:
        places = []
        for size in sizes:
            number, at = divmod(number, size)
            places.append(at)
        try:
            found.append(_at(base, axes, places))
        except DittoError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found, [str(error) for error in refused]


def _at(base: Base, axes: Sequence[Axis], places: Sequence[int]) -> Candidate:
    run, *values = places
    return base.candidate(base.runs[run], {a.name: a.values[at] for a, at in zip(axes, values, strict=True)})


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise SweepError(
            "--sampler tpe and nsga2 are Optuna's, which is not installed; "
            "`pip install 'ditto-cosim[search]'`, or take grid or random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _suggested(
    optuna: Any,
    base: Base,
    axes: Sequence[Axis],
    objectives: Sequence[str],
    limits: Sequence[Limit],
    sampler: Sampler,
    count: int,
    seed: int,
    priced: Callable[[Sequence[Candidate], int, int], list[Row]],
    left_out: list[str],
) -> Iterator[Row]:
    """Rows in the order in which they were first suggested."""
    import warnings

    known: dict[tuple[int, ...], Row | None] = {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        kind = optuna.samplers.TPESampler if sampler == "tpe" else optuna.samplers.NSGAIISampler
        study = optuna.create_study(directions=["minimize"] * len(objectives), sampler=kind(seed=seed))
    count = min(count, MOST_POINTS)
    seen: list[Row] = []
    for first in range(0, count, BATCH):
        trials = [study.ask() for _ in range(min(BATCH, count - first))]
        new: dict[tuple[int, ...], Candidate] = {}
        for trial in trials:
            places = [trial.suggest_int("run", 0, len(base.runs) - 1)]
            for axis in axes:
                ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values)
                last = len(axis.values) - 1
                places.append(
                    trial.suggest_int(axis.name, 0, last)
                    if ordered
                    else trial.suggest_categorical(axis.name, list(range(last + 1)))
                )
            trial.set_user_attr("places", places)
            key = tuple(places)
            if key not in known and key not in new:
                try:
                    new[key] = _at(base, axes, places)
                except DittoError as error:
                    known[key] = None
                    left_out.append(str(error))
        for key, row in zip(new, priced(list(new.values()), len(seen), max(count, len(seen))), strict=True):
            known[key] = row
            seen.append(row)
        worst = {name: max((row[name] for row in seen), default=1.0) for name in objectives}
        for trial in trials:
            met = known[tuple(trial.user_attrs["places"])]
            over = [1.0 if met is None else met[limit.metric] / limit.most - 1 for limit in limits]
            for limit, beyond in zip(limits, over, strict=True):
                trial.set_constraint(limit.metric, beyond)
            study.tell(trial, [2 * worst[n] if met is None else float(met[n]) for n in objectives])
    if not seen:
        raise SweepError(f"sweep: nothing that was suggested can be built: {left_out[0]}")
    yield from seen

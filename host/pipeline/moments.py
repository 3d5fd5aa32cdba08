# SPDX-License-Identifier: Apache-2.0
"""What the calls of a calibration tell of a run: where generations begin, how many steps one has, how far inputs reach.

What this file does not do: tell where a generation begins while it runs, when the next call is not known (`denoiser.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from ditto_cosim.host.compiler.arguments import TIME_NAMES

SLACK = 1.5
"""Of the largest number that an input held: beyond it, grids that were made for less cut values off."""


@dataclass(frozen=True)
class Moment:
    """One call."""

    form: int
    """Which of the denoiser's forms it was."""
    timestep: float | None
    timesteps: Any = None
    """The scheduler's, by identity."""


def begins_of(moments: Sequence[Moment]) -> list[int]:
    """The calls that were first of a generation: with new timesteps of a scheduler, or, without one, after a time that rose. A
    time that rises more often than it falls is a sampler's own."""
    if not moments:
        return []
    moves = [
        None if a.timestep is None or b.timestep is None else b.timestep - a.timestep
        for a, b in pairwise(moments)
    ]
    downwards = sum(m < 0 for m in moves if m) >= sum(m > 0 for m in moves if m)
    found = [0]
    for at, (before, now) in enumerate(pairwise(moments), 1):
        move = moves[at - 1]
        announced = now.timesteps is not None
        renewed = announced and now.timesteps is not before.timesteps
        if renewed or (not announced and move is not None and (move > 0 if downwards else move < 0)):
            found.append(at)
    return found


def begins_by_form(moments: Sequence[Moment]) -> dict[int, list[int]]:
    """The same for each form, among its own calls."""
    begins, counts = set(begins_of(moments)), dict.fromkeys((m.form for m in moments), 0)
    found: dict[int, list[int]] = {form: [] for form in counts}
    for at, moment in enumerate(moments):
        if at in begins:
            for form, count in counts.items():
                found[form].append(count)
        counts[moment.form] += 1
    return found


def steps_of(moments: Sequence[Moment]) -> int:
    """Steps of the longest generation: calls of one time are one step, where a time is told."""
    edges = [*begins_of(moments), len(moments)]
    return max(
        (
            1 + sum(a.timestep is None or a.timestep != b.timestep for a, b in pairwise(moments[first:last]))
            for first, last in pairwise(edges)
        ),
        default=0,
    )


@dataclass
class Reach:
    """The numbers that inputs have held."""

    largest: dict[str, float] = field(default_factory=dict)
    times: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """One call's inputs."""
        for name, low, high in _held(tensors):
            if _is_time(name):
                first, last = self.times.get(name, (low, high))
                self.times[name] = min(first, low), max(last, high)
            else:
                self.largest[name] = max(self.largest.get(name, 0.0), -low, high)

    def beyond(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Of which inputs this call goes beyond that, in words."""
        found = []
        for name, low, high in _held(tensors):
            if _is_time(name) and name in self.times:
                first, last = self.times[name]
                room = (last - first) * (SLACK - 1)
                if last > first and (low < first - room or high > last + room):
                    found.append(f"{name} is {low if low < first else high:g} (it saw {first:g} to {last:g})")
            elif max(-low, high) > SLACK * self.largest.get(name, float("inf")):
                found.append(f"{name} reaches {max(-low, high):.3g} (it saw {self.largest[name]:.3g})")
        return found


def _is_time(name: str) -> bool:
    return name.partition(".")[0] in TIME_NAMES


def _held(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, float, float]]:
    for name, tensor in tensors.items():
        counts = _is_time(name) or tensor.is_floating_point()
        if counts and tensor.numel() and not tensor.is_meta and "mask" not in name:
            low, high = tensor.aminmax()
            yield name, float(low), float(high)

# SPDX-License-Identifier: Apache-2.0
"""Buffers: which of a program's traffic stays on the chip, and how much room is left for what streams.

Contract (TLM-2.0: memory with byte credits; `Rooms` are the bounded buffers of the initiators)
    streaming   nothing stays: every transfer of `traffic.py` goes to DRAM.
    resident    what fits stays, decided once for the whole program, in this order:
                1. values that pass from group to group, in the order they are made, each if it fits beside the
                   values kept so far over the whole of its life;
                2. temporal state and weights, those first that save most DRAM bytes a step per byte held
                   (accumulators save a read and a write), ties in program order, in what is then left.
    Four chunks are always set aside for streaming. Of what is left over, half holds early bytes (weights, state), a quarter
    late ones, a quarter results.

What it does not do: banking, conflicts, or energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ditto_cosim.device.timing.traffic import ACCUMULATOR_BYTES, Group

Residency = Literal["streaming", "resident"]
CHUNKS_SET_ASIDE = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """What needs no DRAM: value numbers, and per group whether its state is on chip."""

    values: frozenset[int]
    previous_input: tuple[bool, ...]
    previous_output: tuple[bool, ...]
    held_bytes: int
    """At its fullest."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Room for what streams."""

    early_bytes: int
    late_bytes: int
    out_bytes: int

    @classmethod
    def beside(cls, kept: Kept, capacity_bytes: int) -> Rooms:
        left = capacity_bytes - kept.held_bytes
        return cls(left // 2, left // 4, left // 4)


def place(groups: Sequence[Group], capacity_bytes: int, chunk_bytes: int, residency: Residency) -> Kept:
    """Decides what stays."""
    nothing = (False,) * len(groups)
    if residency == "streaming":
        return Kept(frozenset(), nothing, nothing, 0)
    room = capacity_bytes - CHUNKS_SET_ASIDE * chunk_bytes
    made = {t.value: (g, t.nbytes) for g, group in enumerate(groups) for t in group.writes}
    last_read = {t.value: g for g, group in enumerate(groups) for t in group.reads if t.value in made}
    load = np.zeros(len(groups), np.int64)
    values: set[int] = set()
    for value, (born, nbytes) in made.items():
        if value not in last_read or value in groups[born].kept:
            continue  # read by the host alone, or by later steps
        life = slice(born, last_read[value] + 1)
        if int(load[life].max()) + nbytes <= room:
            load[life] += nbytes
            values.add(value)
    left = room - int(load.max(initial=0))
    wanted: list[tuple[float, int, str, int, int]] = []
    for g, group in enumerate(groups):
        for t in group.reads:
            if t.traffic == "weights":
                wanted.append((-1.0, g, "weights", t.nbytes, t.value))
        if group.has_state and not (group.summation_deferred or group.keeps_accumulators):
            wanted.append((-2.0, g, "previous_output", group.accumulators * ACCUMULATOR_BYTES, -1))
        if group.has_state and not group.difference_at_hand:
            wanted.append((-1.0, g, "previous_input", group.previous_input_bytes, -1))
    held_in, held_out = list(nothing), list(nothing)
    held = int(load.max(initial=0))
    for _, g, kind, nbytes, value in sorted(wanted):
        if value in values or nbytes > left:
            continue
        left -= nbytes
        held += nbytes
        if kind == "weights":
            values.add(value)
        elif kind == "previous_output":
            held_out[g] = True
        else:
            held_in[g] = True
    return Kept(frozenset(values), tuple(held_in), tuple(held_out), held)

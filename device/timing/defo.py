# SPDX-License-Identifier: Apache-2.0
"""The Defo unit: a table of 512 entries × 33 bits that decides, layer by layer, whether differences pay off.

Contract
    entry = first (16 bit) | second (16 bit) | decision (1 bit)
    Cycles are counted in units of 2^u and saturate at 65,535; u belongs to the chip.
    The first observation of a layer is its base mode, the second temporal. Then
        temporal  if second < first,  otherwise the base mode (ties included), frozen.
    A step whose base mode was forced does not count as the second observation: the next one does.
    Dynamic: a decided `temporal` may fall back to the base mode at any later step, never the other way.
    The unit itself takes no time beside the lanes; reading and writing an entry is one cycle, hidden.

What it does not do: choose for designs without the table (always temporal, oracle): `device/designs`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from ditto_cosim.protocol.errors import DittoError

ENTRIES = 512
COUNTER_MAX = 0xFFFF

Phase = Literal["first", "second", "frozen"]
_PHASES: tuple[Phase, ...] = ("first", "second", "frozen")


class DefoError(DittoError):
    """A table asked for something it cannot hold; the message names the layer or the size."""


@dataclass(slots=True)
class Entry:
    """One layer's 33 bits, and how far its measurement is."""

    first: int = 0
    second: int = 0
    temporal: bool = False
    phase: Phase = "first"

    @property
    def tie(self) -> bool:
        return self.phase == "frozen" and self.first == self.second

    @property
    def saturated(self) -> bool:
        return COUNTER_MAX in (self.first, self.second)


class DefoTable:
    """The table for one run."""

    def __init__(self, layers: int, unit_log2: int, in_a_step: int | None = None) -> None:
        """`in_a_step`: most layers of one step that have a choice, where steps differ; each class of steps has its bank."""
        if (needed := layers if in_a_step is None else in_a_step) > ENTRIES:
            raise DefoError(
                f"Defo: {needed} layers, the table has {ENTRIES} entries; split the denoiser into programs"
            )
        self.unit_log2 = unit_log2
        self.entries = [Entry() for _ in range(layers)]

    def wants_temporal(self, layer: int) -> bool:
        """What the table says for the layer's next run, if differences exist."""
        entry = self.entries[layer]
        return entry.phase == "second" or (entry.phase == "frozen" and entry.temporal)

    def observe(self, layer: int, ran_temporal: bool, cycles: int, dynamic: bool = False) -> None:
        """Count one run of a layer. Out of turn (a forced base mode) it changes nothing."""
        entry = self.entries[layer]
        count = min(cycles >> self.unit_log2, COUNTER_MAX)
        if entry.phase == "first" and not ran_temporal:
            entry.first, entry.phase = count, "second"
        elif ran_temporal and (entry.phase == "second" or (dynamic and entry.phase == "frozen")):
            entry.second, entry.temporal, entry.phase = count, count < entry.first, "frozen"

    def snapshot(self) -> bytes:
        """Six bytes an entry; carried by StepDone."""
        return b"".join(
            struct.pack("<HHBB", e.first, e.second, e.temporal, _PHASES.index(e.phase)) for e in self.entries
        )

    def restore(self, data: bytes) -> None:
        if len(data) != 6 * len(self.entries):
            raise DefoError(
                f"Defo: snapshot of {len(data)} bytes for {len(self.entries)} layers, expected 6 each"
            )
        for i, (first, second, temporal, phase) in enumerate(struct.iter_unpack("<HHBB", data)):
            if phase >= len(_PHASES) or temporal > 1:
                raise DefoError(
                    f"Defo: snapshot entry {i} is not an entry (phase {phase}, decision {temporal})"
                )
            self.entries[i] = Entry(first, second, bool(temporal), _PHASES[phase])

    def dump(self) -> list[dict[str, int | bool | str]]:
        """One row a layer, for people."""
        return [
            {
                "layer": i,
                "first": e.first,
                "second": e.second,
                "temporal": e.temporal,
                "phase": e.phase,
                "tie": e.tie,
                "saturated": e.saturated,
            }
            for i, e in enumerate(self.entries)
        ]

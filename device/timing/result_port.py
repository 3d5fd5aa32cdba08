# SPDX-License-Identifier: Apache-2.0
"""The end of both of SQ-DM's arrays: multiply, scale and add, result register. What a pass costs there, and when it waits.

Contract. What is taken in cycle t (a beat of the dense array, a word of slots of the sparse one) is multiplied in t + 1. A
segment's sums are scaled and added in t + 2; behind the last segment of a column block the result is offered from t + 3 on.
Only the last sums of a column block ever wait, in the cycles in which the result before them is offered and not accepted; in
these cycles, which are stalled, nothing is taken.

    reach[j] = max(t[j] + 2, leave[j−1] + 1)        t[j]: the last taken of result j
    leave[j] = max(reach[j], accept[j−1])           stalled: reach[j] … leave[j] − 1
    accept[j] = the first cycle from leave[j] + 1 on in which the receiver is ready
    pass = accept of the last result + 1, ARRAY_DRAIN_CYCLES = 3 behind `done` if nobody waits

What it does not do: say when something can be taken (`dense_lane.py`, `sparse_lane.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import ArrayGeometry

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class ArrayTimes:
    """Cycles of one pass through one array."""

    enc_done: I64
    """[M]: first cycle in which the row can be replayed; zero in the dense array, which has no encoder."""
    done: I64
    """[M]: the cycle after the one in which the row's last beat or word was taken."""
    busy: int
    starved: int
    stalled: int
    """busy + starved + stalled = the last row's `done`."""
    cycles: int
    """The pass, drain included."""


class ResultPort:
    """The recurrence above; `ready` is the receiver's, cycle by cycle."""

    def __init__(self, ready: U8) -> None:
        self._ready = np.flatnonzero(ready)
        self._left = self._accepted = -1
        self._holds = [(0, 0), (0, 0)]

    def holds(self, cycle: int) -> bool:
        """Whether nothing can be taken in this cycle."""
        return any(reach <= cycle < leave for reach, leave in self._holds)

    def ends(self, taken: int) -> None:
        """The last of a result was taken in this cycle."""
        reach = max(taken + 2, self._left + 1)
        self._left = max(reach, self._accepted)
        self._holds = [self._holds[1], (reach, self._left)]
        at = int(np.searchsorted(self._ready, self._left + 1))
        if at == len(self._ready):
            raise ValueError(f"the recorded ports end before result {self._left + 1} is accepted")
        self._accepted = int(self._ready[at])

    @property
    def end(self) -> int:
        """Cycles of the pass, everything given so far being all."""
        return self._accepted + 1


def beats_of(counts: Counts, beat: int) -> int:
    """Beats that segments of so many elements take: none is shared between two."""
    return int((-(-counts.astype(np.int64) // beat)).sum())


def load_cycles(counts: Counts, n: int, geometry: ArrayGeometry) -> int:
    """Cycles to load a layout's weights, two rows a cycle, and a row of scales for every segment."""
    return int((-(-counts.astype(np.int64) // 2) + 1).sum()) * column_blocks(n, geometry)


def column_blocks(n: int, geometry: ArrayGeometry) -> int:
    """Column blocks of N columns."""
    return -(-n // geometry.columns)

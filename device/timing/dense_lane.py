# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's dense array: how many cycles rows take. This recurrence is the sole authority on time; the RTL proves it.

Contract. A tile takes D codes of one segment a cycle against C columns, zeros like any other; a row streams in once for every
column block. With T = Σ over segments ⌈elements/D⌉ beats a row and B column blocks, cycle 0 the first of the pass:
    done[r] = (r + 1) · B · T
    pass    = done of the last row + ARRAY_DRAIN_CYCLES
    load    = B · Σ over segments (⌈elements/2⌉ + 1)
Worked: 2 segments of 20 and 5 channels, D = 4, N = 200 on C = 128, 10 rows: T = 5 + 2 = 7, B = 2, so the pass takes
10 · 2 · 7 + 3 = 143 cycles, and loading 2 · (10 + 1 + 3 + 1) = 30.

With stalls a beat is taken in a cycle in which it is offered and the result port does not hold (`result_port.py`); every cycle
before the last beat's is busy (a beat taken), stalled (held) or starved (not offered).

What it does not do: values, DRAM, several passes.
"""

from __future__ import annotations

import numpy as np

from ditto_cosim.device.timing.result_port import I64, U8, ArrayTimes, ResultPort
from ditto_cosim.protocol.hardware import ARRAY_DRAIN_CYCLES


def dense_times(rows: int, beats: int, blocks: int) -> ArrayTimes:
    """Cycles of an unstalled pass of rows of so many beats against so many column blocks."""
    done = np.arange(1, rows + 1, dtype=np.int64) * (beats * blocks)
    busy = int(done[-1])
    return ArrayTimes(np.zeros(rows, np.int64), done, busy, 0, 0, busy + ARRAY_DRAIN_CYCLES)


def dense_pass_cycles(beats: I64, blocks: int, edges: I64) -> I64:
    """Cycles of many unstalled passes [passes, chunks]: rows edges[i] … edges[i+1] − 1, of so many beats [chunks]."""
    cycles: I64 = np.diff(edges)[:, None] * beats * blocks + ARRAY_DRAIN_CYCLES
    return cycles


def dense_stalled_times(
    rows: int, beats: int, blocks: int, operand_valid: U8, result_ready: U8
) -> ArrayTimes:
    """Cycles of a pass whose ports were, cycle by cycle, as recorded."""
    port, offered = ResultPort(result_ready), operand_valid.astype(bool).tolist()
    done = np.zeros(rows, np.int64)
    busy = starved = stalled = cycle = 0
    for row in range(rows):
        for _ in range(blocks):
            for _ in range(beats):
                while port.holds(cycle) or not offered[cycle]:
                    held = port.holds(cycle)
                    stalled, starved, cycle = stalled + held, starved + (not held), cycle + 1
                    if cycle == len(offered):
                        raise ValueError(f"the recorded ports end before row {row} has been taken")
                busy, cycle = busy + 1, cycle + 1
            port.ends(cycle - 1)
        done[row] = cycle
    return ArrayTimes(np.zeros(rows, np.int64), done, busy, starved, stalled, port.end)

# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's sparse array: how many cycles rows take, row by row. This recurrence is the sole authority on time; the RTL proves it.

Contract. It is Ditto's lane (`lane.py`) with other words: only codes other than zero become slots, and a word of four holds
slots of one segment. A segment with s of them takes ⌈s/4⌉ words, none if s = 0; a row without any takes one. With E codes a
beat, T = Σ over segments ⌈elements/E⌉ beats and w = max(1, Σ over segments ⌈s/4⌉) words a row, B column blocks, cycle 0 the
first of the pass:
    enc_done[r] = max(enc_done[r−1], done[r−2]) + T + ENCODE_FLUSH_CYCLES
    done[r]     = max(done[r−1], enc_done[r]) + B · w[r]
    pass        = done of the last row + ARRAY_DRAIN_CYCLES
    load        = B · Σ over segments (⌈elements/2⌉ + 1)
Worked: one row, segments of 20 and 5 channels with 7 and 0 codes other than zero, E = 8, B = 2: T = 3 + 1 = 4, w = 2, so
enc_done = 4 + 3 = 7, done = 7 + 2 · 2 = 11, and the pass takes 14 cycles.

With stalls a row's T beats pass in the first cycles, from its start on, in which they are offered; a word is taken in a cycle in
which the result port does not hold (`result_port.py`). Every cycle before the last word's is busy (a word taken), stalled
(held) or starved (no encoded row waiting).

What it does not do: values, DRAM, several passes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.lane import replay_times
from ditto_cosim.device.timing.result_port import I64, U8, ArrayTimes, Counts, ResultPort
from ditto_cosim.protocol.hardware import ARRAY_DRAIN_CYCLES, ENCODE_FLUSH_CYCLES, SLOTS_PER_CYCLE


def segment_words(nonzero: Counts) -> I64:
    """Words of every row, from the codes other than zero of each of its segments, [M, segments]."""
    short = nonzero.astype(np.uint16) + np.uint16(SLOTS_PER_CYCLE - 1)
    words: I64 = np.maximum(1, (short // SLOTS_PER_CYCLE).sum(-1, dtype=np.int64))
    return words


def sparse_times(words: I64, beats: int, blocks: int) -> ArrayTimes:
    """Cycles of an unstalled pass over rows of so many words [M]."""
    work = words * blocks
    enc_done, done = replay_times(work, beats + ENCODE_FLUSH_CYCLES)
    busy, last = int(work.sum()), int(done[-1])
    return ArrayTimes(enc_done, done, busy, last - busy, 0, last + ARRAY_DRAIN_CYCLES)


def sparse_pass_cycles(words: I64, beats: I64, blocks: int, edges: I64) -> I64:
    """Cycles of many unstalled passes [passes, chunks]: rows edges[i] … edges[i+1] − 1, of so many words [chunks, M] and beats
    [chunks]. The recurrence of `sparse_times` for all of them at once."""
    compiled = kernels()
    if compiled is None:
        return sparse_pass_cycles_numpy(words, beats, blocks, edges)
    encode = beats + ENCODE_FLUSH_CYCLES
    done, _, _ = compiled.lane_cycles(words.astype(np.uint16)[None], 1, edges, 1, blocks, 1, encode)
    cycles: I64 = done[0, :, 0] + ARRAY_DRAIN_CYCLES
    return cycles


def sparse_pass_cycles_numpy(words: I64, beats: I64, blocks: int, edges: I64) -> I64:
    """As `sparse_pass_cycles`."""
    passes = [
        [
            sparse_times(of_chunk[at:end], int(of_row), blocks).cycles
            for of_chunk, of_row in zip(words, beats, strict=True)
        ]
        for at, end in pairwise(edges.tolist())
    ]
    return np.array(passes, np.int64)


def sparse_stalled_times(
    words: I64, beats: int, blocks: int, operand_valid: U8, result_ready: U8
) -> ArrayTimes:
    """Cycles of a pass whose ports were, cycle by cycle, as recorded."""
    port, offered = ResultPort(result_ready), np.flatnonzero(operand_valid)
    enc_done, done = np.zeros(len(words), np.int64), np.zeros(len(words), np.int64)
    encoded = replayed = replayed_before = 0
    cycle = starved = stalled = 0
    for row, count in enumerate(words.tolist()):
        at = int(np.searchsorted(offered, max(encoded, replayed_before))) + beats - 1
        if at >= len(offered):
            raise ValueError(f"the recorded ports end before row {row} has been taken")
        encoded = int(offered[at]) + 1 + ENCODE_FLUSH_CYCLES
        for _ in range(blocks):
            for _ in range(count):
                while port.holds(cycle) or cycle < encoded:
                    held = port.holds(cycle)
                    stalled, starved, cycle = stalled + held, starved + (not held), cycle + 1
                cycle += 1
            port.ends(cycle - 1)
        replayed_before, replayed = replayed, cycle
        enc_done[row], done[row] = encoded, replayed
    busy = int(words.sum()) * blocks
    return ArrayTimes(enc_done, done, busy, starved, stalled, port.end)

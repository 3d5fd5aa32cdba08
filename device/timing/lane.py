# SPDX-License-Identifier: Apache-2.0
"""Lane and tile: how many cycles rows take, row by row. This recurrence is the sole authority on time; the
RTL proves it.

Contract. Row r of a pass belongs to lane r mod R; below, r counts a lane's own rows. A row has s slots;
there are K elements, B column blocks, E elements a beat, P stages in the PEs; cycle 0 is the first of the pass.
    enc_done[r] = max(enc_done[r−1], done[r−2]) + ⌈K/E⌉ + ENCODE_FLUSH_CYCLES      (two slot banks)
    done[r]     = max(done[r−1], enc_done[r]) + B · max(1, ⌈s/4⌉)
    pass        = the largest done + P + DRAIN_CYCLES;    loading weights = K cycles a column block
A lane's first row starts at FILL_CYCLES; every cycle before the lane's last `done` is busy (a word of four
slots taken) or starved (no encoded row waiting).

With stalls (`stalled_times`) three things differ. A row's ⌈K/E⌉ beats pass in the first cycles, from its
start on, in which the operand is valid. A block's last word waits at the last of the P stages until the
result register is free: until the result before it has been accepted, which needs a cycle in which the
receiver is ready. Meanwhile all stages stand still. Cycles so waited are stalled; the lane takes no word in
them. Then busy + starved + stalled = done of the lane's last row.

What it does not do: products (backends), schedules of several passes (`schedule.py`), or weights loaded
behind rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.slots import classify_rows
from ditto_cosim.protocol.hardware import (
    DRAIN_CYCLES,
    ENCODE_FLUSH_CYCLES,
    FILL_CYCLES,
    SLOTS_PER_CYCLE,
    Geometry,
    LowRule,
    Mode,
)

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TileTimes:
    """Cycles of one pass."""

    enc_done: I64
    """[M]"""
    done: I64
    """[M]"""
    busy: I64
    starved: I64
    stalled: I64
    """[lanes]"""
    cycles: int
    """The pass, fill and drain included."""


def row_counts(current: I8, reference: I8 | int, mode: Mode, rule: LowRule) -> I32:
    """(zero, low, full) elements of every row: int32 [3, M]. In original mode every element is full."""
    if mode == "original":
        return np.array([[0], [0], [current.shape[1]]], np.int32).repeat(len(current), axis=1)
    return classify_rows(current, reference, rule)


def weight_load_cycles(k: int, n: int, geometry: Geometry) -> int:
    """Cycles to load [K, N] weights: K for every column block."""
    return k * blocks_of(n, geometry)


def blocks_of(n: int, geometry: Geometry) -> int:
    """Column blocks of N columns."""
    return -(-n // geometry.columns)


def row_words(slots: npt.NDArray[np.integer]) -> I64:
    """Words of four slots a row is replayed in; an all-zero row takes one."""
    return np.maximum(1, -(-slots.astype(np.int64) // SLOTS_PER_CYCLE))


def outside_cycles(geometry: Geometry) -> int:
    """Fill and drain of a pass: what it takes beside its rows."""
    return FILL_CYCLES + geometry.pe_stages + DRAIN_CYCLES


def _encode_cycles(k: int, geometry: Geometry) -> int:
    return -(-k // geometry.encode_width) + ENCODE_FLUSH_CYCLES


def replay_times(work: I64, encode: int) -> tuple[I64, I64]:
    """(enc_done, done) of one lane whose rows keep the PEs busy for `work` cycles each."""
    if work.min() >= encode:  # the encoder waits for banks: it is never late after the first row
        done = FILL_CYCLES + encode + np.cumsum(work)
        enc = np.concatenate([[FILL_CYCLES + encode, FILL_CYCLES + 2 * encode], done[:-2] + encode])[
            : len(work)
        ]
        return enc, done
    if work.max() <= encode:  # the PEs wait for the encoder: a bank is always free
        enc = FILL_CYCLES + encode * np.arange(1, len(work) + 1, dtype=np.int64)
        return enc, enc + work
    encoded, finished = [], []
    last_encoded, last_done, done_before = FILL_CYCLES, 0, FILL_CYCLES
    for cycles in work.tolist():
        last_encoded = max(last_encoded, done_before) + encode
        done_before, last_done = last_done, max(last_done, last_encoded) + cycles
        encoded.append(last_encoded)
        finished.append(last_done)
    return np.array(encoded, np.int64), np.array(finished, np.int64)


def tile_times(slots: npt.NDArray[np.integer], k: int, n: int, geometry: Geometry) -> TileTimes:
    """Cycles of an unstalled pass over rows of `slots` [M] slots."""
    m, lanes = len(slots), geometry.lanes
    work = row_words(slots) * blocks_of(n, geometry)
    enc_done, done = np.zeros(m, np.int64), np.zeros(m, np.int64)
    busy, last = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    for lane in range(min(lanes, m)):
        enc_done[lane::lanes], done[lane::lanes] = replay_times(
            work[lane::lanes], _encode_cycles(k, geometry)
        )
        busy[lane], last[lane] = work[lane::lanes].sum(), done[lane::lanes][-1]
    cycles = int(last.max()) + geometry.pe_stages + DRAIN_CYCLES
    return TileTimes(enc_done, done, busy, last - busy, np.zeros_like(busy), cycles)


def _nth(cycles: npt.NDArray[np.intp], start: int, count: int) -> int:
    """The count-th of these cycles from `start` on."""
    at = int(np.searchsorted(cycles, start)) + count - 1
    if at >= len(cycles):
        raise ValueError(
            f"the recorded ports end before the pass does: {count} cycles from {start} on are missing"
        )
    return int(cycles[at])


class _Holds:
    """When a lane's PEs stood still, waiting for the receiver of their results."""

    def __init__(self) -> None:
        self._holds: list[tuple[int, int]] = []  # (first cycle, behind the last), one behind another

    def add(self, first: int, behind: int, now: int) -> None:
        """One more; those before `now` are asked for no more."""
        self._holds = [hold for hold in self._holds if hold[1] > now]
        if behind > first:
            self._holds.append((first, behind))

    def behind(self, start: int, count: int) -> int:
        """The cycle behind the count-th from `start` on in which the PEs move."""
        at = start
        for first, behind in self._holds:
            if at + count <= first:
                break
            if behind > at:
                count -= max(0, first - at)
                at = behind
        return at + count

    def within(self, start: int, end: int) -> int:
        """Cycles from `start` to before `end` in which they stood still."""
        return sum(max(0, min(behind, end) - max(first, start)) for first, behind in self._holds)


def stalled_times(
    slots: npt.NDArray[np.integer],
    k: int,
    n: int,
    geometry: Geometry,
    operand_valid: U8,
    result_ready: U8,
) -> TileTimes:
    """Cycles of a pass whose ports were, cycle by cycle, as recorded: uint8 [lanes, cycles] each."""
    m, lanes, blocks = len(slots), geometry.lanes, blocks_of(n, geometry)
    words = row_words(slots)
    enc_done, done = np.zeros(m, np.int64), np.zeros(m, np.int64)
    busy, starved, stalled = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    end = 0
    beats = -(-k // geometry.encode_width)
    for lane in range(min(lanes, m)):
        offered = np.flatnonzero(operand_valid[lane])
        ready = np.flatnonzero(result_ready[lane])
        encoded, replayed, replayed_before = FILL_CYCLES, 0, FILL_CYCLES
        holds = _Holds()
        free = 0  # first cycle in which the next word can be taken, if the PEs move
        accepted = 0  # cycle in which the result before was accepted
        for row in range(lane, m, lanes):
            start = max(encoded, replayed_before)
            encoded = _nth(offered, start, beats) + 1 + ENCODE_FLUSH_CYCLES
            replayed_before = replayed
            for block in range(blocks):
                begin = max(free, encoded) if block == 0 else free
                replayed = holds.behind(begin, int(words[row]))
                held = holds.within(free, replayed)
                stalled[lane] += held
                starved[lane] += replayed - free - held - int(words[row])
                free = replayed
                last_stage = holds.behind(replayed, geometry.pe_stages - 1)
                leaves = max(last_stage, accepted)
                holds.add(last_stage, leaves, free)
                accepted = _nth(ready, leaves + 1, 1)
            busy[lane] += blocks * words[row]
            enc_done[row], done[row] = encoded, replayed
        end = max(end, accepted + 1)
    return TileTimes(enc_done, done, busy, starved, stalled, end)

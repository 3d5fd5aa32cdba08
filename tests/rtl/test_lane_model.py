# SPDX-License-Identifier: Apache-2.0
"""The lane model against the recurrence written out, and against a lane stepped cycle by cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.device.timing.lane import row_counts, stalled_times, tile_times, weight_load_cycles
from ditto_cosim.protocol.hardware import DRAIN_CYCLES, ENCODE_FLUSH_CYCLES, Geometry

SHAPES = st.tuples(
    st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(1, 256), st.integers(1, 64),
    st.integers(1, 4), st.sampled_from([4, 8, 16]), st.sampled_from([1, 5]),
)  # fmt: skip


def geometry(lanes: int, width: int, stages: int = 1) -> Geometry:
    return Geometry(lanes=lanes, columns=8, encode_width=width, k_max=256, n_max=64, pe_stages=stages)


def by_recurrence(slots: list[int], k: int, n: int, g: Geometry) -> tuple[list[int], list[int]]:
    """The contract, one row after the other."""
    enc_done, done = [0] * len(slots), [0] * len(slots)
    for r, s in enumerate(slots):
        before = [i for i in (r - g.lanes, r - 2 * g.lanes) if i >= 0]
        start = max([enc_done[i] for i in before[:1]] + [done[i] for i in before[1:]], default=0)
        enc_done[r] = start + -(-k // g.encode_width) + ENCODE_FLUSH_CYCLES
        last = done[before[0]] if before else 0
        done[r] = max(last, enc_done[r]) + -(-n // g.columns) * max(1, -(-s // 4))
    return enc_done, done


def stepped(
    slots: list[int], k: int, n: int, g: Geometry, valid: np.ndarray, ready: np.ndarray
) -> dict[str, Any]:
    """One lane, cycle by cycle, with what it does in each: no recurrence, only state."""
    beats_left, row_in, flush = -(-k // g.encode_width), 0, 0
    banks: list[int] = []  # encoded rows that wait or are being replayed
    words_left, blocks_left = 0, 0
    stages: list[bool | None] = [
        None
    ] * g.pe_stages  # words in the PEs, newest first: is it the last of a block
    result, row_out = False, 0
    enc_done: dict[int, int] = {}
    done: dict[int, int] = {}
    busy = starved = stalled = 0
    for t in range(len(valid)):
        if flush:
            flush -= 1
            if not flush:
                banks.append(row_in)
                enc_done[row_in] = t
                row_in, beats_left = row_in + 1, -(-k // g.encode_width)
        taking = not flush and row_in < len(slots) and len(banks) < 2
        hold = stages[-1] is True and result and not ready[t]
        replaying = row_out < len(slots)
        multiplied = None if hold else stages[-1]
        if result and ready[t]:
            result = False
        if not hold:
            at_pe: bool | None = None
            if banks and not words_left and not blocks_left:
                words_left, blocks_left = max(1, -(-slots[banks[0]] // 4)), -(-n // g.columns)
            if words_left:
                busy += 1
                words_left -= 1
                at_pe = words_left == 0
                if at_pe:
                    blocks_left -= 1
                    words_left = max(1, -(-slots[banks[0]] // 4)) if blocks_left else 0
                    if not blocks_left:
                        done[banks.pop(0)] = t + 1
                        row_out += 1
            elif replaying:
                starved += 1
            stages = [at_pe, *stages[:-1]]
        elif replaying:
            stalled += 1
        if multiplied:
            result = True
        if taking and valid[t]:
            beats_left -= 1
            if not beats_left:
                flush = ENCODE_FLUSH_CYCLES + 1
        if row_out == len(slots) and stages.count(None) == len(stages) and not result and multiplied is None:
            return {"enc_done": enc_done, "done": done, "cycles": t + 1, "counters": (busy, starved, stalled)}
    raise AssertionError("the ports ended before the lane did")


Shape = tuple[list[int], int, int, int, int, int]


@given(SHAPES)
def test_lane_times_are_the_recurrence(shape: Shape) -> None:
    slots, k, n, lanes, width, stages = shape
    g = geometry(lanes, width, stages)
    times = tile_times(np.array(slots), k, n, g)
    enc_done, done = by_recurrence(slots, k, n, g)
    assert times.enc_done.tolist() == enc_done
    assert times.done.tolist() == done
    assert times.cycles == max(done) + g.pe_stages + DRAIN_CYCLES
    lasts = [done[lane::lanes][-1] if lane < len(slots) else 0 for lane in range(lanes)]
    assert (times.busy + times.starved).tolist() == lasts


@given(SHAPES)
def test_lane_without_stalls_is_the_stalled_one_with_none(shape: Shape) -> None:
    slots, k, n, lanes, width, stages = shape
    g = geometry(lanes, width, stages)
    times = tile_times(np.array(slots), k, n, g)
    always = np.ones((lanes, times.cycles + 2), np.uint8)
    again = stalled_times(np.array(slots), k, n, g, always, always)
    for name in ("enc_done", "done", "busy", "starved", "stalled"):
        np.testing.assert_array_equal(getattr(times, name), getattr(again, name), name)
    assert times.cycles == again.cycles


@given(SHAPES, st.integers(0, 2**32), st.floats(0.05, 1), st.floats(0.05, 1))
def test_lane_stalled_times_are_those_of_a_stepped_lane(
    shape: Shape, seed: int, offered: float, accepted: float
) -> None:
    slots, k, n, _, width, stages = shape
    slots = slots[:6]
    g = geometry(1, width, stages)
    rng = np.random.default_rng(seed)
    length = 400 + 40 * tile_times(np.array(slots), k, n, g).cycles
    valid = (rng.random((1, length)) < offered).astype(np.uint8)
    ready = (rng.random((1, length)) < accepted).astype(np.uint8)
    times = stalled_times(np.array(slots), k, n, g, valid, ready)
    seen = stepped(slots, k, n, g, valid[0], ready[0])
    assert times.enc_done.tolist() == [seen["enc_done"][r] for r in range(len(slots))]
    assert times.done.tolist() == [seen["done"][r] for r in range(len(slots))]
    assert (int(times.busy[0]), int(times.starved[0]), int(times.stalled[0])) == seen["counters"]
    assert times.cycles == seen["cycles"]


def test_lane_counts_and_loads() -> None:
    current = np.array([[0, 5, 100], [0, 0, 0]], np.int8)
    assert row_counts(current, 0, "temporal", "twos4").tolist() == [[1, 3], [1, 0], [1, 0]]
    assert row_counts(current, 0, "original", "twos4").tolist() == [[0, 0], [0, 0], [3, 3]]
    assert weight_load_cycles(100, 17, geometry(1, 4)) == 300

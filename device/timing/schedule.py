# SPDX-License-Identifier: Apache-2.0
"""The schedule: rows and column blocks on tiles and lanes, and what that takes.

Contract
    A layer's works run one after another. A work's groups, rows and column blocks (C columns each) are cut over a grid of
    tiles (`schedule`), and its chunks of K (`split_k`) too where the chip has adders for the parts (`split_k = "tiles"`) and
    that is expected to be faster, the adding included. The grid is one bank's whatever there are, so that a second bank only
    ever hides: how much does not follow from shapes. A tile takes its assignments one after another. An assignment is one
    group, a range of rows, a range of chunks and at most `n_max` columns; row r of it goes to lane r mod R. Per assignment
    and chunk the tile
        loads weights   chunk × blocks cycles (two banks: hidden behind the previous chunk's rows, except the first)
        runs its rows   as `lane.py` says: here its recurrence for many lanes, passes and steps at once
    and the layer takes as long as its slowest tile.
    The aggregate form (`paper` timing) knows no lanes: operations × N ÷ multipliers, rounded up.

What it does not do: DRAM, the vector unit, modes (`engine.py`, `device/pricing/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.lane import outside_cycles
from ditto_cosim.protocol.hardware import (
    ENCODE_FLUSH_CYCLES,
    SLOTS_PER_CYCLE,
    Geometry,
)
from ditto_cosim.protocol.record import Work, chunks_of, split_k

I64 = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one tile takes at a time: [rows] × [columns] of one group over some chunks of K."""

    tile: int
    group: int
    rows: slice
    columns: slice
    chunks: slice


@dataclass(frozen=True, slots=True)
class Schedule:
    """A work cut over `group_tiles × k_tiles × row_tiles × column_tiles` tiles; every share differs by at most one."""

    tiles: int
    geometry: Geometry
    groups: int
    rows: int
    chunks: int
    n: int
    group_tiles: int
    k_tiles: int
    row_tiles: int
    column_tiles: int

    @property
    def used(self) -> int:
        """Tiles that have anything to do."""
        return self.group_tiles * self.k_tiles * self.row_tiles * self.column_tiles

    @property
    def group_shares(self) -> tuple[int, ...]:
        return chunks_of(self.groups, self.group_tiles)

    @property
    def chunk_shares(self) -> tuple[int, ...]:
        return chunks_of(self.chunks, self.k_tiles)

    @property
    def row_shares(self) -> tuple[int, ...]:
        return chunks_of(self.rows, self.row_tiles)

    @property
    def block_shares(self) -> tuple[int, ...]:
        return chunks_of(-(-self.n // self.geometry.columns), self.column_tiles)

    def passes(self, blocks: int) -> tuple[int, ...]:
        """Column blocks of each assignment of a tile that has `blocks` of them."""
        return chunks_of(blocks, -(-blocks * self.geometry.columns // self.geometry.n_max))

    def __iter__(self) -> Iterator[Assignment]:
        """All assignments, tile by tile, each tile's in the order it takes them."""
        tile = 0
        for groups, chunks in product(_ranges(self.group_shares), _ranges(self.chunk_shares)):
            for rows, blocks in product(_ranges(self.row_shares), _ranges(self.block_shares)):
                for group in range(groups.start, groups.stop):
                    for part in _ranges(self.passes(blocks.stop - blocks.start)):
                        first = (blocks.start + part.start) * self.geometry.columns
                        last = min((blocks.start + part.stop) * self.geometry.columns, self.n)
                        yield Assignment(tile, group, rows, slice(first, last), chunks)
                tile += 1


def _ranges(shares: tuple[int, ...]) -> Iterator[slice]:
    at = 0
    for share in shares:
        yield slice(at, at + share)
        at += share


_TYPICAL_ROW = 0.25
"""Cycles a column block spends on a row, per element of K, that the choice of the grid assumes (between
original's 0.5 and temporal's 0.15): the grid must not depend on data, or modes would not be comparable."""


@lru_cache(maxsize=65_536)
def schedule(geometry: Geometry, tiles: int, work: Work, adders: int = 0) -> Schedule:
    """The grid of tiles with the shortest expected time; of equals the one with the fewest tiles. `adders`: elements of
    partial sums that are added per cycle where parts of K come from different tiles; 0: they never do."""
    groups, rows, n = work.groups, work.rows, work.n
    blocks, chunks = -(-n // geometry.columns), len(split_k(work.k, geometry.k_max))
    best: tuple[float, int, int, int, int, int] | None = None
    for k_tiles in _divisions(chunks, tiles if adders else 1):
        k_share = -(-chunks // k_tiles) / chunks
        adding = (k_tiles - 1) * groups * rows * n / (adders * work.k) if adders else 0.0
        for group_tiles in _divisions(groups, tiles // k_tiles):
            for column_tiles in _divisions(blocks, tiles // (k_tiles * group_tiles)):
                row_tiles = min(tiles // (k_tiles * group_tiles * column_tiles), -(-rows // geometry.lanes))
                row_share = ceil(ceil(rows / row_tiles) / geometry.lanes)
                row_tiles = -(-rows // (row_share * geometry.lanes))
                block_share = -(-blocks // column_tiles)
                passes = -(-block_share * geometry.columns // geometry.n_max)
                run = row_share * max(block_share * _TYPICAL_ROW, passes / geometry.encode_width)
                time = (run + block_share) * -(-groups // group_tiles)
                used = group_tiles * k_tiles * row_tiles * column_tiles
                key = (time * k_share + adding, used, k_tiles, group_tiles, column_tiles, row_tiles)
                best = key if best is None or key < best else best
    assert best is not None, "one tile always serves"
    _, _, k_tiles, group_tiles, column_tiles, row_tiles = best
    return Schedule(tiles, geometry, groups, rows, chunks, n, group_tiles, k_tiles, row_tiles, column_tiles)


def _divisions(count: int, most: int) -> list[int]:
    """Numbers of parts ≤ `most` that give different largest shares."""
    return sorted({-(-count // share) for share in range(1, count + 1) if -(-count // share) <= most})


def lane_cycles(cycles: Ints, encode: Ints) -> Ints:
    """The lane's recurrence over the first axis of `cycles` (a row's cycles on the PEs; 0: no row).

    `encode` broadcasts against the other axes. Fill and drain are not included."""
    if not ((cycles < encode) & (cycles > 0)).any():  # the encoder is never late after the first row
        done: Ints = np.where(cycles[0] > 0, encode + cycles.sum(axis=0, dtype=cycles.dtype), 0)
        return done
    enc = np.zeros_like(cycles[0])
    done, before = enc.copy(), enc.copy()
    for work in cycles:
        present = work > 0
        enc = np.where(present, np.maximum(enc, before) + encode, enc)
        before, done = done, np.where(present, np.maximum(done, enc) + work, done)
    return done


Passes = Callable[[int], tuple[I64, I64, I64]]
"""Of a number of column blocks: when the slowest lane is done, its cycles on the PEs for one block, and the most that an
encoder works; [groups, row tiles, steps, chunks] each."""


def _passes(plan: Schedule, chunk: I64, encode: I64, slots: Ints | None) -> Passes:
    """A tile's passes over rows with these slots [steps, chunks, groups × rows]; None: two for every element."""
    compiled = kernels()
    if compiled is None or slots is None or (slots.dtype != np.uint16 and slots.max(initial=0) > 0xFFFF):
        return passes_numpy(plan, chunk, encode, slots)
    native, counts = compiled, slots.astype(np.uint16, copy=False)
    edges, lanes = _row_edges(plan), plan.geometry.lanes
    return lambda blocks: native.lane_cycles(
        counts, plan.groups, edges, lanes, blocks, SLOTS_PER_CYCLE, encode
    )


def passes_numpy(plan: Schedule, chunk: I64, encode: I64, slots: Ints | None) -> Passes:
    """As `_passes`."""
    lanes = plan.geometry.lanes
    deepest = ceil(max(plan.row_shares) / lanes)
    if slots is None:
        return _passes_alike(deepest, chunk, encode)
    most = deepest * plan.geometry.blocks_max * int(encode[0] + chunk[0])
    signed: Ints = slots.astype(np.int32 if most < 2**31 else np.int64)  # they are unsigned in a record
    words: Ints = np.maximum((signed + (SLOTS_PER_CYCLE - 1)) // SLOTS_PER_CYCLE, 1)
    words = np.ascontiguousarray(words.transpose(2, 0, 1))
    row_cycles: Ints = np.concatenate([words, np.zeros_like(words[:1])])[_row_grid(plan)]
    # axes: rows of a lane, groups, row tiles, lanes, steps, chunks
    encode = encode.astype(row_cycles.dtype)
    on_pes = row_cycles.sum(axis=0, dtype=np.int64)
    encoded = (row_cycles > 0).sum(axis=0).max(axis=2) * encode

    def of_pass(blocks: int) -> tuple[I64, I64, I64]:
        done = lane_cycles(row_cycles * blocks if blocks > 1 else row_cycles, encode)
        slowest = done.argmax(axis=2)[:, :, None]
        return done.max(axis=2), np.take_along_axis(on_pes, slowest, axis=2)[:, :, 0], encoded

    return of_pass


def _passes_alike(rows: int, chunk: I64, encode: I64) -> Passes:
    """As `_passes`, of a lane whose rows all have two slots for every element: whichever is slower, PEs or encoder, sets the
    pace, and the other is paid for once."""
    per_row = -(-2 * chunk // SLOTS_PER_CYCLE)

    def shaped(cycles: I64) -> I64:
        return cycles[None, None, None]

    def of_pass(blocks: int) -> tuple[I64, I64, I64]:
        work = per_row * blocks
        done = work + encode + (rows - 1) * np.maximum(work, encode)
        return shaped(done), shaped(rows * per_row), shaped(rows * encode)

    return of_pass


@dataclass(frozen=True, slots=True)
class ComputeCycles:
    """Cycles of one work, one entry a step; the slowest tile's, so that they add up to `total`."""

    total: I64
    busy: I64
    """PEs working."""
    starved: I64
    """PEs waiting for the encoder, fill and drain included."""
    weight_load: I64
    """PEs waiting for weights."""
    encode: I64
    """The encoders at work; overlaps the others."""
    imbalance: I64
    """How much longer the slowest tile took than the average tile of the chip."""


def work_cycles(
    geometry: Geometry,
    tiles: int,
    work: Work,
    slots: npt.NDArray[np.integer[Any]] | None,
    adders: int = 0,
) -> ComputeCycles:
    """Cycles of one work. `slots`: [steps, chunks, groups × rows]; None: two for every element, one step."""
    plan = schedule(geometry, tiles, work, adders)
    chunk = np.array(split_k(work.k, geometry.k_max), np.int64)
    of_parts = [
        _of_chunks(plan, chunk[part], None if slots is None else slots[:, part])
        for part in _ranges(plan.chunk_shares)
    ]
    by_tile = np.concatenate(of_parts, axis=1)
    steps = by_tile.shape[-1]
    total, busy, load, encode_busy = by_tile[:, by_tile[0].argmax(axis=0), np.arange(steps)]
    alike = plan.column_tiles if slots is not None else plan.used // plan.k_tiles
    used = by_tile[0].sum(axis=0) * alike
    return ComputeCycles(total, busy, total - busy - load, load, encode_busy, total - used // tiles)


def compiled() -> bool:
    """Whether `step_cycles` can be asked."""
    return kernels() is not None


def step_cycles(described: I64, slots: npt.NDArray[np.uint16]) -> list[int]:
    """`work_cycles` of one step in one call, in whole numbers: total, busy, load and encode cycles of the slowest tile, and the
    sum over all tiles that differ. `described`: see `describe`."""
    native = kernels()
    assert native is not None, "asked for without a compiler"
    return native.work_cycles(described, slots)


def describe(plan: Schedule, chunk: tuple[int, ...]) -> I64:
    """A work cut over tiles as the compiled form reads it (`DittoWork` of lanes.cpp)."""
    geometry = plan.geometry
    passes = plan.passes(max(plan.block_shares))
    encode = [-(-length // geometry.encode_width) + ENCODE_FLUSH_CYCLES for length in chunk]
    edges = [
        np.cumsum([0, *shares]).tolist() for shares in (plan.chunk_shares, plan.row_shares, plan.group_shares)
    ]
    return np.array(
        [
            *(plan.groups, plan.rows, plan.chunks, plan.k_tiles, plan.row_tiles, plan.group_tiles),
            *(
                len(passes),
                geometry.lanes,
                geometry.weight_banks,
                SLOTS_PER_CYCLE,
                outside_cycles(geometry),
            ),
            *(*chunk, *encode, *edges[0], *edges[1], *edges[2], *passes),
        ],
        np.int64,
    )


def _of_chunks(plan: Schedule, chunk: I64, slots: npt.NDArray[np.integer[Any]] | None) -> npt.NDArray[Any]:
    """Total, busy, load and encode cycles [4, tiles, steps] of the tiles that take these chunks of K; of those that take other
    columns one stands for all, and of tiles whose data are not known one for all."""
    geometry = plan.geometry
    encode = -(-chunk // geometry.encode_width) + ENCODE_FLUSH_CYCLES
    of_pass = _passes(plan, chunk, encode, slots)
    parts: npt.NDArray[Any] = np.zeros(1, np.int64)  # of what; groups, row tiles, steps
    for blocks in plan.passes(max(plan.block_shares)):
        done, busy, encoded = of_pass(blocks)
        run = done + np.int64(outside_cycles(geometry))
        load = chunk * blocks
        waited: I64 | np.int64 = load.sum()
        if geometry.weight_banks == 2:
            waited = np.maximum(load[1:] - run[..., :-1], 0).sum(axis=-1) + load[0]
        whole = run.sum(axis=-1) + waited
        waits = np.broadcast_to(waited, whole.shape)
        parts = parts + np.stack([whole, busy.sum(axis=-1) * blocks, waits, encoded.sum(axis=-1)])
    shares, steps = plan.group_shares, parts.shape[-1]
    if slots is None:
        return parts.reshape(4, -1, steps) * max(shares)
    if max(shares) == 1:
        return parts.reshape(4, -1, steps)
    return np.add.reduceat(parts, _group_starts(plan), axis=1).reshape(4, -1, steps)


@lru_cache(maxsize=4096)
def dense_cycles(geometry: Geometry, tiles: int, work: Work, adders: int = 0) -> ComputeCycles:
    """Cycles of one work in original mode: two slots for every element, whatever the data."""
    return work_cycles(geometry, tiles, work, None, adders)


@lru_cache(maxsize=4096)
def _group_starts(plan: Schedule) -> I64:
    """Where the groups of each share begin."""
    return np.cumsum([0, *plan.group_shares[:-1]], dtype=np.int64)


@lru_cache(maxsize=4096)
def _row_edges(plan: Schedule) -> I64:
    """[row tiles + 1]: where the tiles' rows begin and end."""
    return np.cumsum([0, *plan.row_shares], dtype=np.int64)


@lru_cache(maxsize=4096)
def _row_grid(plan: Schedule) -> npt.NDArray[np.intp]:
    """[rows of a lane, groups, row tiles, lanes] -> index into groups × rows, −1 (the zero appended) where no row is."""
    lanes, shares = plan.geometry.lanes, plan.row_shares
    depth = -(-max(shares) // lanes)
    grid = np.full((plan.row_tiles, depth * lanes), -1, np.intp)
    for tile, rows in enumerate(_ranges(shares)):
        grid[tile, : rows.stop - rows.start] = np.arange(rows.start, rows.stop)
    one = grid.reshape(plan.row_tiles, depth, lanes).transpose(1, 0, 2)[:, None]
    groups = (np.arange(plan.groups) * plan.rows)[:, None, None]
    return np.where(one >= 0, one + groups, -1)


def resplit(slots: npt.NDArray[np.integer[Any]], k: int, chunks: tuple[int, ...]) -> I64:
    """Slots of [steps, chunks, rows] counted with other chunk lengths, spread in proportion to the new ones."""
    total = slots.sum(axis=1, keepdims=True, dtype=np.int64)
    edges = np.concatenate([[0], np.cumsum(chunks)])[None, :, None]
    parts: I64 = np.diff(total * edges // k, axis=1)
    return parts


def aggregate_cycles(slots_times_n: I64, multipliers: int) -> I64:
    """Throughput alone: every multiplier busy in every cycle."""
    return -(-slots_times_n // multipliers)

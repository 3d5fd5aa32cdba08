# SPDX-License-Identifier: Apache-2.0
"""How many cycles the lanes of a chip take for a work: golden's own reading of the written contract.

Written from the contract's text (the header of `device/timing/schedule.py`) and the named constants in
`protocol/hardware.py`; the device's form is its own. Plain: one row after another, all lanes of a tile at a time.

    row      enc[r]  = max(enc[r−1], done[r−2]) + ⌈chunk ÷ E⌉ + ENCODE_FLUSH_CYCLES
             done[r] = max(done[r−1], enc[r]) + blocks × max(1, ⌈slots ÷ 4⌉)          r counts a lane's own rows
    pass     FILL_CYCLES + the slowest lane's last done + stages of the PEs + DRAIN_CYCLES
    weights  chunk × blocks cycles before each pass; with two banks only what the previous pass does not hide
    tile     all passes of its groups and its chunks of K, one after another;  work: its slowest tile

What this file does not do: count slots (`encoder.py`); DRAM, vector unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import (
    DRAIN_CYCLES,
    ENCODE_FLUSH_CYCLES,
    FILL_CYCLES,
    SLOTS_PER_CYCLE,
    Geometry,
)
from ditto_cosim.protocol.record import Work, chunks_of, split_k

I64 = npt.NDArray[np.int64]

TYPICAL_ROW = 0.25
"""Cycles a column block is expected to spend on a row, per element of K, when a grid is chosen."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """How many tiles share a work's groups, rows and column blocks."""

    chunks: int
    groups: int
    rows: int
    blocks: int


def _up(a: int, b: int) -> int:
    """a ÷ b, rounded up."""
    return -(-a // b)


def _ways(count: int, most: int) -> list[int]:
    """Numbers of tiles up to `most` of which each shortens the largest share of `count`."""
    return [n for n in range(1, most + 1) if n == 1 or (n <= count and _up(count, n) < _up(count, n - 1))]


@lru_cache(maxsize=65_536)
def grid_of(geometry: Geometry, tiles: int, work: Work, adders: int) -> BlockGrid:
    """The grid that is expected to be fastest; of equals the one with the fewest tiles, then of the fewest along chunks,
    groups, column blocks and rows. K stays on one tile unless there are adders for its parts."""
    blocks, candidates = _up(work.n, geometry.columns), []
    chunks = len(split_k(work.k, geometry.k_max))
    for by_chunk in _ways(chunks, tiles) if adders else [1]:
        results = work.groups * work.rows * work.n
        adding = (by_chunk - 1) * results / (adders * work.k) if adders else 0.0
        for by_group in _ways(work.groups, tiles // by_chunk):
            for by_block in _ways(blocks, tiles // (by_chunk * by_group)):
                by_row = min(tiles // (by_chunk * by_group * by_block), _up(work.rows, geometry.lanes))
                share = _up(_up(work.rows, by_row), geometry.lanes)
                by_row = _up(work.rows, share * geometry.lanes)
                most_blocks = _up(blocks, by_block)
                passes = _up(most_blocks * geometry.columns, geometry.n_max)
                run = share * max(most_blocks * TYPICAL_ROW, passes / geometry.encode_width)
                time = run + most_blocks  # the weights' load, whether a second bank will hide it or not
                time = time * _up(work.groups, by_group) * (_up(chunks, by_chunk) / chunks) + adding
                used = by_chunk * by_group * by_row * by_block
                candidates.append((time, used, by_chunk, by_group, by_block, by_row))
    _, _, by_chunk, by_group, by_block, by_row = min(candidates)
    return BlockGrid(by_chunk, by_group, by_row, by_block)


def lane_cycles(geometry: Geometry, tiles: int, work: Work, slots: I64 | None, adders: int = 0) -> int:
    """Cycles of a work. `slots`: [chunks, groups × rows]; None: two for every element (original mode). `adders`: elements of
    partial sums added per cycle where K may lie on several tiles, 0 where it may not."""
    grid = grid_of(geometry, tiles, work, adders)
    chunks = np.array(split_k(work.k, geometry.k_max), np.int64)
    if slots is None:
        slots = np.broadcast_to(2 * chunks[:, None], (len(chunks), work.groups * work.rows))
    of_parts = _shares(len(chunks), grid.chunks)
    return max(_of_chunks(geometry, grid, work, chunks[a:b], slots[a:b]) for a, b in of_parts)


def _of_chunks(geometry: Geometry, grid: BlockGrid, work: Work, chunks: I64, slots: I64) -> int:
    """The slowest of the tiles that take these chunks."""
    words = np.maximum(-(-slots.reshape(len(chunks), work.groups, work.rows) // SLOTS_PER_CYCLE), 1)
    encode = -(-chunks // geometry.encode_width) + ENCODE_FLUSH_CYCLES
    rows_of = np.array(_shares(work.rows, grid.rows))
    row = rows_of[:, :1] + np.arange(np.max(rows_of[:, 1] - rows_of[:, 0]))
    there = row < rows_of[:, 1:]  # [tiles, rows of a tile]: shares differ by one
    words = words[:, :, np.where(there, row, 0)]
    blocks = max(chunks_of(_up(work.n, geometry.columns), grid.blocks))
    by_group = np.zeros((work.groups, len(rows_of)), np.int64)
    for width in chunks_of(blocks, _up(blocks * geometry.columns, geometry.n_max)):
        load = chunks * width
        run = _pass(words, there, width, encode, geometry)  # [chunks, groups, tiles]
        waited = np.broadcast_to(load[:, None, None], run.shape).copy()
        if geometry.weight_banks == 2:
            waited[1:] = np.maximum(waited[1:] - run[:-1], 0)
        by_group += (run + waited).sum(axis=0)
    of_tile = [by_group[first:last].sum(axis=0) for first, last in _shares(work.groups, grid.groups)]
    return int(np.max(of_tile))


def _shares(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` cut into `parts`, as equal as possible, the longer ones first: (first, behind the last)."""
    ends = np.cumsum([0, *chunks_of(count, parts)])
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def _pass(words: I64, there: npt.NDArray[np.bool_], blocks: int, encode: I64, geometry: Geometry) -> I64:
    """[chunks, groups, tiles] of [chunks, groups, tiles, rows], where `there` is one; row r of a tile goes to lane r mod R."""
    lanes = geometry.lanes
    *kept, rows = words.shape
    enc = np.full((*kept, lanes), FILL_CYCLES, np.int64)
    done, before = np.zeros_like(enc), np.zeros_like(enc)
    for first in range(0, rows, lanes):
        now, is_row = words[..., first : first + lanes], there[:, first : first + lanes]
        own = slice(0, now.shape[-1])  # the last round may leave lanes without a row
        encoded = np.maximum(enc[..., own], before[..., own]) + encode[:, None, None, None]
        ended = np.maximum(done[..., own], encoded) + blocks * now
        before[..., own] = np.where(is_row, done[..., own], before[..., own])
        enc[..., own] = np.where(is_row, encoded, enc[..., own])
        done[..., own] = np.where(is_row, ended, done[..., own])
    slowest: I64 = done.max(axis=-1) + geometry.pe_stages + DRAIN_CYCLES
    return slowest

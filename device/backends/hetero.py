# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's two arrays in RTL: every block product runs through Verilated dense and sparse tiles, and its cycles are counted there.

Contract. Half of the chip's lanes are dense tiles, half sparse ones, each with the lane's columns and so with as many 4-bit
multipliers: D = 4 codes a cycle here, four slots there. A product goes to both arrays at once, to each with its channels alone;
within an array the tiles share the rows evenly, and columns and blocks of K beyond a tile's memories follow one another.
An array has taken as long as the slowest of its tiles, its weights and scales loaded once a tile and piece. Every pass's cycles
must be the written contract's (`timing/dense_lane.py`, `sparse_lane.py`), or the run stops: `audit` of what a product gives,
which the books call beside the next layer's values.

The tiles of an array are alike, so a few Verilated ones take all passes in turn, one a thread, the caller's among them.
What this file does not do: decide which channels are sparse (the detector), build or drive the RTL (`sim_harness`).
"""

from __future__ import annotations

import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.backends.base import I8, I32, I64, BlockProducts, Codes, Tags, check_blocks
from ditto_cosim.device.timing.dense_lane import dense_pass_cycles
from ditto_cosim.device.timing.result_port import beats_of, column_blocks, load_cycles
from ditto_cosim.device.timing.sparse_lane import segment_words, sparse_pass_cycles
from ditto_cosim.protocol.errors import BackendError, WatchdogError
from ditto_cosim.protocol.hardware import ARRAY_KINDS, SLOTS_PER_CYCLE, ArrayGeometry, ArrayKind, Geometry
from ditto_cosim.sim_harness.array import ArrayRuns, ArrayTile, Layout, chunks_of, scale_codes
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.errors import HarnessError, TileStuckError
from ditto_cosim.toolchain import BuildError

U8 = npt.NDArray[np.uint8]
_BITS = {16: np.uint16, 32: np.uint32, 64: np.uint64}
"""A bit a code: what holds those of a block."""
_SHARED_ROWS = 512
"""From so many rows on two threads share an array: below, loading its weights twice costs more than the second thread gives,
and the other array keeps that one busy."""


@functools.lru_cache
def array_geometry(kind: ArrayKind, lane: Geometry, block_size: int) -> ArrayGeometry:
    """A tile of an array with the columns and memories of one of the chip's lanes."""
    return ArrayGeometry(
        kind,
        lane.columns,
        lane.encode_width if kind == "sparse" else SLOTS_PER_CYCLE,
        block_size,
        max(lane.k_max, 2 * block_size),
        lane.n_max,
    )


def tiles_of(lanes: int, kind: ArrayKind) -> int:
    """Tiles of an array when the chip's lanes are shared between the two; an odd one is the sparse array's."""
    return max(1, lanes // 2 if kind == "dense" else -(-lanes // 2))


@dataclass(frozen=True, slots=True)
class _Operands:
    """One product as both arrays' drivers take it."""

    codes: Codes
    scales: U8
    weights: I8
    """[K, N]"""
    weight_scales: U8
    """[blocks, N]"""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Columns of a product on some of an array's tiles: what one thread takes at a time."""

    kind: ArrayKind
    layout: Layout
    columns: slice
    tiles: slice
    edges: I64
    """Rows at which these tiles' shares begin and end."""

    @property
    def rows(self) -> slice:
        return slice(int(self.edges[0]), int(self.edges[-1]))


class HeteroTile:
    """See the file's header."""

    def __init__(self, lane: Geometry, lanes: int, options: BuildOptions | None = None) -> None:
        """Arrays in place of so many of these lanes."""
        self._lane, self._options = lane, options or BuildOptions()
        self.tiles = {kind: tiles_of(lanes, kind) for kind in ARRAY_KINDS}
        self._threads = max(2, len(os.sched_getaffinity(0)))
        self._helpers = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="array")
        self._free: dict[ArrayGeometry, list[ArrayTile]] = {}

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        check_blocks(a, a_scales, w, w_scales, channel, sparse)
        block_size = a.shape[1] // a_scales.shape[1]
        try:
            operands = _Operands(
                a if a.flags.c_contiguous else a.copy(),
                scale_codes("a_scales", np.ascontiguousarray(a_scales)),
                np.ascontiguousarray(w.T),
                np.ascontiguousarray(scale_codes("w_scales", w_scales).T),
            )
            return self._on_both(operands, block_size, channel, sparse)
        except TileStuckError as error:
            raise WatchdogError(f"block product: {error}", state=error.state) from error
        except (BuildError, HarnessError) as error:
            raise BackendError(f"block product: {error}") from error

    def close(self) -> None:
        self._helpers.shutdown()
        for tiles in self._free.values():
            for tile in tiles:
                tile.close()
        self._free.clear()

    def _on_both(self, operands: _Operands, block_size: int, channel: I32, sparse: Tags) -> BlockProducts:
        rows, n = len(operands.codes), operands.weights.shape[1]
        is_sparse = np.where(channel >= 0, sparse[channel], False)
        wanted = {"dense": (channel >= 0) & ~is_sparse, "sparse": is_sparse}
        at_work = [kind for kind in ARRAY_KINDS if wanted[kind].any()]
        sums = {kind: np.empty((rows, n), np.int64) for kind in at_work}
        cycles = {kind: np.zeros(self.tiles[kind], np.int64) for kind in ARRAY_KINDS}
        met = np.zeros(len(channel), np.int64)
        # One piece of each array in turn, so that both are at work from the start.
        lists = [self._pieces(kind, wanted[kind], block_size, rows, n) for kind in at_work]
        pieces = [
            piece
            for turn in range(max(map(len, lists), default=0))
            for part in lists
            for piece in part[turn : turn + 1]
        ]
        waiting = iter(pieces)

        def work() -> list[tuple[_Piece, ArrayRuns]]:
            """Takes pieces until none is left."""
            return [(piece, self._run(piece, operands, sums[piece.kind])) for piece in waiting]

        def audit() -> None:
            filled = np.packbits(operands.codes, axis=1)
            for piece, runs in done:
                _hold(piece, array_geometry(piece.kind, self._lane, block_size), runs, filled[piece.rows])

        helping = [self._helpers.submit(work) for _ in range(min(self._threads, len(pieces)) - 1)]
        try:
            done = work()
        finally:
            wait(helping)
        for helper in helping:
            done += helper.result()
        for piece, runs in done:
            cycles[piece.kind][piece.tiles] += (runs.cycles + runs.loaded[:, None]).sum(0)
            if piece.columns.start == 0:
                met += runs.met
        inside = channel >= 0
        nonzero = np.bincount(channel[inside], met[inside], minlength=len(sparse)).astype(np.int64)
        total = functools.reduce(np.add, sums.values()) if sums else np.zeros((rows, n), np.int64)
        dense_cycles, sparse_cycles = (int(cycles[kind].max()) for kind in ARRAY_KINDS)
        return BlockProducts(total, dense_cycles, sparse_cycles, nonzero, audit)

    def _pieces(self, kind: ArrayKind, wanted: Tags, block_size: int, rows: int, n: int) -> list[_Piece]:
        layout = Layout.of(wanted, block_size)
        tiles = min(self.tiles[kind], rows)
        edges = np.array([rows * i // tiles for i in range(tiles + 1)], np.int64)
        shares = min(tiles, self._threads if rows >= _SHARED_ROWS else 1)
        cuts = [tiles * i // shares for i in range(shares + 1)]
        return [
            _Piece(
                kind,
                layout,
                slice(column, min(n, column + self._lane.n_max)),
                slice(first, last),
                edges[first : last + 1],
            )
            for column in range(0, n, self._lane.n_max)
            for first, last in itertools.pairwise(cuts)
        ]

    def _run(self, piece: _Piece, operands: _Operands, sums: I64) -> ArrayRuns:
        geometry = array_geometry(piece.kind, self._lane, piece.layout.block_size)
        free = self._free.setdefault(geometry, [])
        tile = free.pop() if free else ArrayTile(geometry, options=self._options)
        rows, edges = piece.rows, piece.edges - piece.edges[0]
        try:
            return tile.run_product(
                piece.layout,
                operands.codes[rows],
                operands.scales[rows],
                operands.weights[:, piece.columns],
                operands.weight_scales[:, piece.columns],
                edges=edges,
                accumulators=sums[rows, piece.columns],
            )
        finally:
            free.append(tile)


def _hold(piece: _Piece, geometry: ArrayGeometry, runs: ArrayRuns, filled: U8) -> None:
    """Counts and cycles of every pass are what operands and contract say, or this ends in a sentence. `filled`: [rows, K ÷ 8], a
    bit for each of the piece's codes, 1 for one other than 0."""
    layout, n = piece.layout, piece.columns.stop - piece.columns.start
    edges, blocks = piece.edges - piece.edges[0], column_blocks(n, geometry)
    chunks = [slice(*ends) for ends in itertools.pairwise(chunks_of(layout, geometry).tolist())]
    counts = [layout.counts[chunk] for chunk in chunks]
    beats = np.array([beats_of(of_chunk, geometry.beat) for of_chunk in counts], np.int64)
    if piece.kind == "sparse":
        of_block = (filled & np.packbits(layout.wanted)).view(_BITS[layout.block_size])
        of_segment = np.bitwise_count(of_block)[:, layout.blocks]
        words = np.empty(runs.nonzero.shape, np.int64)
        for i, chunk in enumerate(chunks):
            nonzero = of_segment[:, chunk].sum(1, dtype=np.uint16)
            if not np.array_equal(runs.nonzero[i], nonzero):
                row = int(np.flatnonzero(runs.nonzero[i] != nonzero)[0])
                raise BackendError(
                    f"sparse array: row {row} has {nonzero[row]} codes other than 0, its encoder counted "
                    f"{runs.nonzero[i, row]}"
                )
            words[i] = segment_words(of_segment[:, chunk])
        passes = sparse_pass_cycles(words, beats, blocks, edges)
    else:
        passes = dense_pass_cycles(beats, blocks, edges)
    for i, of_chunk in enumerate(counts):
        said = [load_cycles(of_chunk, n, geometry), *passes[:, i].tolist()]
        measured = [int(runs.loaded[i]), *runs.cycles[i].tolist()]
        if said != measured:
            raise BackendError(
                f"{piece.kind} array: loading and passes measured {measured} cycles, the cycle contract says {said}"
            )

# SPDX-License-Identifier: Apache-2.0
"""Backend `rtl`: every product runs through the Verilated tile, and its cycles are counted there.

The chip's tiles are alike and independent, so a few Verilated ones, one a thread, the caller's among them, take all
assignments of the schedule in turn; a tile of the chip has taken as long as the sum of its own. Assignments that share
weights run one after another, so weights are really loaded once a thread; every tile of the chip is charged for its own
load. Where the schedule lays parts of K on several tiles, their sums are added here as the chip's adders would.
What this file does not do: SQ-DM's arrays and detector (`hetero.py`, `rtl_detector.py`), build or drive the RTL
(`sim_harness`), add differences to what was before (`layers.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise

import numpy as np

from ditto_cosim.device.backends.base import (
    I8,
    I32,
    I64,
    BlockProducts,
    Codes,
    Gemm,
    GemmResult,
    Tags,
    WrittenBack,
)
from ditto_cosim.device.backends.hetero import HeteroTile
from ditto_cosim.device.backends.rtl_detector import RtlDetector
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.timing.schedule import Assignment, Schedule, schedule
from ditto_cosim.protocol.errors import BackendError, WatchdogError
from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.protocol.record import Work, split_k
from ditto_cosim.sim_harness.build import BuildOptions, rtl_digest
from ditto_cosim.sim_harness.errors import HarnessError, TileStuckError
from ditto_cosim.sim_harness.tile import Tile, TileProduct
from ditto_cosim.toolchain import BuildError

_WORTH_A_THREAD_MACS = 3_000_000
"""Below, handing work to another thread costs more than it saves. A lane's idle columns count: they are simulated too."""
_SHARE_ROWS = 256
"""So many rows pay for loading their weights once more, and leave the threads something to even out."""


@dataclass(frozen=True, slots=True)
class Share:
    """Assignments of several tiles of the chip with the same weights and adjoining rows, for one thread."""

    group: int
    part: int
    """Of K, where it lies on several tiles."""
    chunks: slice
    columns: slice
    assignments: tuple[Assignment, ...]


class RtlBackend:
    """See the file's header."""

    name = "rtl"
    measures = True

    def __init__(
        self,
        chip: Chip,
        geometry: Geometry | None = None,
        tiles: int | None = None,
        options: BuildOptions | None = None,
    ) -> None:
        self.geometry = geometry or chip.geometry
        self._options = options or BuildOptions()
        self.rtl_digest = rtl_digest(self._options.rtl_dir)
        """Of the SystemVerilog that is simulated."""
        self._tiles, self._adders = tiles or chip.tiles, chip.adders
        self._threads = len(os.sched_getaffinity(0))
        self._helpers = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="tile")
        self._free = [self._make()]
        """Tiles that nobody uses; the first is built now, so that a missing compiler is found before the first layer."""
        self._arrays: HeteroTile | None = None
        self._detector: RtlDetector | None = None

    def gemm(self, job: Gemm) -> GemmResult:
        groups, rows, k = job.current.shape
        n = job.weights.shape[2]
        plan = schedule(self.geometry, self._tiles, Work(groups, rows, k, n), self._adders)
        chunks = split_k(k, self.geometry.k_max)
        out: I32 = np.empty((plan.k_tiles, groups, rows, n), np.int32)
        classes = np.empty((plan.k_tiles, 3, groups, rows), np.int32)
        alone = groups * rows * k * max(n, self.geometry.columns) < _WORTH_A_THREAD_MACS
        shares = _shares(plan, 1 if alone else self._threads)
        waiting = iter(shares)

        def work() -> I64:
            """Takes shares until none is left; returns the cycles they cost every tile of the chip."""
            cycles, tile = np.zeros(self._tiles, np.int64), self._free.pop() if self._free else self._make()
            try:
                for share in waiting:
                    cycles += self._run(tile, job, share, chunks, out, classes)
            finally:
                self._free.append(tile)
            return cycles

        helpers = 0 if alone else min(self._threads, len(shares)) - 1
        helping = [self._helpers.submit(work) for _ in range(helpers)]
        try:
            try:
                tile_cycles = work()
            finally:
                wait(helping)
            for helper in helping:
                tile_cycles += helper.result()
        except TileStuckError as error:
            raise WatchdogError(f"layer {job.name!r} ({job.mode}): {error}", state=error.state) from error
        except HarnessError as error:
            raise BackendError(f"layer {job.name!r} ({job.mode}): {error}") from error
        met = classes.sum(axis=0, dtype=np.int32)
        zero, low, full = (int(c) for c in met.sum((1, 2)))
        added: I32 = out[0] if plan.k_tiles == 1 else out.sum(axis=0, dtype=np.int32)
        return GemmResult(added, met[1] + 2 * met[2], zero, low, full, int(tile_cycles.max()))

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        """On SQ-DM's two arrays, of as many multipliers as the chip's lanes have."""
        if self._arrays is None:
            self._arrays = HeteroTile(self.geometry, self._tiles * self.geometry.lanes, self._options)
        return self._arrays.block_gemm(a, a_scales, w, w_scales, channel, sparse)

    def hold_tags(self, written: WrittenBack) -> None:
        """Against the Verilated detector."""
        if self._detector is None:
            self._detector = RtlDetector(self._options)
        self._detector.hold_tags(written)

    def close(self) -> None:
        self._helpers.shutdown()
        if self._detector is not None:
            self._detector.close()
        if self._arrays is not None:
            self._arrays.close()
        for tile in self._free:
            tile.close()
        self._free.clear()

    def _make(self) -> Tile:
        try:
            return Tile(self.geometry, options=self._options)
        except (BuildError, HarnessError) as error:
            raise BackendError(str(error)) from error

    def _run(
        self, tile: Tile, job: Gemm, share: Share, all_chunks: tuple[int, ...], out: I32, classes: I32
    ) -> I64:
        """Runs one share; returns the cycles it costs every tile of the chip."""
        g, columns, chunks = share.group, share.columns, all_chunks[share.chunks]
        pieces = [slice(*p) for p in pairwise(np.cumsum([0, *all_chunks]).tolist())][share.chunks]
        k = slice(pieces[0].start, pieces[-1].stop)
        rows = slice(share.assignments[0].rows.start, share.assignments[-1].rows.stop)
        edges = np.array([a.rows.start for a in share.assignments] + [rows.stop], np.int64) - rows.start
        product = tile.run_product(
            job.current[g, rows, k],
            job.reference if isinstance(job.reference, int) else job.reference[g, rows, k],
            job.weights[g, k, columns],
            job.mode,
            chunks=chunks,
            edges=edges,
            accumulators=out[share.part, g, rows, columns],
        )
        self._ran(job, share, product, pieces, rows, edges)
        if columns.start == 0:
            classes[share.part, :, g, rows] = product.classes
        ran, loaded = product.cycles, product.loaded
        waited = np.broadcast_to(loaded[:, None], ran.shape)
        if self.geometry.weight_banks == 2:  # the next chunk's weights load behind this one's rows
            waited = np.concatenate([waited[:1], np.maximum(waited[1:] - ran[:-1], 0)])
        cycles = np.zeros(self._tiles, np.int64)
        np.add.at(cycles, [a.tile for a in share.assignments], (ran + waited).sum(0))
        return cycles

    def _ran(
        self, job: Gemm, share: Share, product: TileProduct, pieces: Sequence[slice], rows: slice, edges: I64
    ) -> None:
        """For who looks at single passes."""


@lru_cache(maxsize=4096)
def _shares(plan: Schedule, threads: int) -> tuple[Share, ...]:
    """The schedule cut into pieces for the threads, each with weights of its own kind."""

    def weights(a: Assignment) -> tuple[int, ...]:
        return a.group, a.chunks.start, a.columns.start, a.columns.stop

    def place(a: Assignment) -> tuple[int, ...]:
        return *weights(a), a.rows.start

    alike = [tuple(part) for _, part in groupby(sorted(plan, key=place), weights)]
    enough = threads == 1 or len(alike) >= 2 * threads
    firsts = np.cumsum([0, *plan.chunk_shares]).tolist()
    shares = []
    for part in alike:
        rows = part[-1].rows.stop - part[0].rows.start
        size = len(part) if enough else -(-len(part) // max(threads, rows // _SHARE_ROWS))
        for at in range(0, len(part), size):
            one = part[0]
            number = firsts.index(one.chunks.start)
            shares.append(Share(one.group, number, one.chunks, one.columns, part[at : at + size]))
    return tuple(shares)

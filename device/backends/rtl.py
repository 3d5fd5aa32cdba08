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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

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
from ditto_cosim.sim_harness.tile import GemmRun, Tile, TilePlan, TileProduct
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

    @property
    def rows(self) -> slice:
        return slice(self.assignments[0].rows.start, self.assignments[-1].rows.stop)


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
        self.simulated_cycles = 0
        """Of all tiles here since the first layer: weights loaded, passes run."""
        self._cuts: dict[tuple[int, int, int, int], Cut] = {}
        self._arrays: HeteroTile | None = None
        self._detector: RtlDetector | None = None

    def gemm(self, job: Gemm) -> GemmResult:
        shape = *job.current.shape, job.weights.shape[2]
        cut = self._cuts.get(shape) or self._cut(shape)
        ran = GemmRun.of(cut.plan)
        try:
            if cut.helpers:
                helping = [self._helpers.submit(self._take, job, cut, ran) for _ in range(cut.helpers)]
                try:
                    self._take(job, cut, ran)
                finally:
                    wait(helping)
                for helper in helping:
                    helper.result()
            else:
                self._take(job, cut, ran)
        except TileStuckError as error:
            raise WatchdogError(f"layer {job.name!r} ({job.mode}): {error}", state=error.state) from error
        except HarnessError as error:
            raise BackendError(f"layer {job.name!r} ({job.mode}): {error}") from error
        if self.watches_passes:
            for share, product in cut.products(ran):
                self._ran(job, share, product)
        met = ran.classes[0] if len(ran.classes) == 1 else ran.classes.sum(axis=0, dtype=np.int32)
        zero, low, full = met.sum((1, 2)).tolist()
        self.simulated_cycles += int(ran.cycles.sum() + ran.loaded.sum())
        out = ran.accumulators
        added: I32 = out[0] if len(out) == 1 else out.sum(axis=0, dtype=np.int32)
        cycles = cut.cycles(ran, self.geometry.weight_banks)
        return GemmResult(added, met[1] + 2 * met[2], zero, low, full, cycles)

    def _take(self, job: Gemm, cut: Cut, ran: GemmRun) -> None:
        """Shares, until none is left."""
        tile = self._free.pop() if self._free else self._make()
        try:
            tile.run_gemm(job.current, job.reference, job.weights, job.mode, cut.plan, ran)
        finally:
            self._free.append(tile)

    def _cut(self, shape: tuple[int, int, int, int]) -> Cut:
        """How products of this shape, [groups, rows, K, N], are taken; found out once."""
        groups, rows, k, n = shape
        alone = groups * rows * k * max(n, self.geometry.columns) < _WORTH_A_THREAD_MACS
        work, threads = Work(groups, rows, k, n), 1 if alone else self._threads
        cut = _cut(schedule(self.geometry, self._tiles, work, self._adders), work, threads)
        self._cuts[shape] = cut
        return cut

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

    watches_passes = False
    """Whether `_ran` looks at single passes."""

    def _ran(self, job: Gemm, share: Share, product: TileProduct) -> None:
        """For who looks at single passes."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A schedule as the tiles here take it, and whose time is whose on the chip."""

    plan: TilePlan
    shares: tuple[Share, ...]
    helpers: int
    """Threads that take shares beside the caller's."""
    tile_of: I64
    """Of every pass: the chip's tile that it is charged to,"""
    load_of: I64
    """the load of its weights,"""
    before: I64
    """and the pass of the same rows with the chunk before, −1 without."""

    def cycles(self, ran: GemmRun, banks: int) -> int:
        """Of the slowest of the chip's tiles; each is charged for its own load of the weights."""
        waited = ran.loaded[self.load_of]
        if banks == 2:  # the next chunk's weights load behind this one's rows
            behind = np.where(self.before < 0, 0, ran.cycles[self.before])
            waited = np.maximum(waited - behind, 0)
        return int(np.bincount(self.tile_of, ran.cycles + waited).max())

    def products(self, ran: GemmRun) -> Iterator[tuple[Share, TileProduct]]:
        """What each share gave."""
        passes = loads = 0
        for share in self.shares:
            chunks, ranges = share.chunks.stop - share.chunks.start, len(share.assignments)
            yield (
                share,
                TileProduct(
                    ran.accumulators[share.part, share.group, share.rows, share.columns],
                    ran.classes[share.part, :, share.group, share.rows],
                    ran.cycles[passes : passes + chunks * ranges].reshape(chunks, ranges),
                    ran.loaded[loads : loads + chunks],
                ),
            )
            passes, loads = passes + chunks * ranges, loads + chunks


@lru_cache(maxsize=4096)
def _cut(plan: Schedule, work: Work, threads: int) -> Cut:
    shares = _shares(plan, threads)
    chunks = split_k(work.k, plan.geometry.k_max)
    ends = np.cumsum([0, *chunks]).tolist()
    fields: list[list[int]] = []
    edges: list[int] = []
    tile_of: list[int] = []
    load_of: list[int] = []
    before: list[int] = []
    loads = 0
    for share in shares:
        count, ranges = share.chunks.stop - share.chunks.start, len(share.assignments)
        row, stop = share.rows.start, share.rows.stop
        columns = share.columns
        of_k = share.group, share.part, ends[share.chunks.start], share.chunks.start, count
        sizes = columns.start, columns.stop - columns.start, row, stop - row
        fields.append([*of_k, *sizes, len(edges), ranges, len(tile_of), loads])
        edges += [a.rows.start - row for a in share.assignments] + [stop - row]
        for chunk in range(count):
            before += [len(tile_of) - ranges + i if chunk else -1 for i in range(ranges)]
            tile_of += [a.tile for a in share.assignments]
            load_of += [loads + chunk] * ranges
        loads += count
    shape = work.groups, work.rows, work.k, work.n
    arrays = (np.array(a, np.int64) for a in (fields, chunks, edges))
    return Cut(
        TilePlan(shape, plan.k_tiles, *arrays),
        shares,
        min(threads, len(shares)) - 1,
        *(np.array(a, np.int64) for a in (tile_of, load_of, before)),
    )


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

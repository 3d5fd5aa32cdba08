# SPDX-License-Identifier: Apache-2.0
"""Backend `rtl_wide`: the same RTL, elaborated as wide as it simulates fastest, for runs that want values through RTL soon.

Slots do not depend on a lane's columns, so accumulators and slots are those of any chip. Its cycles are not: they come from
the written contract and are labelled modelled. Where cycles are to be measured, `rtl` runs the chip's own lanes.
Narrow layers take a narrow tile: columns that stand idle are simulated all the same.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ditto_cosim.device.backends.base import (
    I8,
    I32,
    BlockProducts,
    Codes,
    Gemm,
    GemmResult,
    Tags,
    WrittenBack,
)
from ditto_cosim.device.backends.rtl import RtlBackend
from ditto_cosim.device.chips import Chip
from ditto_cosim.protocol.hardware import GEOMETRIES

NARROW, WIDE = GEOMETRIES["paper_lane"], GEOMETRIES["cosim"]


class RtlWideBackend:
    """See the file's header."""

    name = "rtl_wide"
    measures = False

    def __init__(self, chip: Chip) -> None:
        threads = len(os.sched_getaffinity(0))
        rule = chip.geometry.low_rule
        self._narrow, self._wide = (
            RtlBackend(chip, replace(tile, low_rule=rule), threads) for tile in (NARROW, WIDE)
        )
        self.geometry = chip.geometry
        self.rtl_digest = self._wide.rtl_digest

    def gemm(self, job: Gemm) -> GemmResult:
        part = self._narrow if job.weights.shape[2] <= NARROW.columns else self._wide
        return replace(part.gemm(job), cycles=None)

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        part = self._narrow if len(w) <= NARROW.columns else self._wide
        made = part.block_gemm(a, a_scales, w, w_scales, channel, sparse)
        return replace(made, dense_cycles=None, sparse_cycles=None)

    def hold_tags(self, written: WrittenBack) -> None:
        self._wide.hold_tags(written)

    def close(self) -> None:
        self._narrow.close()
        self._wide.close()

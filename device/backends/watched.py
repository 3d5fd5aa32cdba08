# SPDX-License-Identifier: Apache-2.0
"""A backend that says what it is doing, so that somebody else can tell that it has stopped answering.

What this file does not do: decide how long a product may take (`serving/run.py`, `conformance.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from ditto_cosim.device.backends.base import (
    I8,
    I32,
    Backend,
    BlockBackend,
    BlockProducts,
    Codes,
    Gemm,
    GemmResult,
    Tags,
    WrittenBack,
    facts_of,
    has_detector,
    totals_of,
)
from ditto_cosim.device.core import Activity


class WatchedBackend:
    """Passes everything on to `inner`."""

    def __init__(self, inner: Backend, tell: Callable[[Activity | None], None]) -> None:
        self.inner, self._tell = inner, tell
        self.name, self.geometry, self.measures = inner.name, inner.geometry, inner.measures
        self.own_contract: bool = getattr(inner, "own_contract", False)

    def gemm(self, job: Gemm) -> GemmResult:
        (groups, rows, k), n = job.current.shape, job.weights.shape[2]
        what = f"layer {job.name!r} ({job.mode}, {groups}×[{rows}, {k}]·[{k}, {n}])"
        self._tell(Activity(what, groups * rows * k * n))
        try:
            return self.inner.gemm(job)
        finally:
            self._tell(None)

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        what = f"block product [{a.shape[0]}, {a.shape[1]}]·[{a.shape[1]}, {len(w)}]"
        self._tell(Activity(what, a.size * len(w)))
        try:
            return cast(BlockBackend, self.inner).block_gemm(a, a_scales, w, w_scales, channel, sparse)
        finally:
            self._tell(None)

    def hold_tags(self, written: WrittenBack) -> None:
        if has_detector(self.inner):
            self._tell(Activity(f"layer {written.layer!r}, its tags", written.codes.size))
            try:
                self.inner.hold_tags(written)
            finally:
                self._tell(None)

    @property
    def facts(self) -> Mapping[str, str | int]:
        return facts_of(self.inner)

    @property
    def totals(self) -> Mapping[str, int]:
        return totals_of(self.inner)

    def close(self) -> None:
        self.inner.close()

# SPDX-License-Identifier: Apache-2.0
"""Backends made of backends: some layers on one and the rest on another, or all on two that must agree.

    --backend model --rtl-layers 'conv_in,mid.*'     a large denoiser with a few layers in RTL
    --backend rtl --cross-check model                every result compared, bit for bit, as it is made

What this file does not do: compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import cast

import numpy as np

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
    has_detector,
)
from ditto_cosim.protocol.errors import BackendError


def matching(patterns: Sequence[str], layers: Sequence[str]) -> frozenset[str]:
    """Names of the layers that a pattern names; a pattern that names none is refused."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise BackendError(
                f"no layer matches {pattern!r}; the program has {len(layers)} layers, "
                f"such as {', '.join(layers[:3])}. Patterns take * and ?."
            )
    return frozenset(n for n in layers if any(fnmatchcase(n, p) for p in patterns))


class MixedBackend:
    """`chosen` computes the layers of these names, `base` the others."""

    def __init__(self, base: Backend, chosen: Backend, names: frozenset[str]) -> None:
        _same_tile(base, chosen)
        self.name = f"{base.name}+{chosen.name}"
        self.geometry = base.geometry
        self.measures = base.measures and chosen.measures
        self.rtl_digest = _rtl_digest(base, chosen)
        self._base, self._chosen = base, chosen
        self._names = names

    @property
    def parts(self) -> tuple[Backend, ...]:
        return self._base, self._chosen

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        """A block product has no layer's name: the base computes it."""
        return cast(BlockBackend, self._base).block_gemm(a, a_scales, w, w_scales, channel, sparse)

    def hold_tags(self, written: WrittenBack) -> None:
        for part in self.parts:
            if has_detector(part):
                part.hold_tags(written)

    def gemm(self, job: Gemm) -> GemmResult:
        return (self._chosen if job.name in self._names else self._base).gemm(job)

    def close(self) -> None:
        self._base.close()
        self._chosen.close()


class CheckedBackend:
    """Computes everything twice and refuses any difference; the first backend's result counts."""

    def __init__(self, first: Backend, second: Backend) -> None:
        _same_tile(first, second)
        self.name = f"{first.name} checked by {second.name}"
        self.geometry = first.geometry
        self.measures = first.measures
        self.rtl_digest = _rtl_digest(first, second)
        self._first, self._second = first, second

    def gemm(self, job: Gemm) -> GemmResult:
        first, second = self._first.gemm(job), self._second.gemm(job)
        self._compare(job, "accumulators", "(group, row, column)", first.accumulators, second.accumulators)
        self._compare(job, "slots", "(group, row)", first.slots, second.slots)
        classes = [(r.zero, r.low, r.full) for r in (first, second)]
        if classes[0] != classes[1]:
            self._refuse(job, f"(zero, low, full) elements are {classes[0]} and {classes[1]}")
        if first.cycles is not None and second.cycles is not None:
            ran = [r.cycles - r.stalls for r in (first, second) if r.cycles is not None]
            if ran[0] != ran[1]:
                self._refuse(job, f"cycles without stalls are {ran[0]} and {ran[1]}")
        return first

    @property
    def parts(self) -> tuple[Backend, ...]:
        return self._first, self._second

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts:
        first, second = (
            cast(BlockBackend, b).block_gemm(a, a_scales, w, w_scales, channel, sparse) for b in self.parts
        )
        what = f"block product [{a.shape[0]}, {a.shape[1]}]·[{a.shape[1]}, {len(w)}]"
        self._compare(what, "sums", "(row, column)", first.acc, second.acc)
        self._compare(what, "codes other than 0", "channel", first.nonzero, second.nonzero)
        if second.audit is not None:
            second.audit()
        return first

    def hold_tags(self, written: WrittenBack) -> None:
        for part in self.parts:
            if has_detector(part):
                part.hold_tags(written)

    def _compare(self, job: Gemm | str, what: str, axes: str, first: np.ndarray, second: np.ndarray) -> None:
        if first.shape != second.shape:
            self._refuse(job, f"{what} have shapes {first.shape} and {second.shape}")
        if not np.array_equal(first, second):
            different = np.argwhere(first != second)
            at = tuple(int(i) for i in different[0])
            self._refuse(
                job,
                f"{what} differ in {len(different)} of {first.size} places, "
                f"first at {axes} {at}: {first[at]} and {second[at]}",
            )

    def _refuse(self, job: Gemm | str, what: str) -> None:
        where = job if isinstance(job, str) else f"layer {job.name!r} ({job.mode})"
        raise BackendError(
            f"{where}: {self._first.name!r} and "
            f"{self._second.name!r} disagree: {what}. "
            "Run `ditto conform` on both to find out which is wrong."
        )

    def close(self) -> None:
        self._first.close()
        self._second.close()


def _same_tile(one: Backend, other: Backend) -> None:
    if one.geometry != other.geometry:
        raise BackendError(
            f"backends {one.name!r} and {other.name!r} have different tiles "
            f"({one.geometry} and {other.geometry}) "
            "and cannot share a run; choose a chip that both are built for"
        )


def _rtl_digest(*backends: Backend) -> str:
    """Of the SystemVerilog that takes part; empty if none does."""
    return next((d for b in backends if (d := getattr(b, "rtl_digest", ""))), "")

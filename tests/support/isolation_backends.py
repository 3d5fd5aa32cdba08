# SPDX-License-Identifier: Apache-2.0
"""Boards that misbehave in ways a process cannot be talked out of. `device_processes` runs hosts against them."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from support.plain_backend import PlainBackend


class _Board(PlainBackend):
    """Right, but for layers called `bad`."""

    def gemm(self, job: Any) -> Any:
        if "bad" in job.name:
            self.misbehave(job)
        return super().gemm(job)

    def misbehave(self, job: Any) -> None:
        raise NotImplementedError


class SegfaultingBoard(_Board):
    def misbehave(self, job: Any) -> None:
        ctypes.string_at(8)


class GreedyBoard(_Board):
    """Takes memory until there is no more."""

    def misbehave(self, job: Any) -> None:
        self.kept = [np.ones(1 << 26, np.uint8) for _ in range(1 << 12)]


class SilentBoard(_Board):
    """Waits for an answer that never comes, as a driver with its cable pulled does."""

    def misbehave(self, job: Any) -> None:
        time.sleep(3600)


class LockedBoard(_Board):
    """Waits inside foreign code that keeps the interpreter's lock."""

    def misbehave(self, job: Any) -> None:
        ctypes.PyDLL(None).sleep(3600)


class BusyBoard(_Board):
    """Never ends, and takes a core for it."""

    def misbehave(self, job: Any) -> None:
        while True:
            pass


class FragileBoard(PlainBackend):
    """Right, but that it crashes at long sums and hangs at scattered operands."""

    def gemm(self, job: Any) -> Any:
        if job.name == "overflowing sum":
            ctypes.string_at(8)
        if job.name == "strided operand":
            time.sleep(3600)
        return super().gemm(job)


class SeldomWrongBoard(PlainBackend):
    """One product in five has one wrong value, behind the first three hundred."""

    products = 0

    def gemm(self, job: Any) -> Any:
        result = super().gemm(job)
        self.products += 1
        if self.products > 300 and self.products % 5 == 0:
            result.accumulators[0, 0, 0] += 1
        return result

# SPDX-License-Identifier: Apache-2.0
"""When a generation's host asked and was answered, in microseconds of wall-clock since its run began.

    clock.asked(step), clock.answered(step)      a step's request leaves; its outputs are back
    clock.arrived(step, layer)                   a layer's report is back
    with clock.checking(): …                     the host compares a value; booked on the layer whose report comes next

A few hundred nanoseconds a layer. What this file does not do: draw (`report/timeline.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

US = 1_000_000


class WallClock:
    """Of one run."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._check_begin = -1
        self._check = 0
        self.steps: dict[int, tuple[int, int]] = {}
        """Step -> asked, answered."""
        self.layers: dict[tuple[int, int], tuple[int, int, int]] = {}
        """(step, layer) -> its report arrived; values were first compared (−1: none), and for how long."""

    def now_us(self) -> int:
        return round((time.perf_counter() - self.began) * US)

    def asked(self, step: int) -> None:
        self.steps[step] = self.now_us(), -1

    def answered(self, step: int) -> None:
        if step in self.steps:
            self.steps[step] = self.steps[step][0], self.now_us()

    def arrived(self, step: int, layer: int) -> None:
        self.layers[step, layer] = self.now_us(), self._check_begin, self._check
        self._check_begin, self._check = -1, 0

    @contextmanager
    def checking(self) -> Iterator[None]:
        begin = self.now_us()
        if self._check_begin < 0:
            self._check_begin = begin
        try:
            yield
        finally:
            self._check += self.now_us() - begin

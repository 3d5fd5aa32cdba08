# SPDX-License-Identifier: Apache-2.0
"""The books: what a step's layers met, whether the backend says the same, and what they take; kept beside the values.

Interface
    Books(backend, counts_lanes, totals)
        .open(plan) -> OpenBooks      a step begins; a thread of its own keeps its books until it is closed
        .totals                       gets what adds up of arrays and of a backend's own contract
        .shut()
    OpenBooks
        .enter(HasRun)                 a layer has run; in program order
        .told() -> (record, time) …   of the layers that have ended meanwhile, in program order
        .close() -> …                 the rest; `cycles` is the step's then
        .abandon()                    the step has failed

A layer is counted, checked and priced in the order it was entered, so what is told never depends on when. Layers overlap in
time, so a layer is told of when a later one shows that it has ended. What goes wrong here is raised where it is asked for.

What this file does not do: compute layers (`layers.py`), choose their modes, report them (`machine.py`), take time
(`pricing/`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue

from ditto_cosim.device.backends.base import Backend
from ditto_cosim.device.execution.layers import Layer, Ran, Works
from ditto_cosim.device.pricing.cost import LayerTime, stack
from ditto_cosim.device.pricing.pricer import ClassPricer
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import LayerRecord, SubOp

ASKED_EVERY_S = 0.005
"""So long after it was asked last, time is asked again which layers have ended: layers that are over sooner are told together."""

Booked = tuple[LayerRecord, LayerTime]


@dataclass(frozen=True, slots=True)
class HasRun:
    """A layer that has run."""

    index: int
    """Its place among the program's layers."""
    command: Command
    layer: Layer
    mode: Mode
    forced: bool
    keeps: bool
    """Whether its output is written back for the next step."""
    counted: Callable[[], Works]
    """What each mode would have met."""
    ran: Sequence[Ran]


class Books:
    """Of a run."""

    def __init__(self, backend: Backend, counts_lanes: bool, totals: dict[str, int]) -> None:
        """`counts_lanes`: whether the backend's lanes are those that the run is priced with. `totals` are added to."""
        self.backend, self.counts_lanes, self.totals = backend, counts_lanes, totals
        self.own_contract: bool = getattr(backend, "own_contract", False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="books")

    def open(self, plan: ClassPricer) -> OpenBooks:
        return OpenBooks(self, plan, self._thread)

    def shut(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, **cycles: int) -> None:
        for name, more in cycles.items():
            self.totals[name] = self.totals.get(name, 0) + more


class OpenBooks:
    """Of a step."""

    def __init__(self, books: Books, plan: ClassPricer, thread: ThreadPoolExecutor) -> None:
        self._books, self._plan = books, plan
        self.cycles = 0
        """Of the layers that have ended."""
        self._entries: SimpleQueue[HasRun | None] = SimpleQueue()
        self._told: deque[Booked] = deque()
        self._unsettled: deque[tuple[LayerRecord, int]] = deque()
        """Layers whose price was asked and that have not ended; cycles that their lanes stood still."""
        self._abandoned = False
        self._kept = thread.submit(self._keep)

    # --- whoever makes the values ------------------------------------------------------------------------------------------

    def enter(self, entry: HasRun) -> None:
        self._entries.put(entry)

    def alone(self, index: int, works: tuple[SubOp, ...], mode: Mode) -> int:
        """Cycles of a layer that meets this with nobody beside it."""
        pricer, group = self._plan.pricer, self._plan.groups[index]
        return int(pricer.alone([group], mode, pricer.lanes(group, stack([works]), mode))[0])

    def told(self) -> Iterator[Booked]:
        if self._kept.done():
            self._kept.result()  # which went wrong, for nobody has closed
        while self._told:
            yield self._told.popleft()

    def close(self) -> Iterator[Booked]:
        self._entries.put(None)
        self._kept.result()
        return self.told()

    def abandon(self) -> None:
        self._abandoned = True
        self._entries.put(None)

    # --- the books' thread -------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        self._price = self._plan.pricer.begin_step()
        asked = time.monotonic()
        while (entry := self._entries.get()) is not None and not self._abandoned:
            self._enter(entry)
            if (now := time.monotonic()) > asked + ASKED_EVERY_S:
                self._settle(self._price.settled())
                asked = now
        if not self._abandoned:
            self._settle(self._price.close())

    def _enter(self, entry: HasRun) -> None:
        """Counts a layer, checks what the backend reported of it, and tells its price."""
        books, pricer, mode, ran = self._books, self._plan.pricer, entry.mode, entry.ran
        works = entry.counted()
        entry.layer.check(ran, works[mode], books.backend.name)
        group = self._plan.groups[entry.index]
        lanes = pricer.live(group, works[mode], mode)
        for dense, sparse in (r.arrays for r in ran if r.arrays is not None):
            books.add(dense_array_cycles=dense, sparse_array_cycles=sparse)
        cycles = [r.cycles for r in ran if r.cycles is not None]
        measured = sum(cycles) if books.counts_lanes and len(cycles) == len(ran) else None
        if measured is not None:
            predicted = int(lanes.total)
            if books.own_contract:  # it has held itself to that; ours stands beside it
                books.add(own_lane_cycles=measured, lane_cycles=predicted)
            else:
                self._agree(entry.command, mode, measured, predicted)
        stalled = sum(r.stalls for r in ran) if measured is not None else 0
        self._unsettled.append((LayerRecord(entry.index, mode, entry.forced, works, measured), stalled))
        self._price.tell(group, mode, entry.keeps, lanes, measured)

    def _settle(self, times: Iterable[LayerTime]) -> None:
        for taken in times:
            self.cycles += taken.total_cycles
            if taken.layer is not None:
                record, stalled = self._unsettled.popleft()
                self.cycles += stalled  # the lanes stood still, and everything behind them waited
                charged = taken.total_cycles + stalled
                self._told.append(
                    (replace(record, charged_cycles=charged, traffic_bytes=taken.traffic), taken)
                )

    def _agree(self, command: Command, mode: Mode, measured: int, predicted: int) -> None:
        """The cycles that the lanes took, a board's stalls left out, must be those that the contract says, to the cycle."""
        if predicted != measured:
            raise BackendError(
                f"layer {command.name!r} ({mode}): backend {self._books.backend.name!r} measured {measured} cycles, the cycle "
                f"contract says {predicted}. One of them is wrong; `ditto rtl test` narrows it down."
            )

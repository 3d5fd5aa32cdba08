# SPDX-License-Identifier: Apache-2.0
"""DRAM in the loop: channels that keep their banks, rows, refreshes and turnarounds from transfer to transfer.

Contract (TLM-2.0: the target of the DMA engines' sockets)
    A transfer is cut into requests of 64 bytes and goes to the channels its addresses say (`DramConfig.decode`). A channel
    reserves in order of asking. A request to another row than the bank's open one waits for precharge, activate (four to a
    window) and column delay, all of which may pass while earlier requests still hold the bus; a change of direction costs the
    turnaround; a column that would fall on or behind the next refresh waits for it, and every row is closed then. Consecutive
    requests of one row go as one burst: the bulk path; `stepwise` takes them one by one and ends in the same state and cycle.
    A memory wakes up with closed rows, half an interval before its first refresh.
    Its timings are nanoseconds; the socket counts the chip's cycles: ns = ⌈cycles ÷ clock⌉ in, cycles = ⌈ns × clock⌉ out.

What it does not do: reorder. How far that is from a first-ready controller (`first_ready.py`), `ditto bench price` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.timing.contract import module_named
from ditto_cosim.device.timing.dram import REQUEST_BYTES, DramConfig
from ditto_cosim.device.timing.kernel import Payload, Pipe, Target, TimeError

LONG_AGO = -(1 << 40)


class _Channel:
    """What a channel remembers, in nanoseconds."""

    __slots__ = ("activate_at", "activates", "column", "group", "precharge_at", "refresh_at", "row", "write")

    def __init__(self, config: DramConfig) -> None:
        banks = config.groups * config.banks_per_group
        self.row = [-1] * banks
        self.activate_at = [0] * banks
        self.precharge_at = [0] * banks
        self.activates = [LONG_AGO] * 4
        self.group = -1
        self.column = LONG_AGO
        self.write = False
        self.refresh_at = config.refresh_interval_ns // 2


class Memory:
    """All channels."""

    def __init__(self, config: DramConfig, clock_mhz: int, stepwise: bool = False) -> None:
        self.config, self.clock_mhz, self.stepwise = config, clock_mhz, stepwise
        self.channels = [_Channel(config) for _ in range(config.channels)]

    def b_transport(self, payload: Payload, at: int) -> int:
        if not payload.nbytes:
            return at
        since = -(-at * 1000 // self.clock_mhz)
        channel, bank, row = self.config.decode(requests_of([payload])[0])
        order = np.argsort(
            channel, kind="stable"
        )  # channels are independent; each takes its own in order of asking
        places = np.stack([channel, bank, row])[:, order]
        starts = np.ones(len(order), bool)
        if not self.stepwise:
            starts[1:] = (places[:, 1:] != places[:, :-1]).any(axis=0)
        edges, done = [*np.flatnonzero(starts).tolist(), len(order)], since
        for (number, of_bank, of_row), (start, end) in zip(
            places[:, starts].T.tolist(), pairwise(edges), strict=True
        ):
            last = self._burst(self.channels[number], of_bank, of_row, end - start, payload.write, since)
            done = max(done, last)
        return -(-done * self.clock_mhz // 1000)

    def _burst(self, ch: _Channel, bank: int, row: int, count: int, write: bool, since: int) -> int:
        """Requests of one row; returns the last one's data."""
        c, group = self.config, bank // self.config.banks_per_group
        reach = c.write_to_precharge_ns if write else c.read_to_precharge_ns
        column = 0
        while count:
            opened = -1
            column = since
            if ch.row[bank] != row:
                opened = max(since, ch.activate_at[bank])
                if ch.row[bank] >= 0:
                    opened = max(opened, max(since, ch.precharge_at[bank]) + c.precharge_ns)
                gap = c.activate_same_group_ns if ch.group == group else c.activate_ns
                opened = max(opened, ch.activates[3] + gap, ch.activates[0] + c.four_activates_ns)
                column = opened + c.row_to_column_ns
            column = max(column, ch.column + self._gap(ch, write, group))
            if c.refresh and column >= ch.refresh_at:
                self._refresh(ch)
                continue
            if opened >= 0:
                ch.row[bank] = row
                ch.activate_at[bank] = opened + c.row_cycle_ns
                ch.precharge_at[bank] = opened + c.row_active_ns
                ch.activates = [*ch.activates[1:], opened]
            taken = count
            if c.refresh:
                taken = min(count, -(-(ch.refresh_at - column) // c.burst_ns))
            column += (taken - 1) * c.burst_ns
            ch.column, ch.write, ch.group = column, write, group
            ch.precharge_at[bank] = max(ch.precharge_at[bank], column + reach)
            count -= taken
        return column + c.burst_ns + (c.write_cas_ns if write else c.cas_ns + 1)

    def _gap(self, ch: _Channel, write: bool, group: int) -> int:
        """From one column command to the next."""
        c = self.config
        if write == ch.write:
            return c.burst_ns
        if write:
            return c.read_to_write_ns
        return c.write_to_read_same_group_ns if group == ch.group else c.write_to_read_ns

    def _refresh(self, ch: _Channel) -> None:
        c = self.config
        start = max(ch.refresh_at, max(ch.precharge_at), ch.column + c.cas_ns) + c.precharge_ns
        ch.row = [-1] * len(ch.row)
        ch.activate_at = [max(at, start + c.refresh_ns) for at in ch.activate_at]
        ch.refresh_at += c.refresh_interval_ns


def memory_of(config: DramConfig, clock_mhz: int) -> Target:
    """The model that a chip's description asks for."""
    if config.bytes_per_cycle is not None:
        return Pipe(config.bytes_per_cycle)
    return Memory(config, clock_mhz)


def requests_of(payloads: Iterable[Payload]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Addresses and directions of the requests that transfers are made of, in order."""
    addresses, writes = [], []
    for p in payloads:
        behind = -(-(p.address + p.nbytes) // REQUEST_BYTES)
        addresses.append(np.arange(p.address // REQUEST_BYTES, behind, dtype=np.int64) * REQUEST_BYTES)
        writes.append(np.full(len(addresses[-1]), p.write))
    if not addresses:
        return np.zeros(0, np.int64), np.zeros(0, bool)
    return np.concatenate(addresses), np.concatenate(writes)


def find_memory(name: str) -> Callable[[DramConfig, int], Target]:
    """The class named `module:Class` or `file.py:Class`, made with the chip's `DramConfig` and its clock in MHz."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise TimeError(
            f"memory model {name!r}: expected module:Class or file.py:Class, such as {__name__}:Memory"
        )
    try:
        found = getattr(module_named(place), attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise TimeError(f"memory model {name!r} cannot be loaded: {error}") from error
    if not callable(getattr(found, "b_transport", None)):
        raise TimeError(f"memory model {name!r} has no b_transport(payload, at) -> cycle in which it is done")
    return cast("Callable[[DramConfig, int], Target]", found)

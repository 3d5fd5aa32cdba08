# SPDX-License-Identifier: Apache-2.0
"""What a run moved and multiplied, in other simulators' words.

Interface
    transfers(columns, chip, design, step) -> list of (Payload, cycle asked, cycle done)
    dramsim3(transfers, chip), ramulator2(transfers)     -> lines of a trace
    scalesim(columns)                                    -> lines of a topology

Formats
    dramsim3     `0xADDRESS READ|WRITE CYCLE`, one line a request of 64 bytes; cycles are the memory's nanoseconds
    ramulator2   `LD 0xADDRESS` or `ST 0xADDRESS`, one line a request: its load-store trace, which has no times
    scalesim     `Layer, M, N, K,`: a GEMM topology; every work of original mode, groups (heads) one by one

What this file does not do: run any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.recorded import RecordColumns, rows_of_step
from ditto_cosim.device.timing.engine import PythonStep, run_step
from ditto_cosim.device.timing.kernel import Payload
from ditto_cosim.device.timing.memory import requests_of
from ditto_cosim.protocol.record import layer_work

Transfer = tuple[Payload, int, int]


def transfers(columns: RecordColumns, chip: Chip, design: Design, step: int) -> list[Transfer]:
    """A step's transfers in the order in which the memory is asked."""
    config, rows = rows_of_step(columns, chip, design, step)
    told = PythonStep(config, log=True)
    run_step(told, rows)
    assert told.bus.log is not None
    return told.bus.log


def dramsim3(moved: Sequence[Transfer], chip: Chip) -> Iterator[str]:
    for payload, asked, _ in moved:
        since = -(-asked * 1000 // chip.clock_mhz)
        for address, write in zip(*requests_of([payload]), strict=True):
            yield f"{int(address):#x} {'WRITE' if write else 'READ'} {since}"


def ramulator2(moved: Sequence[Transfer]) -> Iterator[str]:
    for payload, _, _ in moved:
        for address, write in zip(*requests_of([payload]), strict=True):
            yield f"{'ST' if write else 'LD'} {int(address):#x}"


def scalesim(columns: RecordColumns) -> Iterator[str]:
    yield "Layer,M,N,K,"
    for layer, command in enumerate(columns.program.layers):
        for work in layer_work(columns.program, layer, "original"):
            for group in range(work.groups):
                name = command.name if work.groups == 1 else f"{command.name}.{group}"
                yield f"{name},{work.rows},{work.n},{work.k},"

# SPDX-License-Identifier: Apache-2.0
"""A run as a timeline that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The trace's time is the chip's, cycles over its clock. Layers run one after another; within a layer each unit's
busy cycles are drawn from the layer's start: how long a unit worked is reported, when exactly is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ditto_cosim.host.report.model import ABSENT, RunReport
from ditto_cosim.protocol.hardware import MODES

COLOURS = {"original": "grey", "temporal": "good", "spatial": "yellow"}


def trace(report: RunReport) -> str:
    """The trace as JSON text."""
    events = [*_names(report), *_events(report)]
    return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, separators=(",", ":"))


def _names(report: RunReport) -> Iterator[dict[str, Any]]:
    title = f"{report.design} on {report.chip} ({report.backend})"
    yield {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}}
    for tid, name in enumerate(("steps", "layers", *report.unit_cycles)):
        yield {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": 1, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


def _events(report: RunReport) -> Iterator[dict[str, Any]]:
    cycles_per_us = report.clock_hz / 1e6

    def piece(tid: int, name: str, start_cycles: int, cycles: int, **more: Any) -> dict[str, Any]:
        ts, dur = start_cycles / cycles_per_us, cycles / cycles_per_us
        return {"ph": "X", "pid": 1, "tid": tid, "name": name, "ts": ts, "dur": dur, **more}

    clock = 0
    for s, step in enumerate(report.steps):
        step_cycles = int(report.cycles[s].sum())
        yield piece(0, f"step {step}", clock, step_cycles)
        for i, name in enumerate(report.names):
            if report.mode[s, i] == ABSENT:
                continue
            cycles, mode = int(report.cycles[s, i]), MODES[report.mode[s, i]]
            facts = {
                "op": report.ops[i],
                "mode": mode,
                "forced": bool(report.forced[s, i]),
                "zero": int(report.zero[s, i]),
                "low": int(report.low[s, i]),
                "full": int(report.full[s, i]),
                "slots": int(report.slots[s, i]),
                "lane_cycles": "measured" if report.measured[s, i] else "modelled",
                "stall_cycles": {k: int(v[s, i]) for k, v in report.stall_cycles.items()},
                "traffic_bytes": {k: int(v[s, i]) for k, v in report.traffic_bytes.items()},
            }
            yield piece(1, name, clock, cycles, cname=COLOURS[mode], args=facts)
            for tid, (unit, busy) in enumerate(report.unit_cycles.items(), start=2):
                if busy[s, i]:
                    yield piece(tid, f"{unit} of {name}", clock, int(busy[s, i]))
            clock += cycles

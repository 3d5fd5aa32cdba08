# SPDX-License-Identifier: Apache-2.0
"""`ditto bench dram`: the DRAM model against DRAMsim3's published table, Ramulator 2.1's deviation beside it.

Where the traffic is the table's own, request for request (`exact`), cycles and mean read latency are the table's; random traffic
is of the same distribution only, and should be within 6 %. What this file does not do: run either simulator (their table ships).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ditto_cosim.bench.dram_traces import TRACES
from ditto_cosim.device.timing.dram import DramConfig
from ditto_cosim.device.timing.first_ready import simulate

QUICK = ("seq_16MiB", "stride_2048", "random_1GiB", "rw_64B_skew", "copy_16KiB", "two_rd_64B_samebank")


def measure(quick: bool = False) -> dict[str, Any]:
    """One row a case: cycles of both, deviations, time a request."""
    text = resources.files("ditto_cosim.bench").joinpath("hbm2_reference.json").read_text(encoding="utf-8")
    tables = json.loads(text)["max_rate"]
    rows = []
    for name in QUICK if quick else TRACES:
        addresses, writes = TRACES[name]()
        for channels in ("8ch", "1ch"):
            for mapping in ("coarse", "fine"):
                for refresh in ("refresh_on", "refresh_off"):
                    case = tables["dramsim3"][channels][mapping][refresh][name]
                    reference, latency = case["cycles"], case.get("avg_read_lat")
                    config = DramConfig(int(channels[0]), mapping, refresh=refresh == "refresh_on")
                    begun = time.perf_counter()
                    found = simulate(config, addresses, writes)
                    taken = time.perf_counter() - begun
                    other = _cycles(tables.get("ramulator2", {}), channels, mapping, refresh, name)
                    rows.append(
                        {
                            "trace": name,
                            "channels": int(channels[0]),
                            "mapping": mapping,
                            "refresh": config.refresh,
                            "cycles": found.cycles,
                            "dramsim3_cycles": reference,
                            "deviation": found.cycles / reference - 1,
                            "ramulator2_deviation": None if other is None else other / reference - 1,
                            "latency_deviation": found.read_latency_cycles / latency - 1 if latency else None,
                            "exact": exact(name),
                            "us_per_request": taken / len(addresses) * 1e6,
                        }
                    )
    within = [_agrees(r["deviation"], r["exact"]) for r in rows]
    waits = [abs(r["latency_deviation"]) for r in rows if r["latency_deviation"] is not None]
    return {
        "cases": rows,
        "judged": len(rows),
        "within": sum(within),
        "worst_deviation": max(abs(r["deviation"]) for r in rows),
        "latencies_judged": len(waits),
        "latencies_within": sum(
            _agrees(r["latency_deviation"], r["exact"]) for r in rows if r["latency_deviation"] is not None
        ),
        "worst_latency_deviation": max(waits, default=0.0),
    }


EXACT, TOLERANCE = 1e-4, 0.06
"""The table's mean latencies have two decimals."""


def exact(name: str) -> bool:
    """Whether a trace is the table's own."""
    return not name.startswith("random")


def _agrees(deviation: float, exact: bool) -> bool:
    return abs(deviation) <= (EXACT if exact else TOLERANCE)


def _cycles(table: Mapping[str, Any], *path: str) -> int | None:
    found: Any = table
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    cycles = found.get("cycles") if isinstance(found, Mapping) else None
    return int(cycles) if cycles is not None else None


def table(figures: Mapping[str, Any]) -> str:
    lines = [
        f"{'trace':22}{'ch':>3}"
        f" {'mapping':8}{'refresh':8}{'cycles':>9}{'DRAMsim3':>10}{'ours':>8}{'Ramulator':>11}{'latency':>9}"
    ]
    for r in figures["cases"]:
        other = "" if r["ramulator2_deviation"] is None else f"{r['ramulator2_deviation']:+.1%}"
        mark = "" if _agrees(r["deviation"], r["exact"]) else "OUTSIDE"
        waits = "" if r["latency_deviation"] is None else f"{r['latency_deviation']:+.1%}"
        lines.append(
            f"{r['trace']:22}{r['channels']:>3} {r['mapping']:8}{'on' if r['refresh'] else 'off':8}"
            f"{r['cycles']:>9}{r['dramsim3_cycles']:>10}{r['deviation']:>+8.1%}{other:>11}{waits:>9}  {mark}"
        )
    lines.append(
        f"{figures['within']} of {figures['judged']} cycle counts agree, the worst (random traffic, another draw) off by"
        f" {figures['worst_deviation']:.1%}; {figures['latencies_within']} of {figures['latencies_judged']} mean read latencies,"
        f" the worst off by {figures['worst_latency_deviation']:.1%}"
    )
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""DRAM: bytes by class, and bandwidth and buffer fill over one step's time."""

from __future__ import annotations

from typing import Any

import altair as alt

from ditto_cosim.host.report import charts
from ditto_cosim.host.report.prices import Prices
from ditto_cosim.host.report.sections.base import Section, Shown

ROOM_WORDS = {"early": "weights and state", "late": "this step's values", "results": "results"}


def section(shown: Shown) -> Section:
    traffic = {name: int(array.sum()) for name, array in shown.report.traffic_bytes.items()}
    total = max(sum(traffic.values()), 1)
    series = None if shown.prices is None else shown.prices.series
    found: dict[str, Any] = {}
    if shown.prices is not None and series is not None:
        found = {"bandwidth": _bandwidth(shown.prices), "fill": _fill(shown.prices)}
    rows = sorted(traffic.items(), key=lambda item: -item[1])
    return Section(
        "memory",
        "DRAM and buffers",
        {
            "rows": [(name.replace("_", " "), count, count / total) for name, count in rows],
            "total": sum(traffic.values()),
            "step": None if series is None else series.step,
            "rooms": {}
            if series is None
            else {ROOM_WORDS[r]: size for r, size in series.rooms_bytes.items()},
        },
        found,
        "modelled",
    )


def _bandwidth(prices: Prices) -> dict[str, Any]:
    series = prices.series
    assert series is not None
    rows = [
        {"cycle": at, "bytes": moved}
        for at, moved in zip(series.at_cycles, series.dram_bytes_per_cycle, strict=True)
    ]
    area = (
        alt.Chart(charts.values(rows))
        .mark_area(interpolate="step-after", color=charts.CAUSE_COLOURS["dram"])
        .encode(
            x=alt.X("cycle:Q", axis=alt.Axis(format="~s")),
            y=alt.Y("bytes:Q", title="DRAM bytes a cycle"),
            tooltip=[alt.Tooltip("cycle:Q", format=","), alt.Tooltip("bytes:Q", format=".1f")],
        )
    )
    peak = (
        alt.Chart(charts.values([{"peak": prices.peak_bytes_per_cycle}]))
        .mark_rule(strokeDash=[4, 3])
        .encode(y="peak:Q", tooltip=[alt.Tooltip("peak:Q", title="peak, bytes a cycle", format=".0f")])
    )
    return charts.finished(area + peak, 150)


def _fill(prices: Prices) -> dict[str, Any]:
    series = prices.series
    assert series is not None
    rows = [
        {"cycle": at, "room": ROOM_WORDS[room], "bytes": held}
        for room, levels in series.held_bytes.items()
        for at, held in zip(series.at_cycles, levels, strict=True)
    ]
    colours = dict(zip(ROOM_WORDS.values(), ("#e9a03b", "#577590", "#8d6fa8"), strict=True))
    line = (
        alt.Chart(charts.values(rows))
        .mark_line(interpolate="step-after", strokeWidth=1)
        .encode(
            x=alt.X("cycle:Q", axis=alt.Axis(format="~s")),
            y=alt.Y("bytes:Q", title="bytes held", axis=alt.Axis(format="~s")),
            color=charts.colour("room", colours),
            tooltip=[alt.Tooltip("cycle:Q", format=","), "room:N", alt.Tooltip("bytes:Q", format=",")],
        )
    )
    return charts.finished(line, 150)

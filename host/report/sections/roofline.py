# SPDX-License-Identifier: Apache-2.0
"""Layers against what the chip could do: roofline, and how far its multipliers were used while the PEs worked."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from ditto_cosim.host.report import charts
from ditto_cosim.host.report.prices import Prices
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section | None:
    prices = shown.prices
    if prices is None or not prices.layers:
        return None
    cycles = max(prices.own.cycles, 1)
    products = sum(layer.products for layer in prices.layers)
    return Section(
        "roofline",
        "How far the chip was used",
        {
            "occupancy": prices.own.computing,
            "utilisation": products / (prices.multipliers * cycles),
            "multipliers": prices.multipliers,
            "macs_per_cycle": sum(layer.macs for layer in prices.layers) / cycles,
        },
        {"roofline": _roofline(prices), "use": _use()},
    )


def _roofline(prices: Prices) -> dict[str, Any]:
    x = [layer.macs / max(layer.dram_bytes, 1) for layer in prices.layers if layer.macs]
    low, high = min(x) / 2, max(x) * 2
    roofs = {
        "every value full (two slots)": prices.multipliers / 2,
        "every value low (one slot)": prices.multipliers,
    }
    lines = [
        {
            "roof": name,
            "intensity": float(i),
            "macs_per_cycle": float(min(top, i * prices.peak_bytes_per_cycle)),
        }
        for name, top in roofs.items()
        for i in np.geomspace(low, high, 60)
    ]
    points = alt.Chart(charts.shared("layers")).mark_circle(opacity=0.75, cursor="pointer").encode(
        x=alt.X("intensity:Q", scale=alt.Scale(type="log"), title="MACs a DRAM byte", axis=alt.Axis(format="~g")),
        y=alt.Y("macs_per_cycle:Q", scale=alt.Scale(type="log"), title="MACs a cycle", axis=alt.Axis(format="~s")),
        size=alt.Size("cycles:Q", legend=None, scale=alt.Scale(range=[15, 400])),
        color=charts.colour("op", {"conv2d": "#2a9d8f", "linear": "#577590", "matmul": "#e9a03b"}),
        tooltip=["name:N", "op:N", alt.Tooltip("cycles:Q", format=","), alt.Tooltip("intensity:Q", format=".1f"),
                 alt.Tooltip("macs_per_cycle:Q", format=",.0f")],
    )  # fmt: skip
    roof = (
        alt.Chart(charts.values(lines))
        .mark_line()
        .encode(
            x="intensity:Q",
            y="macs_per_cycle:Q",
            strokeDash=alt.StrokeDash(
                "roof:N", legend=alt.Legend(orient="top", title=None, columns=1, labelLimit=300)
            ),
            detail="roof:N",
        )
    )
    return charts.finished((roof + points), 300)


def _use() -> dict[str, Any]:
    chart = alt.Chart(charts.shared("layers")).mark_circle(opacity=0.75, cursor="pointer").encode(
        x=alt.X("occupancy:Q", title="cycles in which the PEs work", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("utilisation:Q", title="multipliers used, of all cycles", axis=alt.Axis(format="%")),
        size=alt.Size("cycles:Q", legend=None, scale=alt.Scale(range=[15, 400])),
        color=charts.colour("op", {"conv2d": "#2a9d8f", "linear": "#577590", "matmul": "#e9a03b"}),
        tooltip=["name:N", "op:N", alt.Tooltip("cycles:Q", format=","), alt.Tooltip("occupancy:Q", format=".1%"),
                 alt.Tooltip("utilisation:Q", format=".1%")],
    )  # fmt: skip
    return charts.finished(chart, 240)

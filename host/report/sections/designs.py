# SPDX-License-Identifier: Apache-2.0
"""Designs side by side on this run, on a scale that one outlier cannot flatten."""

from __future__ import annotations

import altair as alt

from ditto_cosim.host.report import charts
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section | None:
    prices = shown.prices
    base = None if prices is None else prices.of("itc")
    if prices is None or base is None:
        return None
    rows = [
        {
            "design": d.title,
            "own": d.name == prices.design,
            "cycles": d.cycles,
            "speedup": base.cycles / max(d.cycles, 1),
            "energy": d.total_pj / max(base.total_pj, 1e-30),
            "mJ": d.total_pj / 1e9,
            "ms": d.cycles / prices.clock_hz * 1e3,
            "MB": d.dram_bytes / 1e6,
            "computing": d.computing,
            "temporal": d.temporal,
        }
        for d in sorted(prices.designs, key=lambda d: d.cycles)
    ]
    points = alt.Chart(charts.values(rows)).mark_point(filled=True, size=110, opacity=1).encode(
        y=alt.Y("design:N", sort=[str(r["design"]) for r in rows], title=None),
        x=alt.X("speedup:Q", scale=alt.Scale(type="log"), title="speed ÷ ITC, logarithmic", axis=alt.Axis(format="~g")),
        color=alt.condition("datum.own", alt.value("#2a9d8f"), alt.value("#8f99a3")),
        tooltip=["design:N", alt.Tooltip("speedup:Q", format=".3f"), alt.Tooltip("cycles:Q", format=","),
                 alt.Tooltip("energy:Q", title="energy ÷ ITC", format=".3f")],
    )  # fmt: skip
    rule = alt.Chart(charts.values([{"one": 1}])).mark_rule(strokeDash=[4, 3]).encode(x="one:Q")
    return Section(
        "designs",
        "Designs side by side",
        {"rows": rows, "elsewhere": prices.elsewhere, "own": prices.own.title},
        {"designs": charts.finished(rule + points, 24 * len(rows) + 20)},
        f"priced on {prices.chip}",
    )

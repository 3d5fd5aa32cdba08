# SPDX-License-Identifier: Apache-2.0
"""Energy by unit, the run's design beside the others, and the chip's area."""

from __future__ import annotations

import altair as alt

from ditto_cosim.host.report import charts
from ditto_cosim.host.report.sections.base import Section, Shown

SCALE_LIMIT = 20.0
"""Designs that take this many times the median's energy would flatten the rest; they are in the table of designs."""


def section(shown: Shown) -> Section | None:
    prices = shown.prices
    if prices is None:
        return None
    ordered = sorted(prices.designs, key=lambda d: d.total_pj)
    median = ordered[len(ordered) // 2].total_pj
    drawn = [d for d in ordered if d.total_pj <= SCALE_LIMIT * median]
    rows = [
        {"design": d.title, "unit": unit.replace("_", " "), "mJ": pj / 1e9}
        for d in drawn
        for unit, pj in d.energy_pj.items()
        if pj
    ]
    chart = (
        alt.Chart(charts.values(rows))
        .mark_bar()
        .encode(
            y=alt.Y("design:N", sort=[d.title for d in drawn], title=None),
            x=alt.X("mJ:Q", title="mJ for the whole run"),
            color=charts.colour("unit", charts.UNIT_COLOURS),
            tooltip=["design:N", "unit:N", alt.Tooltip("mJ:Q", format=",.3f")],
        )
    )
    return Section(
        "energy",
        "Energy and area",
        {
            "units": sorted(
                ((unit.replace("_", " "), pj) for unit, pj in prices.own.energy_pj.items()),
                key=lambda u: -u[1],
            ),
            "total": prices.own.total_pj,
            "left_out": [d.title for d in ordered if d not in drawn],
            "area": prices.area_mm2,
            "area_source": prices.area_source,
            "areas": [(d.title, d.area_mm2) for d in ordered if d.area_mm2],
        },
        {"energy": charts.finished(chart, 24 * len(drawn) + 20)},
        "modelled",
    )

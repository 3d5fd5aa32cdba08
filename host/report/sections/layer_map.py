# SPDX-License-Identifier: Apache-2.0
"""Layers down, steps across: mode, cycles, slots and what the PEs waited for; a click opens the layer."""

from __future__ import annotations

from typing import Any

import altair as alt

from ditto_cosim.host.report import charts, summary
from ditto_cosim.host.report.sections.base import Section, Shown
from ditto_cosim.protocol.hardware import MODES

FIELDS = {
    "map_mode": "mode",
    "map_cycles": "cycles",
    "map_slots": "slots",
    "map_cause": "where most cycles went",
}


def section(shown: Shown) -> Section:
    report = shown.report
    used = [m for i, m in enumerate(MODES) if (report.mode == i).any()]
    causes = charts.causes(list(summary.causes(report)))
    ramp = alt.Scale(type="symlog", scheme="viridis")
    colours: dict[str, Any] = {
        "map_mode": charts.modes(used),
        "map_cycles": alt.Color(
            "cycles:Q", scale=ramp, legend=alt.Legend(orient="top", title="cycles", format="~s")
        ),
        "map_slots": alt.Color(
            "slots:Q", scale=ramp, legend=alt.Legend(orient="top", title="slots", format="~s")
        ),
        "map_cause": charts.colour("cause", causes),
    }
    height = max(180, min(5 * len(report.names), 760))
    return Section(
        "layer_map",
        "Layers and steps",
        {
            "fields": FIELDS,
            "forced": int(report.forced.sum()),
            "forced_shares": summary.forced_shares(report),
            "decisions": summary.decisions(report),
        },
        {name: _map(shown, colour, height) for name, colour in colours.items()},
    )


def _map(shown: Shown, colour: Any, height: int) -> dict[str, Any]:
    chart = alt.Chart(charts.shared("cells")).mark_rect(cursor="pointer").encode(
        x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("layer:O", title="layer, in program order", axis=alt.Axis(labelOverlap=True)),
        color=colour,
        tooltip=[
            "name:N", "step:O", "mode:N", "forced:N", alt.Tooltip("cycles:Q", format=","),
            alt.Tooltip("slots:Q", format=","), alt.Tooltip("cause:N", title="most cycles"),
        ],
    )  # fmt: skip
    return charts.finished(chart, height)

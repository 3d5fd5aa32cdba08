# SPDX-License-Identifier: Apache-2.0
"""What the encoder met: zero, low and full, by mode and by step."""

from __future__ import annotations

import altair as alt
import numpy as np

from ditto_cosim.host.report import charts, summary
from ditto_cosim.host.report.sections.base import Section, Shown
from ditto_cosim.protocol.hardware import MODES


def section(shown: Shown) -> Section:
    report = shown.report
    by_step = summary.shares_by_step(report)
    rows = [
        {"step": step, "met": name, "share": float(share)}
        for name, shares in by_step.items()
        for step, share in zip(report.steps, shares, strict=True)
        if not np.isnan(share)
    ]
    chart = (
        alt.Chart(charts.values(rows))
        .mark_bar()
        .encode(
            x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y(
                "share:Q",
                title="of the differences",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=charts.colour("met", charts.SHARE_COLOURS),
            tooltip=["step:O", "met:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    shares = {mode: summary.shares(report, mode) for mode in MODES}
    return Section(
        "encoder",
        "What the encoder met",
        {"shares": {m: s for m, s in shares.items() if any(s.values())}, "drawn": bool(rows)},
        {"shares_by_step": charts.finished(chart, 180)} if rows else {},
        f"low rule {report.low_rule}",
    )

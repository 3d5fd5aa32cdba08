# SPDX-License-Identifier: Apache-2.0
"""Where every cycle of the run went: one total, by cause and by step."""

from __future__ import annotations

import altair as alt

from ditto_cosim.host.report import charts, summary
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section:
    report = shown.report
    by_cause = summary.cycles_by_cause(report)
    total = max(report.total_cycles, 1)
    before = report.total_cycles - sum(by_cause.values())
    named = {summary.CAUSES.get(name, name): cycles for name, cycles in by_cause.items()}
    rows = sorted(named.items(), key=lambda item: -item[1])
    if before:
        rows.append(("commands before the first layer", before))
    return Section(
        "cycles",
        "Where the cycles went",
        {
            "rows": [(label, cycles, cycles / total) for label, cycles in rows],
            "total": report.total_cycles,
            "sentence": _sentence(by_cause, total),
            "ns": f"{1e9 / report.clock_hz:g}",
        },
        {"cycles_by_step": _by_step(shown), "layer_causes": _of_a_layer(shown)},
        summary.measured_words(report),
    )


def _sentence(by_cause: dict[str, int], total: int) -> str:
    working = by_cause.get("compute", 0) / total
    waits = {name: cycles for name, cycles in by_cause.items() if name != "compute" and cycles}
    text = f"The PEs worked in {working:.0%} of the run's {total:,} cycles"
    if not waits:
        return f"{text}."
    worst = max(waits, key=lambda name: waits[name])
    return f"{text}; the largest loss: {summary.CAUSES.get(worst, worst)} ({waits[worst] / total:.0%})."


def _by_step(shown: Shown) -> dict[str, object]:
    parts = summary.causes(shown.report)
    rows = [
        {"step": step, "cause": summary.CAUSES.get(name, name), "cycles": int(cycles)}
        for name, array in parts.items()
        for step, cycles in zip(shown.report.steps, array.sum(1), strict=True)
    ]
    chart = (
        alt.Chart(charts.values(rows))
        .mark_bar()
        .encode(
            x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("cycles:Q", title="cycles", axis=alt.Axis(format="~s")),
            color=charts.colour("cause", charts.causes(list(parts))),
            tooltip=["step:O", "cause:N", alt.Tooltip("cycles:Q", format=",")],
        )
    )
    return charts.finished(chart, 240)


def _of_a_layer(shown: Shown) -> dict[str, object]:
    """What `page.js` fills with one layer's rows."""
    chart = (
        alt.Chart(charts.values([]))
        .mark_bar()
        .encode(
            x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("cycles:Q", title="cycles", axis=alt.Axis(format="~s")),
            color=charts.colour("cause", charts.causes(list(summary.causes(shown.report)))),
            tooltip=["step:O", "mode:N", "cause:N", alt.Tooltip("cycles:Q", format=",")],
        )
    )
    return charts.finished(chart, 200)

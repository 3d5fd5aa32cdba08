# SPDX-License-Identifier: Apache-2.0
"""Charts of SQ-DM's two arrays: how busy each was step by step, and the speed-up over the threshold, at three splits.

What this file does not do: price (`ditto_cosim/appraisal.py`), or draw the channels' zeros (`sections/sparsity.py`).
"""

from __future__ import annotations

import altair as alt

from ditto_cosim.host.report import charts
from ditto_cosim.host.report.prices import BothArrays, Threshold

ARRAY_COLOURS = {"dense": "#577590", "sparse": "#2a9d8f"}


def drawn(arrays: BothArrays) -> dict[str, dict[str, object]]:
    """Both, by the names that the page gives their places."""
    return {"busy": _busy(arrays), "theta": _theta(arrays)}


def best_of(arrays: BothArrays, dense_share: float = 0.5) -> tuple[float, float] | None:
    """(threshold, speed-up) of the best at this split; None if the sweep has no such split."""
    rows = [r for r in arrays.thresholds if r.dense_share == dense_share]
    best = max(rows, key=lambda r: r.speedup, default=None)
    return None if best is None else (best.threshold, best.speedup)


def is_interior(arrays: BothArrays, dense_share: float = 0.5) -> bool:
    """Whether both ends of the sweep are slower than its best."""
    rows = sorted((r for r in arrays.thresholds if r.dense_share == dense_share), key=lambda r: r.threshold)
    return len(rows) > 2 and max(r.speedup for r in rows[1:-1]) > max(rows[0].speedup, rows[-1].speedup)


def _busy(arrays: BothArrays) -> dict[str, object]:
    rows = [
        {"step": step, "array": name, "busy": busy}
        for name, shares in (("dense", arrays.dense_busy), ("sparse", arrays.sparse_busy))
        for step, busy in enumerate(shares)
    ]
    chart = alt.Chart(alt.InlineData(rows)).mark_line(point=True).encode(
        x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("busy:Q", title="busy between barriers", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
        color=charts.colour("array", ARRAY_COLOURS),
        tooltip=["array:N", "step:O", alt.Tooltip("busy:Q", format=".1%")],
    )  # fmt: skip
    return charts.finished(chart, 150)


def _theta(arrays: BothArrays) -> dict[str, object]:
    rows = [_row(r) for r in arrays.thresholds]
    splits = dict.fromkeys(r.dense_share for r in arrays.thresholds)
    tops = [
        _row(max((r for r in arrays.thresholds if r.dense_share == split), key=lambda r: r.speedup))
        for split in splits
    ]
    x = alt.X(
        "threshold:Q",
        title="threshold: least share of zero codes of a sparse channel",
        axis=alt.Axis(format=".0%"),
    )
    y = alt.Y("speedup:Q", title="× one dense array")
    colour = alt.Color("split:N", legend=alt.Legend(title=None, orient="top"))
    told = ["split:N", alt.Tooltip("threshold:Q", format=".0%"), alt.Tooltip("speedup:Q", format=".2f")]
    lines = alt.Chart(alt.InlineData(rows)).mark_line().encode(x=x, y=y, color=colour, tooltip=told)
    best = (
        alt.Chart(alt.InlineData(tops))
        .mark_point(size=90, filled=True)
        .encode(x=x, y=y, color=colour, tooltip=told)
    )
    own = (
        alt.Chart(alt.InlineData([{"threshold": arrays.threshold}]))
        .mark_rule(strokeDash=[4, 3])
        .encode(x="threshold:Q")
    )
    return charts.finished(lines + best + own, 220)


def _row(at: Threshold) -> dict[str, object]:
    return {"threshold": at.threshold, "split": f"{at.dense_share:.0%} dense", "speedup": at.speedup}

# SPDX-License-Identifier: Apache-2.0
"""Zero codes of 4-bit layers, channel by channel and step by step, and how many of the detector's tags changed."""

from __future__ import annotations

import base64
import io

import altair as alt
import numpy as np
import numpy.typing as npt
from PIL import Image

from ditto_cosim.host.report import charts, two_arrays
from ditto_cosim.host.report.sections.base import Section, Shown
from ditto_cosim.host.report.sparsity import ChannelCounts, read_counts

RAMP = np.array([(38, 20, 72), (42, 157, 143), (250, 230, 90)], np.float64)
"""Colours of no zero, half, nothing but zeros."""
FEWEST_STEPS = 2


def section(shown: Shown) -> Section | None:
    counts = read_counts(shown.directory)
    if counts is None:
        return None
    values: dict[str, object] = {
        "picture": _picture(counts),
        "layers": len(counts.layers),
        "channels": len(counts.zeros),
        "zero": f"{counts.zeros.mean():.1%}",
        "sparse": f"{counts.sparse.mean():.1%}",
        "utilised": _balance(counts),
    }
    found: dict[str, dict[str, object]] = (
        {"flips": _flips(counts)} if counts.zeros.shape[1] >= FEWEST_STEPS else {}
    )
    arrays = None if shown.prices is None else shown.prices.two_arrays
    if arrays is not None:
        found |= two_arrays.drawn(arrays)
        best = two_arrays.best_of(arrays)
        values |= {
            "busy": f"{np.mean(arrays.dense_busy):.0%} and {np.mean(arrays.sparse_busy):.0%}",
            "best": None if best is None else f"{best[0]:.0%} ({best[1]:.2f} ×)",
            "interior": two_arrays.is_interior(arrays),
        }
    return Section("sparsity", "Zero codes, channel by channel", values, found)


def _picture(counts: ChannelCounts) -> str:
    """One pixel a channel and step."""
    at = counts.zeros * (len(RAMP) - 1)
    below = np.minimum(at.astype(np.int64), len(RAMP) - 2)
    part = (at - below)[..., None]
    pixels: npt.NDArray[np.uint8] = (RAMP[below] * (1 - part) + RAMP[below + 1] * part).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _flips(counts: ChannelCounts) -> dict[str, object]:
    rows = [{"step": i + 1, "share": round(float(f), 5)} for i, f in enumerate(counts.flips)]
    chart = alt.Chart(alt.InlineData(rows)).mark_bar(color=charts.UNIT_COLOURS["encode"]).encode(
        x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("share:Q", title="tags that changed", axis=alt.Axis(format=".1%")),
    )  # fmt: skip
    return charts.finished(chart, 120)


def _balance(counts: ChannelCounts) -> str:
    """How unlike channels and steps are: without that, there is nothing for a detector to use."""
    return f"{counts.zeros.mean(axis=1).std():.2f} over channels, {counts.zeros.std(axis=1).mean():.2f} over steps"

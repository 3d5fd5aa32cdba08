# SPDX-License-Identifier: Apache-2.0
"""A run's plots as PNG bytes. Matplotlib draws them; nothing here decides what they mean."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.model import RunReport
from ditto_cosim.host.report.sparsity import ChannelCounts
from ditto_cosim.protocol.hardware import MODES

MODE_COLOURS = {"original": "#9aa3ad", "temporal": "#2a9d8f", "spatial": "#e9a03b"}
SHARE_COLOURS = {"zero": "#d8e2dc", "low": "#2a9d8f", "full": "#c1493b"}
CAUSE_COLOURS = {
    "compute": "#2a9d8f",
    "encode": "#577590",
    "weight_load": "#e9a03b",
    "vector": "#8d6fa8",
    "dram": "#c1493b",
    "fill": "#9aa3ad",
    "other": "#cccccc",
}
_STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6}


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _step_axis(axes: Axes, report: RunReport) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(report.steps[0] - 0.5, report.steps[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def mode_map(report: RunReport) -> bytes:
    """Layers down, steps across, one colour per mode; a dot marks a forced base mode."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(8.0, 1.2 + min(0.035 * len(report.names), 7.0))
        colours = ListedColormap([MODE_COLOURS[mode] for mode in MODES])
        extent = (report.steps[0] - 0.5, report.steps[-1] + 0.5, len(report.names) - 0.5, -0.5)
        axes.imshow(
            report.mode.T,
            aspect="auto",
            cmap=colours,
            vmin=0,
            vmax=len(MODES) - 1,
            extent=extent,
            interpolation="nearest",
        )
        step, layer = np.nonzero(report.forced)
        axes.plot(np.asarray(report.steps)[step], layer, "k.", markersize=2)
        _step_axis(axes, report)
        axes.set_ylabel("layer, in program order")
        used = [mode for i, mode in enumerate(MODES) if (report.mode == i).any()]
        handles = [Patch(color=MODE_COLOURS[mode], label=mode) for mode in used]
        axes.legend(
            handles=handles, ncols=len(handles), loc="lower left", bbox_to_anchor=(0, 1), frameon=False
        )
        return _png(figure)


def sparsity_map(counts: ChannelCounts) -> bytes:
    """Channels of all 4-bit layers down, steps across: the share of zero codes; below, how many tags changed."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(5, 1), sharex=True)
        steps = counts.zeros.shape[1]
        extent = (-0.5, steps - 0.5, len(counts.zeros) - 0.5, -0.5)
        drawn = above.imshow(
            counts.zeros,
            aspect="auto",
            cmap="viridis",
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="nearest",
        )
        for start in counts.starts[1:]:
            above.axhline(start - 0.5, color="white", linewidth=0.4)
        above.set_ylabel("channel, layer by layer")
        figure.colorbar(drawn, ax=above, label="share of zero codes")
        if steps > 1:
            below.bar(np.arange(1, steps), 100 * counts.flips, 0.9, color="#577590")
        below.set_ylabel("% of tags\nthat changed")
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _png(figure)


def cycles_by_step(report: RunReport) -> bytes:
    """Every cycle once, stacked by what the PEs did or waited for."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(8.0, 2.6)
        base = np.zeros(len(report.steps))
        for name, array in summary.causes(report).items():
            height = array.sum(1) / 1e6
            label = summary.CAUSES.get(name, name)
            axes.bar(report.steps, height, 0.9, bottom=base, label=label, color=CAUSE_COLOURS.get(name))
            base = base + height
        _step_axis(axes, report)
        axes.set_ylabel("million cycles")
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        return _png(figure)


def shares_by_step(report: RunReport) -> bytes:
    """Zero, low and full shares of the differences the encoder met."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(8.0, 2.2)
        base = np.zeros(len(report.steps))
        for name, share in summary.shares_by_step(report).items():
            axes.bar(report.steps, share * 100, 0.9, bottom=base, label=name, color=SHARE_COLOURS[name])
            base = base + share * 100
        _step_axis(axes, report)
        axes.set_ylim(0, 100)
        axes.set_ylabel("% of differences")
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        return _png(figure)

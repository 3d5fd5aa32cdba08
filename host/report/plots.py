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
from ditto_cosim.host.report.model import ABSENT, RunReport
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
            np.ma.masked_equal(report.mode.T, ABSENT),
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

# SPDX-License-Identifier: Apache-2.0
"""An analysis as tables and plots: similarity, ranges, bit widths and bit operations of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table

from ditto_cosim.host.analysis.analyze import KINDS, LOW_RULES, Analysis
from ditto_cosim.protocol.files import replacing

if TYPE_CHECKING:
    from ditto_cosim.host.analysis.sensitivity import Sensitivity

OPERATIONS = {"conv2d": "convolutions", "linear": "linear", "matmul": "attention"}
KIND_COLOURS = {"activations": "#9aa3ad", "temporal": "#2a9d8f", "spatial": "#e9a03b"}


def tables(analysis: Analysis) -> Group:
    """Everything in the terminal."""
    return Group(_similarity(analysis), _shares(analysis), _bit_operations(analysis))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _similarity(analysis: Analysis) -> Table:
    figures = analysis.figures()
    table = _table(
        "Similarity and range", "", "cosine similarity", "range of activations ÷ range of differences"
    )
    rows = {"temporal": "with the step before", "spatial": "with the row before"}
    for name, label in rows.items():
        table.add_row(label, f"{figures['cosine'][name]:.4f}", f"{figures['range_ratio'][name]:.2f}")
    return table


def _shares(analysis: Analysis) -> Table:
    table = _table(
        "Bit widths", "", "layers", "zero", "≤ 4 bits (twos4)", "8 bits", "≤ 4 bits (mag4)", "8 bits"
    )
    for kind in KINDS:
        for op, label in ({"": "all"} | {o: t for o, t in OPERATIONS.items() if o in analysis.ops}).items():
            strict, loose = (analysis.shares(kind, rule, op or None) for rule in LOW_RULES)
            cells = [strict["zero"]]
            for share in (strict, loose):
                cells += [share["zero"] + share["low"], share["full"]]
            table.add_row(kind if label == "all" else "", label, *(f"{cell:.2%}" for cell in cells))
    return table


def _bit_operations(analysis: Analysis) -> Table:
    table = _table("Bit operations (BOPs), relative to dense 8 × 8 bits", "", *LOW_RULES)
    relative = analysis.figures()["relative_bit_operations"]
    labels = {"best": "best of dense, temporal, spatial by layer and step"}
    for name in (*KINDS, "best"):
        table.add_row(labels.get(name, name), *(f"{relative[f'{name}.{rule}']:.3f}" for rule in LOW_RULES))
    dense = analysis.bit_operations["dense"].sum(1)
    table.add_row("dense, a step", f"{float(np.mean(dense)) / 1e9:,.2f} G", "")
    return table


def sensitivity_table(rows: Sequence[Sensitivity], count: int = 15) -> Table:
    """Layers whose quantization alone costs the denoiser's output most."""
    table = _table("Layers most sensitive to quantization", "layer", "operation", "output SQNR, dB")
    for row in rows[:count]:
        table.add_row(row.layer, row.op, f"{row.sqnr_db:.1f}")
    return table


# --- plots ------------------------------------------------------------------------------------------


def write_plots(analysis: Analysis, directory: Path) -> tuple[Path, ...]:
    """Four pictures beside the run: similarity, ranges, bit widths, bit operations."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "axes.linewidth": 0.6,
    }
    draw = {
        "similarity": _draw_similarity,
        "ranges": _draw_ranges,
        "widths": _draw_widths,
        "bops": _draw_bops,
    }
    written = []
    with mpl.rc_context(style):
        for name, function in draw.items():
            figure = Figure(figsize=(7.0, 2.8))
            function(figure.add_subplot(), analysis)
            written.append(directory / f"analysis-{name}.png")
            with replacing(written[-1]) as path:
                figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    return tuple(written)


def _whole_steps(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_similarity(axes: Any, analysis: Analysis) -> None:
    for name, values in analysis.cosine.items():
        known = ~np.isnan(values).all(1)
        steps = np.asarray(analysis.steps)[known]
        low, middle, high = np.nanpercentile(values[known], (10, 50, 90), axis=1)
        label = {"temporal": "with the step before", "spatial": "with the row before"}[name]
        axes.plot(steps, middle, color=KIND_COLOURS[name], label=label)
        axes.fill_between(steps, low, high, color=KIND_COLOURS[name], alpha=0.2, linewidth=0)
    _whole_steps(axes)
    axes.set_ylabel("cosine similarity of a layer's input\n(median; band: 10–90 % of layers)")
    axes.legend()


def _draw_ranges(axes: Any, analysis: Analysis) -> None:
    for kind in KINDS:
        ranges = analysis.ranges(kind)
        known = ~np.isnan(ranges).all(0)
        axes.plot(
            np.flatnonzero(known), np.nanmedian(ranges[:, known], 0), color=KIND_COLOURS[kind], label=kind
        )
    axes.set_yscale("log")
    axes.set_xlabel("layer, in program order")
    axes.set_ylabel("largest − smallest value\n(median over steps)")
    axes.legend()


def _draw_widths(axes: Any, analysis: Analysis) -> None:
    rows = [(kind, rule) for kind in KINDS for rule in LOW_RULES]
    left = np.zeros(len(rows))
    for part, colour in (("zero", "#d8e2dc"), ("low", "#2a9d8f"), ("full", "#c1493b")):
        width = np.array([analysis.shares(kind, rule)[part] * 100 for kind, rule in rows])
        bars = axes.barh(
            [f"{kind}, {rule}" for kind, rule in rows], width, left=left, color=colour, label=part
        )
        axes.bar_label(bars, [f"{w:.0f}" if w > 4 else "" for w in width], label_type="center")
        left = left + width
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the elements that the encoder meets")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _draw_bops(axes: Any, analysis: Analysis) -> None:
    dense = analysis.bit_operations["dense"].sum(1)
    for kind in KINDS:
        relative = analysis.bit_operations_by_step(f"{kind}.twos4") / dense
        axes.plot(analysis.steps, relative, color=KIND_COLOURS[kind], label=kind)
    axes.axhline(1.0, color="#1d2329", linewidth=0.6)
    axes.set_ylim(0, 1.05)
    _whole_steps(axes)
    axes.set_ylabel("bit operations ÷ dense 8 × 8 bits\n(low rule twos4)")
    axes.legend()

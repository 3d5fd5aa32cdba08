# SPDX-License-Identifier: Apache-2.0
"""A run as tables in the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from ditto_cosim.host.report import line, summary
from ditto_cosim.host.report.model import RunReport
from ditto_cosim.protocol.hardware import MODES

BESIDE = 60
"""Columns that a table of layers needs beside its names."""
FORCED_LAYERS = 5
"""Layers named for being forced to their base mode; the rest are counted."""


def tables(report: RunReport, slow: int = 10) -> Group:
    """Everything worth a look after a run."""
    classes: list[RenderableType] = [_steps(report)] if report.period > 1 else []
    return Group(
        _headline(report),
        _causes(report),
        *classes,
        _decisions(report),
        *([_line(report)] if report.line_bytes else []),
        _shares(report),
        _slowest(report, slow),
    )


def print_report(report: RunReport, console: Console | None = None, slow: int = 10) -> None:
    """At the terminal's width, or at what the names of layers need beside the rest: they are typed again."""
    console = console or Console()
    longest = max((len(name) for name in report.names), default=0)
    (console if console.width >= longest + BESIDE else Console(width=longest + BESIDE)).print(
        tables(report, slow)
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _headline(report: RunReport) -> Panel:
    grid = Table.grid(padding=(0, 2))
    for label, text in summary.headline(report):
        failed = label == "verification" and report.verdict is not None and not report.verdict.bit_identical
        grid.add_row(f"[dim]{label}", f"[bold red]{text}" if failed else text)
    return Panel(grid, title=f"[bold]{report.model}", title_align="left", expand=False)


def _causes(report: RunReport) -> Table:
    table = _table("Where the cycles went", "", "cycles", "share")
    by_cause = summary.cycles_by_cause(report)
    total = max(sum(by_cause.values()), 1)
    for name, cycles in sorted(by_cause.items(), key=lambda item: -item[1]):
        table.add_row(summary.CAUSES.get(name, name), f"{cycles:,}", f"{cycles / total:.1%}")
    return table


def _steps(report: RunReport) -> Table:
    table = _table(
        "Classes of steps", "class", "steps", "layers", "cycles a step", "slots a step", "bytes a step"
    )
    for row in summary.step_classes(report):
        each = (count // row.steps for count in (row.cycles, row.slots, row.traffic_bytes))
        table.add_row(row.name, str(row.steps), str(row.layers), *(f"{count:,}" for count in each))
    return table


def _decisions(report: RunReport) -> Table:
    table = _table("Defo's decisions", "mode", "layers", "cycles", "first step", "second step")
    for d in summary.decisions(report):
        table.add_row(
            d.mode, str(d.layers), f"{d.cycles_share:.1%}", f"{d.first_cycles:,}", f"{d.second_cycles:,}"
        )
    if forced := int(report.forced.sum()):
        table.add_row("forced to base", f"{forced} executions", f"{report.forced.mean():.1%}", "", "")
        shares = summary.forced_shares(report)
        for name, share in shares[:FORCED_LAYERS]:
            table.add_row(f"  {name}", f"{share:.1%} of steps", "", "", "")
        if len(shares) > FORCED_LAYERS:
            rest = f"  {len(shares) - FORCED_LAYERS} more"
            table.add_row(rest, f"{shares[FORCED_LAYERS][1]:.1%} or less", "", "", "")
    return table


def _shares(report: RunReport) -> Table:
    table = _table("What the encoder met", "mode", "zero", "low", "full")
    for mode in MODES:
        share = summary.shares(report, mode)
        if any(share.values()):
            label = "original (bypassed)" if mode == "original" else mode
            table.add_row(label, *(f"{share[name]:.1%}" for name in ("zero", "low", "full")))
    return table


def _line(report: RunReport) -> Table:
    table = _table("The line to the board", "", "bytes", "seconds")
    carried = line.carried(report)
    for what, nbytes in carried.items():
        table.add_row(what, f"{nbytes:,}", "")
    for name, seconds in line.seconds_on(sum(carried.values())).items():
        table.add_row(f"all of it on {name}", "", f"{seconds:.2f}")
    return table


def _slowest(report: RunReport, count: int) -> Table:
    table = _table("Slowest layers", "layer", "cycles", "share", "modes", "why")
    table.columns[4].justify = table.columns[3].justify = "left"
    table.columns[0].overflow = "fold"  # a name is typed again, so it is never cut
    for row in summary.slowest(report, count):
        table.add_row(row.name, f"{row.cycles:,}", f"{row.share:.1%}", row.modes, row.why)
    return table

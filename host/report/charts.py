# SPDX-License-Identifier: Apache-2.0
"""What the page's charts have in common: colours, words, sizes. Altair makes and checks each specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from ditto_cosim.host.report.summary import CAUSES
from ditto_cosim.protocol.hardware import MODES

MODE_COLOURS = {"original": "#8f99a3", "temporal": "#2a9d8f", "spatial": "#e9a03b"}
SHARE_COLOURS = {"zero": "#9fc5bd", "low": "#2a9d8f", "full": "#c8553d"}
CAUSE_COLOURS = {
    "compute": "#2a9d8f",
    "encode": "#577590",
    "weight_load": "#e9a03b",
    "vector": "#8d6fa8",
    "dram": "#c8553d",
    "fill": "#8f99a3",
    "other": "#bbbbbb",
}
UNIT_COLOURS = {
    "compute": "#2a9d8f",
    "encode": "#577590",
    "vector": "#8d6fa8",
    "defo": "#e9a03b",
    "lane memory": "#9fc5bd",
    "sram": "#7fb069",
    "dram": "#c8553d",
    "leakage": "#8f99a3",
}
WIDTH: Any = "container"


def colour(title: str, colours: dict[str, str], names: Sequence[str] | None = None) -> Any:
    """A nominal colour scale with our colours, its legend above the chart."""
    shown = [n for n in (names or colours) if n in colours]
    scale = alt.Scale(domain=shown, range=[colours[n] for n in shown])
    return alt.Color(title, type="nominal", scale=scale, legend=alt.Legend(title=None, orient="top"))


def causes(names: Sequence[str]) -> dict[str, str]:
    """Colours by the words that a reader sees."""
    return {CAUSES.get(n, n): CAUSE_COLOURS.get(n, "#bbbbbb") for n in names}


def modes(used: Sequence[str]) -> Any:
    return colour("mode", MODE_COLOURS, [m for m in MODES if m in used])


def values(rows: list[dict[str, Any]]) -> Any:
    """Rows that one chart has for itself."""
    return alt.Data(values=rows)  # type: ignore[no-untyped-call]  # Altair's classes of the schema have no types


def shared(name: str) -> Any:
    """Rows that lie in the page (`page.js`)."""
    return alt.NamedData(name)


def finished(chart: Any, height: int) -> dict[str, Any]:
    """As wide as its place, as a specification."""
    made: dict[str, Any] = chart.properties(width=WIDTH, height=height).to_dict()
    made.pop("config", None)  # the page's own, light or dark
    return made

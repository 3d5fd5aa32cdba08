# SPDX-License-Identifier: Apache-2.0
"""A sweep as one picture: a page in which points can be read, zoomed and picked out by design, or a PNG or SVG.

Like the report it needs no network: what draws is inside the page. What this file does not do: price, or choose the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from ditto_cosim.device.pricing.sweep import METRICS, Limit, within
from ditto_cosim.explore import Explored
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import replacing, write_text

SUFFIXES = (".html", ".png", ".svg")


class PlotError(DittoError):
    """A file that a plot cannot become."""


def check_suffix(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise PlotError(f"-o {path}: a plot is written as {', '.join(SUFFIXES)}")
    return path


def draw(found: Explored, limits: Sequence[Limit], path: Path, title: str) -> None:
    chart = _chart(found, limits, title)
    if path.suffix != ".html":
        with replacing(path) as unfinished:
            chart.save(str(unfinished), format=path.suffix[1:])
        return
    import json

    from ditto_cosim.host.report.html import vega

    spec = json.dumps(chart.to_dict()).replace("<", "\\u003c")
    script = vega().replace("</script", "<\\/script")
    write_text(path, _PAGE.replace("TITLE", title).replace("SPEC", spec).replace("SCRIPT", script))


def _chart(found: Explored, limits: Sequence[Limit], title: str) -> Any:
    x, y = (*found.front_over, *(m for m in ("cycles", "energy_pj") if m not in found.front_over))[:2]
    front = set(found.front)
    rows = [
        {**row, "front": i in front, "place": _place(i in front, within(row, limits))}
        for i, row in enumerate(found.rows)
    ]
    fields = [k for k in rows[0] if k not in ("front", "place", "run", *METRICS)]
    shown = alt.selection_point(fields=["design"], bind="legend")
    hovered = alt.selection_point(on="pointerover", nearest=False, empty=False)

    def axis(channel: Any, metric: str) -> Any:
        return channel(
            f"{metric}:Q",
            title=f"{metric} ({METRICS[metric]})",
            scale=alt.Scale(type="log", nice=False, padding=12),
        )

    points = (
        alt.Chart()
        .mark_point(filled=True)
        .encode(
            x=axis(alt.X, x),
            y=axis(alt.Y, y),
            color=alt.Color("design:N", legend=alt.Legend(title="design (click)")),
            shape=alt.Shape("place:N", legend=alt.Legend(title=None)),
            size=alt.condition(hovered, alt.value(220), alt.value(70)),
            opacity=alt.condition(shown, alt.value(0.9), alt.value(0.08)),
            tooltip=[
                *(alt.Tooltip(f"{f}:N", title=f) for f in _escaped(fields)),
                *(alt.Tooltip(f"{m}:Q", format=".4s") for m in METRICS),
            ],
        )
        .add_params(shown, hovered, alt.selection_interval(bind="scales"))
    )
    line = (
        alt.Chart().mark_line(color="#555", strokeDash=[4, 3]).encode(x=f"{x}:Q", y=f"{y}:Q", order=f"{x}:Q")
    )
    line = line.transform_filter("datum.front")
    table = alt.Data(values=[{k.replace(".", " "): v for k, v in row.items()} for row in rows])  # type: ignore[no-untyped-call]  # no types
    layered: Any = alt.layer(line, points, data=table)
    return layered.properties(width=760, height=460, title=title)


def _place(front: bool, held: bool) -> str:
    return "front" if front else "within the limits" if held else "beyond a limit"


def _escaped(fields: Sequence[str]) -> list[str]:
    """A dot would mean a field of a field."""
    return [f.replace(".", " ") for f in fields]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<style>body{font:15px system-ui,sans-serif;margin:2rem;max-width:64rem}p{color:#666}</style></head>
<body><div id="plot"></div>
<p>Point at a mark for its fields; click a design in the legend to see it alone; drag and scroll to move and zoom.</p>
<script>SCRIPT</script>
<script>vegaEmbed("#plot", SPEC, {actions: {export: true, source: false, compiled: false, editor: false}});</script>
</body></html>
"""

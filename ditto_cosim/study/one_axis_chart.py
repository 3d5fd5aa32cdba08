# SPDX-License-Identifier: Apache-2.0
"""The picture of `one_axis.py`: quality against cycles, every way and design in it, a panel a chip.

    save(found["rows"], Path("axis.svg"))       .svg, .png, or .html on which points say what they are

Colour is what is computed, shape the design that computes it; upper left is better. A line through a point is the standard error
of its distance in decibels to every step full, on the same seeds. What this file does not do: measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from ditto_cosim.device.designs.base import load_design
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import replacing

KINDS: Mapping[str, tuple[str, str]] = {
    "full": ("every step, 8 bits", "#264653"),
    "steps": ("fewer steps", "#8f99a3"),
    "reuse": ("reuse", "#e9a03b"),
    "icc": ("ICC", "#2a9d8f"),
    "both": ("fewer steps and a cache", "#8d6fa8"),
    "sq_dm": ("4 bits (SQ-DM)", "#c8553d"),
}
SUFFIXES = (".svg", ".png", ".html")
NAMED_DESIGNS = ("ditto", "sq_dm")
"""Whose points carry the way's name; it stands at the same height for the others."""


class ChartError(DittoError):
    """A file that no chart can be written to."""


def check_path(path: Path) -> None:
    """Refuses a suffix before anything is measured."""
    if path.suffix not in SUFFIXES:
        raise ChartError(f"{path}: a chart is written as {', '.join(SUFFIXES)}")


def chart(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Of the rows of a measurement."""
    shown = [
        {
            "way": r["way"],
            "computed": KINDS[r["kind"]][0],
            "design": load_design(r["design"]).title,
            "chip": r["chip"],
            "Mcycles": r["cycles"] / 1e6,
            "PSNR": r["psnr_db"],
            "low": r["psnr_db"] - (r.get("psnr_over_full_error_db") or 0),
            "high": r["psnr_db"] + (r.get("psnr_over_full_error_db") or 0),
            "mJ": r["energy_j"] * 1e3,
            "label": r["way"] if r["design"] in NAMED_DESIGNS else "",
        }
        for r in rows
        if r["psnr_db"] is not None
    ]
    used = [k for k in KINDS if any(r["kind"] == k for r in rows)]
    scale = alt.Scale(domain=[KINDS[k][0] for k in used], range=[KINDS[k][1] for k in used])
    base = alt.Chart().encode(
        x=alt.X("Mcycles:Q", scale=alt.Scale(type="log", nice=False, padding=24), title="million cycles"),
        y=alt.Y("PSNR:Q", scale=alt.Scale(zero=False, padding=16), title="PSNR to fp32, dB"),
    )  # fmt: skip
    points = base.mark_point(filled=True, size=80, opacity=0.9).encode(
        color=alt.Color("computed:N", scale=scale, title=None),
        shape=alt.Shape("design:N", title=None),
        tooltip=["way:N", "design:N", "chip:N", alt.Tooltip("Mcycles:Q", format=".4~g"), alt.Tooltip("PSNR:Q", format=".2f"),
                 alt.Tooltip("mJ:Q", format=".4~g")],
    )  # fmt: skip
    errors = base.mark_rule(opacity=0.5).encode(
        y=alt.Y("low:Q", scale=alt.Scale(zero=False, padding=16), title="PSNR to fp32, dB"),
        y2="high:Q",
        color=alt.Color("computed:N", scale=scale, title=None),
    )
    names = base.mark_text(align="left", dx=7, dy=-5, fontSize=9, color="#555").encode(text="label:N")
    panel = alt.layer(errors, points, names).properties(width=430, height=300)
    data = alt.Data(values=shown)  # type: ignore[no-untyped-call]  # Altair's classes of the schema have no types
    return panel.facet(
        facet=alt.Facet("chip:N", title=None), columns=2, data=data
    ).resolve_scale(x="independent").configure(background="white")  # fmt: skip


def save(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes it; a page carries all it needs."""
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"inline": True} if path.suffix == ".html" else {}
    with replacing(path) as unfinished:
        chart(rows).save(unfinished, format=path.suffix[1:], **options)

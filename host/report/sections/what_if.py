# SPDX-License-Identifier: Apache-2.0
"""Sliders over chips: tiles, bandwidth and buffer, from prices made in advance."""

from __future__ import annotations

import json

import msgspec
from markupsafe import Markup

from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section | None:
    prices = shown.prices
    if prices is None:
        return None
    titles = {d.name: d.title for d in prices.designs}
    points = [{**msgspec.to_builtins(p), "title": titles.get(p.design, p.design)} for p in prices.what_if]
    tiles = sorted({p.tiles for p in prices.what_if})
    data = json.dumps(points, separators=(",", ":")).replace("<", "\\u003c")
    return Section(
        "what_if",
        "What if the chip were another?",
        {
            "data": Markup(data) if points else "",
            "now": {
                "tiles": tiles[len(tiles) // 2],
                "bytes_per_cycle": prices.peak_bytes_per_cycle,
                "buffer_mb": 0,
            }
            if points
            else {},
            "labels": {
                "tiles": "tiles",
                "bytes_per_cycle": "DRAM bytes a cycle",
                "buffer_mb": "buffer that keeps values, MB",
            },
        },
    )

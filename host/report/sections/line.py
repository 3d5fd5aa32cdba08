# SPDX-License-Identifier: Apache-2.0
"""The line to the board: bytes by what they carried, what they take on real lines, and the layers that move most."""

from __future__ import annotations

from ditto_cosim.host.report import line
from ditto_cosim.host.report.sections.base import Section, Shown

MOST_LAYERS = 12


def section(shown: Shown) -> Section | None:
    carried = line.carried(shown.report)
    total = sum(carried.values())
    if not total:
        return None
    layers = line.layers(shown.report, shown.prices)
    macs = sum(layer.macs for layer in shown.prices.layers) if shown.prices is not None else 0
    return Section(
        "line",
        "The line to the board",
        {
            "rows": [(what, count, count / total) for what, count in carried.items()],
            "total": total,
            "per_mac": total / macs if macs else None,
            "lines": [
                (name, seconds, seconds / len(shown.report.steps))
                for name, seconds in line.seconds_on(total).items()
            ],
            "layers": layers[:MOST_LAYERS],
            "others": max(len(layers) - MOST_LAYERS, 0),
        },
        mark="counted",
    )

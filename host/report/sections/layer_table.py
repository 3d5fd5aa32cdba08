# SPDX-License-Identifier: Apache-2.0
"""Every layer of the run in a table that sorts and searches."""

from __future__ import annotations

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section:
    report = shown.report
    rows = summary.slowest(report, len(report.names))
    traffic = sum(a.sum(0) for a in report.traffic_bytes.values()) if report.traffic_bytes else None
    at = {name: i for i, name in enumerate(report.names)}
    return Section(
        "layer_table",
        "Every layer",
        {
            "rows": [
                (
                    at[r.name],
                    r,
                    0 if traffic is None else int(traffic[at[r.name]]),
                    int(report.slots[:, at[r.name]].sum()),
                )
                for r in rows
            ],
            "columns": (
                "layer",
                "operation",
                "cycles",
                "share",
                "DRAM bytes",
                "slots",
                "modes",
                "why is it slow?",
            ),
            "numeric": ("cycles", "share", "DRAM bytes", "slots"),
        },
    )

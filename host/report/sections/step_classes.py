# SPDX-License-Identifier: Apache-2.0
"""What a full step costs, and what an increment between two of them."""

from __future__ import annotations

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section | None:
    if shown.report.period == 1:
        return None
    rows = summary.step_classes(shown.report)
    return Section("step_classes", "Classes of steps", {"rows": rows})

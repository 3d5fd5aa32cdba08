# SPDX-License-Identifier: Apache-2.0
"""Which conclusions hang on a constant that nobody knows."""

from __future__ import annotations

from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section:
    return Section("robustness", "How far to trust this", {"sentence": shown.report.robust})
